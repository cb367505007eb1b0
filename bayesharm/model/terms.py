"""The columns of a design, block by block: the mean, one block for each family of effects, the covariates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.errors import ModelError, shorten
from bayesharm.model.spec import Family, ModelSpec

FIXED = -1  # scale index of columns whose prior sd is fixed: the mean and the covariates


@dataclass(frozen=True)
class Block:
    """Columns of one family, or the mean, or the covariates.

    Attributes
    ----------
    name : str
        `mean`, `covariate` or a family's name.
    levels : tuple of str
    matrix : (scan, level) sparse matrix
    scales : (level,) int array
        Which scale each level has (index into ``Design.scales``), or ``FIXED``.
    centered : bool
        Whether its effects are reported against the mean of the levels that share a scale, or as they are.
    weight : float or (level,) array
        What reported effects are multiplied by.
    fixed_sd : float
        Prior sd where the scale is ``FIXED``, in standard deviations of the feature.
    """

    name: str
    levels: tuple[str, ...]
    matrix: sparse.csr_array
    scales: np.ndarray
    centered: bool
    fixed_sd: float = np.inf
    weight: float | np.ndarray = 1.0


def levels_by(spec: ModelSpec, name: str) -> str:
    """What the levels of a family or block are; those of a protocol factor have its name."""
    return next((family.grouping for family in spec.families if family.name == name and not family.is_factor), name)


def family_levels(
    family: Family,
    used: pd.DataFrame,
    traveling: np.ndarray,
    repeated: np.ndarray,
    spec: ModelSpec,
    scanners: Sequence[str],
    factors: Mapping[str, pd.Series],
    notes: list[str],
) -> tuple[np.ndarray, list[str], list[str]] | None:
    """Level of each scan (or None), the scale of each level, and the levels; None if there is nothing."""
    if family.is_factor:
        if family.name not in factors:
            return None
        names = sorted(factors[family.name].unique())
        return used.scanner.map(factors[family.name]).to_numpy(object), [family.name] * len(names), names
    if family.grouping == "scanner":
        return used.scanner.to_numpy(object), [family.name] * len(scanners), list(scanners)
    if family.grouping == "participant":
        names = sorted(used.participant_id[repeated].unique())
        if not names:
            notes.append("Nobody was scanned twice: participant effects are part of the noise.")
            return None
        labels = used.participant_id.where(repeated, None).to_numpy(object)
        return labels, [family.name] * len(names), names
    if family.grouping == "diagnosis":
        if "diagnosis" not in used:
            notes.append(f"No diagnosis column: no {family.name} effects.")
            return None
        present = sorted(used.diagnosis.unique())
        if spec.reference not in present:
            raise ModelError(
                f"The reference diagnosis {spec.reference!r} is not in the table.",
                got=f"diagnoses {shorten(present)}",
                expected=f"some scans with diagnosis {spec.reference!r}",
                do="name the reference group with --reference, or leave the diagnosis column out",
            )
        names = [name for name in present if name != spec.reference]
        if not names:
            notes.append(f"Everybody is {spec.reference!r}: no {family.name} effects.")
            return None
        return used.diagnosis.to_numpy(object), [family.name] * len(names), names
    return _populations(family, used, traveling, spec.reference, notes)


def _populations(family: Family, used: pd.DataFrame, traveling: np.ndarray, reference: str, notes: list[str]):
    """Populations (site × diagnosis) of people who did not travel; of patients only where they are from two sites or more.

    A reference group from one site keeps its term: without it, how these people differ would be taken for what their
    scanner does.
    """
    cohort = used[~traveling]
    if cohort.empty:
        notes.append(f"Everybody traveled: no {family.name} effects.")
        return None
    has_diagnosis = "diagnosis" in used
    labels = pd.Series(np.full(len(used), None, object))
    groups, names = [], []
    for diagnosis, people in cohort.groupby("diagnosis") if has_diagnosis else [("everybody", cohort)]:
        sites = sorted(people.site.unique())
        if len(sites) < 2 and has_diagnosis and diagnosis != reference:
            notes.append(
                f"{diagnosis}: recruited at {shorten(sites)} only, so that its sampling bias cannot "
                "be told from its disorder effect and is part of it."
            )
            continue
        if len(sites) < 2:
            notes.append(
                f"{diagnosis}: recruited at {shorten(sites)} only; how these people differ from others is kept apart "
                "from what the scanner does, and not reported, since there is no other site to compare with."
            )
        label = people.site + "/" + str(diagnosis) if has_diagnosis else people.site
        labels[people.index] = label
        names += sorted(label.unique())
        group = f"{family.name}_{diagnosis}" if family.split and has_diagnosis else family.name
        groups += [group] * len(sites)
    return (labels.to_numpy(object), groups, names) if names else None


def sized_biases(
    spec: ModelSpec, columns: Sequence[str], scanners: Sequence[str], with_travelers: Collection[int]
) -> np.ndarray:
    """The scanner whose biases have a size of their own, for each column; -1 for others.

    Where populations have effects, a scanner that nobody but its own people was on may be far from the others for either
    reason, so that nothing tells how large its biases are. Of two scanners only the difference is seen, and not whose it is.

    Parameters
    ----------
    spec : ModelSpec
    columns : sequence of str
        ``family:level``.
    scanners : sequence of str
    with_travelers : collection of int
        Which of them travelers were on.
    """
    found = np.full(len(columns), -1, np.int32)
    if spec.bias_ratio != "scanner" or len(scanners) < 3:
        return found
    apart = any(family.grouping == "population" for family in spec.families)
    known = {scanners[k] for k in with_travelers} if apart else set(scanners)
    by_scanner = [family.name for family in spec.families if family.grouping == "scanner"]
    for k, column in enumerate(columns):
        family, _, level = column.partition(":")
        if family in by_scanner and level in known:
            found[k] = list(scanners).index(level)
    return found


def indicators(codes: np.ndarray, n_levels: int) -> sparse.csr_array:
    scan = np.flatnonzero(codes >= 0)
    return sparse.csr_array((np.ones(len(scan)), (scan, codes[scan])), shape=(len(codes), n_levels))


def mean_block(n_scans: int, spec: ModelSpec) -> Block:
    return Block(
        "mean",
        ("mean",),
        sparse.csr_array(np.ones((n_scans, 1))),
        np.array([FIXED]),
        False,
        spec.priors.mean_sd,
    )
