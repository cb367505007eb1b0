"""The scans in a model: those of everybody, or of travelers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.data.scans import find_site_travelers, find_travelers
from bayesharm.errors import ModelError, shorten
from bayesharm.model.column_families import read_columns
from bayesharm.model.noise_classes import read_relative_noise
from bayesharm.model.protocol_factors import read_factors
from bayesharm.model.spec import ModelSpec


@dataclass(frozen=True)
class UsedScans:
    """The scans in a model, and the facts that all terms read from them.

    Attributes
    ----------
    table : DataFrame
        One row a scan, with the index 0, 1, ….
    rows : (scan,) int array
        Rows of these scans in the whole table.
    is_traveler, is_site_traveler, is_repeat_scanned : (scan,) bool arrays
        Whether the participant is a traveler, is one between sites, and has several scans.
    scanners : tuple of str
        Sorted.
    factors : mapping of Series
        Level of each scanner, by protocol factor.
    columns : mapping of Series
        Level of each scan, by family whose levels are those of columns.
    relative_noise : (scan,) array
        Relative noise variances; 1 in a model that does not know them.
    reference : str
        The reference diagnosis.
    """

    table: pd.DataFrame
    rows: np.ndarray
    is_traveler: np.ndarray
    is_site_traveler: np.ndarray
    is_repeat_scanned: np.ndarray
    scanners: tuple[str, ...]
    factors: Mapping[str, pd.Series]
    columns: Mapping[str, pd.Series]
    relative_noise: np.ndarray
    reference: str


def select_scans(scans: pd.DataFrame, spec: ModelSpec, check: bool = True) -> tuple[UsedScans, list[str]]:
    """Select the scans of the participants in a model; with notes on scans and factors that were left out.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    spec : ModelSpec
    check : bool
        Whether to check the levels of families by columns; those of scan patterns are not those of scans.

    Raises
    ------
    ModelError
        The study lacks travelers or protocol columns that the model needs.
    InputError
        A protocol factor cannot be used.
    """
    is_traveler = find_travelers(scans)
    if spec.requires_travelers and scans.groupby("participant_id").scanner.nunique().max() < 2:
        raise ModelError(
            f"The model {spec.name!r} needs traveling subjects, and nobody was scanned on two or more scanners.",
            got=f"{scans.participant_id.nunique()} participants, each on one scanner",
            expected="at least one participant_id on two or more scanners",
            do="check the participant column, or use --model cohort (its site effect is measurement and "
            "sampling bias together)",
        )
    rows = np.flatnonzero(is_traveler) if spec.participants == "travelers" else np.arange(len(scans))
    used, is_traveler = scans.iloc[rows].reset_index(drop=True), is_traveler[rows]
    is_repeat_scanned = used.participant_id.map(used.participant_id.value_counts()).to_numpy() > 1
    scanners = tuple(sorted(used.scanner.unique()))
    notes = []
    if n_unused := len(scans) - len(rows):
        notes.append(f"{n_unused} scans of people who did not travel are not used by this model.")
    if left_out := sorted(set(scans.scanner) - set(scanners)):
        notes.append(f"No traveling subject was scanned on {shorten(left_out)}: this model does not estimate its effect.")
    notes += _on_contradictions(used, is_traveler, spec)
    factors, factor_notes = read_factors(used, spec)
    columns = read_columns(used, spec, check)
    study = UsedScans(
        used,
        rows,
        is_traveler,
        find_site_travelers(scans)[rows],
        is_repeat_scanned,
        scanners,
        factors,
        columns,
        read_relative_noise(used, spec),
        spec.reference,
    )
    return study, notes + factor_notes


def _on_contradictions(used: pd.DataFrame, is_traveler: np.ndarray, spec: ModelSpec) -> list[str]:
    """Sentences about contradictions in the table, and about effects that the model cannot separate."""
    notes, people = [], used.groupby("participant_id")
    if "traveling" in used:
        denied = used.participant_id[is_traveler & ~people.traveling.transform("any")].unique()
        if len(denied):
            notes.append(f"Marked as not traveling, but scanned on several scanners, and so travelers: {shorten(denied)}.")
    follows = any(family.by == "participant" for family in spec.slopes)
    if follows and is_traveler.any() and (used.site == used.scanner).all():
        notes.append(
            "Each scanner counts as a site of its own. If scanners of one site were upgraded or replaced, name their site "
            "in a column `site`: otherwise what its people have in common is attributed to its scanners."
        )
    if "diagnosis" in used and len(changed := people.diagnosis.nunique().loc[lambda n: n > 1].index):
        notes.append(f"Of more than one diagnosis: {shorten(changed)}; each scan counts under its own.")
    return notes
