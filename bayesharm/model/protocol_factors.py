"""Protocol factors: what scanners have in common, such as manufacturer, coil or phase-encoding direction.

They vary between scanners only, so that a dozen scanners are all there is to tell one factor from another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bayesharm.data.scans import CANONICAL
from bayesharm.errors import InputError, ModelError, listed, shorten
from bayesharm.io.tables import to_labels
from bayesharm.model.spec import Family, ModelSpec


def name_factors(spec: ModelSpec, columns: Sequence[str], scans: pd.DataFrame) -> ModelSpec:
    """The model with these columns of the scans table as its protocol factors, in place of its own.

    Raises
    ------
    ModelError
        The model has no protocol factors.
    InputError
        A column is not there, is named twice, or is one that the model uses otherwise.
    """
    if not spec.factors:
        raise ModelError(
            f"The model {spec.name!r} has no protocol factors.",
            got=f"protocol {shorten(columns)}",
            expected="a model whose measurement bias is made of them",
            do="use --model protocol, or leave --protocol out",
        )
    if missing := [name for name in columns if name not in scans]:
        raise InputError(
            f"The scans table has no protocol column {shorten(missing)}.",
            got=f"columns {shorten(scans.columns, 30)}",
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
    own = spec.factors[0]
    named = tuple(replace(own, name=name, grouping=name) for name in columns)
    first = spec.families.index(own)
    others = [tuple(f for f in part if not f.is_factor) for part in (spec.families[:first], spec.families[first:])]
    return replace(spec, families=(*others[0], *named, *others[1]))


def read_factors(used: pd.DataFrame, spec: ModelSpec, notes: list[str]) -> dict[str, pd.Series]:
    """Level of each scanner, for each protocol factor of a model that the table has.

    Parameters
    ----------
    used : DataFrame
        Scans that the model uses.
    spec : ModelSpec
    notes : list of str
        Receives a sentence about factors that are left out.

    Returns
    -------
    dict of Series
        By name of the family; indexed by scanner, sorted.

    Raises
    ------
    ModelError
        None of the factors is there.
    InputError
        A factor has missing values, differs within a scanner, is the same everywhere, or divides the scanners as another
        one does, or into single ones.
    """
    there = [family for family in spec.factors if family.grouping in used]
    if spec.factors and not there:
        raise ModelError(
            f"The model {spec.name!r} needs protocol columns, and the scans table has none of its own.",
            got=f"columns {shorten(used.columns, 30)}",
            expected=f"at least one of {shorten((family.grouping for family in spec.factors), 9)}",
            do="name the columns that describe the scanners with --protocol, or use --model traveling_and_cohort",
        )
    notes += [
        f"No column {family.grouping}: nothing is said about {family.name}, which is part of what is left of the scanner."
        for family in spec.factors if family.grouping not in used
    ]  # fmt: skip
    factors: dict[str, pd.Series] = {}
    divided: dict[tuple[int, ...], Family] = {}
    for family in there:
        levels = factors[family.name] = _of_scanners(used, family.grouping)
        division = tuple(int(code) for code in pd.factorize(levels)[0])
        rest = ",".join(other.grouping for other in there if other is not family)
        do = f"leave it out: --protocol {rest}" if rest else "use --model traveling_and_cohort"
        if max(division) == 0:
            raise InputError(
                f"The protocol factor {family.grouping!r} is the same for every scanner that the model uses.",
                got=str(levels.iloc[0]),
                expected="factors that differ between scanners",
                do=do,
            )
        if len(set(division)) == len(division):
            raise InputError(
                f"The protocol factor {family.grouping!r} is another one for every scanner, so that it says nothing but "
                "which "
                "scanner it is.",
                got=f"{len(division)} levels for {len(division)} scanners",
                expected="factors that some scanners have in common",
                do=do,
            )
        if division in divided:
            raise InputError(
                f"The protocol factors {divided[division].grouping!r} and {family.grouping!r} divide the scanners "
                "alike: nothing tells "
                "them apart.",
                got=shorten(f"{a}, {b}" for a, b in
                            dict.fromkeys(zip(factors[divided[division].name], levels, strict=True))),
                expected="factors that differ from one another",
                do=do,
            )  # fmt: skip
        divided[division] = family
    return factors


def _of_scanners(used: pd.DataFrame, column: str) -> pd.Series:
    """What a column says about each scanner."""
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
            expected="one value for each scanner: a scanner with another protocol is another one",
            do="give each protocol of a scanner a name of its own in the scanner column",
        )
    return by_scanner.first()


def count_contrasts(factors: dict[str, np.ndarray]) -> pd.DataFrame:
    """How many differences between the levels of a factor are not differences between levels of others too.

    Parameters
    ----------
    factors : dict of (scanner, level) arrays
        Ones where a scanner has a level.

    Returns
    -------
    DataFrame by factor
        ``contrasts`` (levels − 1), ``own`` (those that the other factors together cannot mimic), and ``mimicked_by``: the
        factors of which one alone has such a contrast, or all others where only several together do.
    """
    rows = {}
    for name, levels in factors.items():
        others = {other: columns for other, columns in factors.items() if other != name}
        n, own = levels.shape[1] - 1, _beyond(levels, list(others.values()))
        alone = [other for other, columns in others.items() if _beyond(levels, [columns]) < n]
        rows[name] = {"contrasts": n, "own": own, "mimicked_by": (alone or list(others)) if own < n else []}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["contrasts", "own", "mimicked_by"]).rename_axis("factor")


def _beyond(levels: np.ndarray, others: list[np.ndarray]) -> int:
    """Dimensions that levels add to the constant and to other factors."""
    rest = np.column_stack([np.ones(len(levels)), *others])
    return int(np.linalg.matrix_rank(np.column_stack([rest, levels])) - np.linalg.matrix_rank(rest))


def on_factors(factors: pd.DataFrame, n_scanners: int) -> list[str]:
    """What tells protocol factors apart, and what does not: sentences on a table of :func:`count_contrasts`."""
    if factors.empty:
        return []
    sentences = [
        f"{listed(factors.index)}: protocol factors differ between scanners only, and {n_scanners} scanners are all there "
        "is to tell them from one another and from what is particular to a scanner."
    ]
    for name, row in factors[factors.own < factors.contrasts].iterrows():
        sentences.append(
            f"{name}: {row.contrasts - row.own} of {row.contrasts} contrasts can be differences between levels of "
            f"{listed(row.mimicked_by)} as well: only their priors tell them apart."
        )
    return sentences
