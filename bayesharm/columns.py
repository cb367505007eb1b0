"""The columns of a design, block by block: the mean, one block for each family of effects, the covariates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.errors import InputError, ModelError, shorten
from bayesharm.scans import IDENTIFIERS
from bayesharm.spec import Family, ModelSpec

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
    centred : bool
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
    centred: bool
    fixed_sd: float = np.inf
    weight: float | np.ndarray = 1.0


@dataclass(frozen=True)
class Covariate:
    """A column that a covariate makes: numbers as they are, or whether a category applies; standardized.

    Attributes
    ----------
    level : str
        Name of the column.
    name : str
        The covariate.
    category : str or None
        What the column is about, if the covariate has categories.
    categories : tuple of str
        All that there are, the first of which has no column.
    mean, sd : float
        Of the column over the scans that the model uses.
    """

    level: str
    name: str
    category: str | None
    categories: tuple[str, ...]
    mean: float
    sd: float


def levels_by(spec: ModelSpec, name: str) -> str:
    """What the levels of a family or block are; those of a protocol factor have its name."""
    return next((family.by for family in spec.families if family.name == name and not family.is_factor), name)


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
    if family.by == "scanner":
        return used.scanner.to_numpy(object), [family.name] * len(scanners), list(scanners)
    if family.by == "participant":
        names = sorted(used.participant_id[repeated].unique())
        if not names:
            notes.append("Nobody was scanned twice: participant effects are part of the noise.")
            return None
        labels = used.participant_id.where(repeated, None).to_numpy(object)
        return labels, [family.name] * len(names), names
    if family.by == "diagnosis":
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
    apart = any(family.by == "population" for family in spec.families)
    known = {scanners[k] for k in with_travelers} if apart else set(scanners)
    by_scanner = [family.name for family in spec.families if family.by == "scanner"]
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


def covariate_block(used: pd.DataFrame, covariates: Sequence[Covariate], spec: ModelSpec) -> Block:
    """Standardized covariates."""
    columns = [(covariate_values(used, each) - each.mean) / each.sd for each in covariates]
    fixed, weight = np.full(len(columns), FIXED), 1 / np.array([each.sd for each in covariates])
    levels = tuple(each.level for each in covariates)
    return Block("covariate", levels, sparse.csr_array(np.column_stack(columns)), fixed, False, spec.priors.slope_sd, weight)


def covariate_values(used: pd.DataFrame, covariate: Covariate) -> np.ndarray:
    """Numbers, or 1 where a category applies; refuses what the covariate cannot be."""
    _check_values(used, covariate.name)
    values = used[covariate.name]
    if covariate.category is None:
        if not pd.api.types.is_numeric_dtype(values):
            raise InputError(
                f"The covariate {covariate.name!r} is not a number, as it was in the fit.",
                got=shorten(values.unique()),
                expected="numbers",
                do="correct the column",
            )
        return values.to_numpy(float)
    labels = values.astype(str)
    if len(unknown := set(labels) - set(covariate.categories)):
        raise InputError(
            f"The covariate {covariate.name!r} has categories that the fit has not seen.",
            got=shorten(sorted(unknown)),
            expected=f"some of {shorten(covariate.categories, 20)}",
            do="write categories as in the fit, or leave these scans out",
        )
    return (labels == covariate.category).to_numpy(float)


def find_covariates(used: pd.DataFrame, spec: ModelSpec) -> tuple[Covariate, ...]:
    """The columns of covariates: numbers as they are, categories as indicators against their first level.

    Raises
    ------
    InputError
        A covariate is not there, is used already, is constant, or has values that it cannot have.
    """
    missing = [name for name in spec.covariates if name not in used]
    if missing:
        raise InputError(
            f"The scans table has no covariate {shorten(missing)}.",
            got=f"columns {shorten(used.columns, 30)}",
            expected="covariates that are columns",
            do="correct --covariates",
        )
    if own := [name for name in dict.fromkeys(spec.covariates) if name in IDENTIFIERS]:
        raise InputError(
            f"{shorten(own)} cannot be a covariate.",
            got=f"--covariates {','.join(spec.covariates)}",
            expected="columns that the model does not use already",
            do="leave it out of --covariates",
        )
    return tuple(covariate for name in dict.fromkeys(spec.covariates) for covariate in _columns_of(used, name))


def _check_values(used: pd.DataFrame, name: str) -> None:
    values = used[name]
    if values.dtype.kind in "Mm":
        raise InputError(
            f"The covariate {name!r} is neither numbers nor categories.",
            got=str(values.dtype),
            expected="numbers or text",
            do="make it a number, such as years since a date",
        )
    if (bad := values.isna() | values.isin([np.inf, -np.inf])).any():
        raise InputError(
            f"The covariate {name!r} has missing or infinite values.",
            got=f"no value for scans {shorten(used.scan_id[bad])}",
            expected="a value for every scan",
            do="complete the column or leave those scans out",
        )


def _columns_of(used: pd.DataFrame, name: str) -> list[Covariate]:
    """What one covariate becomes."""
    _check_values(used, name)
    values = used[name]
    if values.nunique() < 2:
        raise InputError(
            f"The covariate {name!r} is the same for every scan that the model uses.",
            got=str(values.iloc[0]),
            expected="covariates that vary",
            do="leave it out of --covariates",
        )
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(float)
        return [Covariate(name, name, None, (), float(numbers.mean()), float(numbers.std()))]
    is_number = pd.to_numeric(values.astype(str), errors="coerce").notna()
    if 0.5 <= is_number.mean() < 1:
        raise InputError(
            f"The covariate {name!r} is numbers, but for some values.",
            got=f"{shorten(values[~is_number].unique())}, of scans {shorten(used.scan_id[~is_number])}",
            expected="numbers only, or categories",
            do="correct these values or leave those scans out; if they are categories, give each a name that is no number",
        )
    categories = values.astype("category").cat.remove_unused_categories()
    if (n_levels := len(categories.cat.categories)) > max(20, len(values) // 10):
        raise InputError(
            f"The covariate {name!r} has too many categories.",
            got=f"{n_levels} for {len(values)} scans, such as {shorten(categories.cat.categories)}",
            expected="a number, or a few categories",
            do="leave identifiers out of --covariates",
        )
    labels, names = categories.astype(str), tuple(str(category) for category in categories.cat.categories)
    shares = [float((labels == category).mean()) for category in names]
    return [
        Covariate(f"{name}_{category}", name, category, names, share, (share * (1 - share)) ** 0.5)
        for category, share in zip(names[1:], shares[1:], strict=True)
    ]
