"""Protocol factors: properties that scanners share, such as manufacturer, coil or phase-encoding direction.

They vary between scanners only. A study with a dozen scanners has a dozen observations to separate their effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bayesharm.data.scans import CANONICAL, name_columns
from bayesharm.errors import InputError, ModelError, listed, shorten
from bayesharm.io.tables import to_labels
from bayesharm.model.spec import TAKEN, Family, ModelSpec, is_group_name


def name_factors(spec: ModelSpec, columns: Sequence[str], scans: pd.DataFrame) -> ModelSpec:
    """Return the model with these columns of the scans table as its protocol factors, in place of the default ones.

    Raises
    ------
    ModelError
        The model has no protocol factors.
    InputError
        A column is absent, is named twice, has another use in the model, or has a name that no family can have.
    """
    if not spec.factors:
        raise ModelError(
            f"The model {spec.name!r} has no protocol factors.",
            got=f"protocol {shorten(columns)}",
            expected="a model whose measurement bias is a sum of protocol factors",
            do="use --model protocol, or leave --protocol out",
        )
    if missing := [name for name in columns if name not in scans]:
        raise InputError(
            f"The scans table has no protocol column {shorten(missing)}.",
            got=name_columns(scans),
            expected="protocol factors that are columns",
            do="correct --protocol",
        )
    if wrong := [name for name in columns if name in CANONICAL or list(columns).count(name) > 1]:
        raise InputError(
            f"{shorten(dict.fromkeys(wrong))} cannot be a protocol factor.",
            got=f"--protocol {','.join(columns)}",
            expected="columns, each once, that the model does not use already",
            do="leave it out of --protocol",
        )
    names = {family.name for family in spec.families if not family.is_factor} | {*TAKEN, spec.removed_effect}
    if wrong := [name for name in columns if name in names or not is_group_name(name)]:
        raise InputError(
            f"A protocol factor cannot have the name {shorten(wrong)}.",
            got=f"--protocol {','.join(columns)}",
            expected=f"column names without slash, other than {', '.join(sorted(names))}",
            do="rename the column in the scans table",
        )
    template = spec.factors[0]
    factors = tuple(replace(template, name=name, by=name) for name in columns)
    first = spec.families.index(template)
    before, after = ([f for f in part if not f.is_factor] for part in (spec.families[:first], spec.families[first:]))
    return replace(spec, families=(*before, *factors, *after))


def read_factors(used: pd.DataFrame, spec: ModelSpec) -> tuple[dict[str, pd.Series], list[str]]:
    """Read the level of each scanner, for each protocol factor in the table.

    Parameters
    ----------
    used : DataFrame
        Scans in the model.
    spec : ModelSpec

    Returns
    -------
    factors : dict of Series
        By name of the family; indexed by scanner, sorted.
    notes : list of str
        Sentences about factors without a column.

    Raises
    ------
    ModelError
        The table has none of the factors.
    InputError
        A factor has missing values, differs within a scanner, is the same for all scanners or another one for each, or
        divides the scanners into the same groups as another factor.
    """
    present = [family for family in spec.factors if family.by in used]
    if spec.factors and not present:
        raise ModelError(
            f"The model {spec.name!r} needs protocol columns, and the scans table has none of its own.",
            got=name_columns(used),
            expected=f"at least one of {shorten((family.by for family in spec.factors), 9)}",
            do="name the columns that describe the scanners with --protocol, or use --model traveling_and_cohort",
        )
    notes = [
        f"No column {family.by}: the effect of {family.name} is not estimated but part of the scanner's own effect."
        for family in spec.factors
        if family.by not in used
    ]
    factors: dict[str, pd.Series] = {}
    divided: dict[tuple[int, ...], Family] = {}
    for family in present:
        levels = factors[family.name] = _of_scanners(used, family.by)
        division = tuple(int(code) for code in pd.factorize(levels)[0])
        rest = ",".join(other.by for other in present if other is not family)
        do = f"leave it out: --protocol {rest}" if rest else "use --model traveling_and_cohort"
        if max(division) == 0:
            raise InputError(
                f"The protocol factor {family.by!r} is the same for every scanner in the model.",
                got=str(levels.iloc[0]),
                expected="factors that differ between scanners",
                do=do,
            )
        if len(set(division)) == len(division):
            raise InputError(
                f"The protocol factor {family.by!r} is different for every scanner: it only identifies the scanner.",
                got=f"{len(division)} levels for {len(division)} scanners",
                expected="factors that some scanners have in common",
                do=do,
            )
        if division in divided:
            raise InputError(
                f"The protocol factors {divided[division].by!r} and {family.by!r} divide the scanners into the "
                "same groups: their effects cannot be separated.",
                got=shorten(f"{a}, {b}" for a, b in
                            dict.fromkeys(zip(factors[divided[division].name], levels, strict=True))),
                expected="factors that differ from one another",
                do=do,
            )  # fmt: skip
        divided[division] = family
    return factors, notes


def _of_scanners(used: pd.DataFrame, column: str) -> pd.Series:
    """Return the value of a column for each scanner."""
    labels, missing = to_labels(used[column])
    if missing.any():
        raise InputError(
            f"The protocol factor {column!r} has missing values.",
            got=f"no value for {missing.sum()} scans, of the scanners {shorten(used.scanner[missing].unique())}",
            expected="a value for every scan",
            do="complete the column, or leave it out of --protocol",
        )
    by_scanner = pd.Series(labels.astype(object), used.index).groupby(used.scanner)
    if len(differ := by_scanner.nunique().loc[lambda n: n > 1].index):
        raise InputError(
            f"The protocol factor {column!r} differs within a scanner.",
            got=f"{shorten(by_scanner.unique()[differ[0]])} on {differ[0]!r}"
            + (f", and so on {len(differ) - 1} more" if len(differ) > 1 else ""),
            expected="one value for each scanner: a scanner with another protocol counts as another scanner",
            do="give each protocol of a scanner a name of its own in the scanner column",
        )
    return by_scanner.first()


def count_contrasts(factors: dict[str, np.ndarray]) -> pd.DataFrame:
    """Count the contrasts of each factor, and those that the other factors cannot reproduce.

    Parameters
    ----------
    factors : dict of (scanner, level) arrays
        Indicators of the level of each scanner.

    Returns
    -------
    DataFrame by factor
        ``contrasts`` (levels − 1), ``own`` (contrasts that the other factors together cannot reproduce), and
        ``mimicked_by``: factors that alone reproduce one of the other contrasts; all others where only several together do.
    """
    rows = {}
    for name, levels in factors.items():
        others = {other: columns for other, columns in factors.items() if other != name}
        n, own = levels.shape[1] - 1, _beyond(levels, list(others.values()))
        alone = [other for other, columns in others.items() if _beyond(levels, [columns]) < n]
        rows[name] = {"contrasts": n, "own": own, "mimicked_by": (alone or list(others)) if own < n else []}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["contrasts", "own", "mimicked_by"]).rename_axis("factor")


def _beyond(levels: np.ndarray, others: list[np.ndarray]) -> int:
    """Return the rank that levels add to the constant and the other factors."""
    rest = np.column_stack([np.ones(len(levels)), *others])
    return int(np.linalg.matrix_rank(np.column_stack([rest, levels])) - np.linalg.matrix_rank(rest))


def on_factors(factors: pd.DataFrame, n_scanners: int) -> list[str]:
    """Describe in sentences which protocol factors can be separated, from a table of :func:`count_contrasts`."""
    if factors.empty:
        return []
    sentences = [
        f"{listed(factors.index)}: protocol factors differ between scanners only. These {n_scanners} scanners must separate "
        "the factors from one another and from the scanners' own effects."
    ]
    for name, row in factors[factors.own < factors.contrasts].iterrows():
        sentences.append(
            f"{name}: {row.contrasts - row.own} of {row.contrasts} contrasts can also be differences between levels of "
            f"{listed(row.mimicked_by)}: only their priors separate them."
        )
    return sentences
