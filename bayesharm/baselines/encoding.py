"""Encoding of covariates as numeric columns, defined by the training scans and equal for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from bayesharm.data.scans import name_columns
from bayesharm.errors import InputError, listed, shorten


@dataclass(frozen=True, eq=False)
class Encoding:
    """Encoding of covariates.

    Attributes
    ----------
    levels : dict
        Covariate -> its levels, if it is categorical; the first level is the reference without a column. None for numeric
        covariates.
    columns : tuple of str
        Columns of the encoding, without redundant ones.
    notes : tuple of str
        Omitted columns, and why.
    interactions : tuple of tuple of str
        Covariates whose columns are multiplied.
    """

    levels: dict[str, tuple[str, ...] | None]
    columns: tuple[str, ...]
    notes: tuple[str, ...]
    interactions: tuple[tuple[str, ...], ...] = ()

    def encode(self, scans: pd.DataFrame) -> np.ndarray:
        """Return a (scan, column) float64 array; NaN for missing values and for categories absent from training."""
        return self._all_columns(scans)[list(self.columns)].to_numpy(float)

    def _all_columns(self, scans: pd.DataFrame) -> pd.DataFrame:
        single: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.levels}
        for name, levels in self.levels.items():
            raw = scans[name] if name in scans else pd.Series(None, scans.index, dtype=object)
            if levels is None:
                values = pd.to_numeric(raw, errors="coerce").to_numpy(float)
                single[name][name] = np.where(np.isfinite(values), values, np.nan)
                continue
            for level, column in zip(levels[1:], indicators(raw, levels).T[1:], strict=True):
                single[name][f"{name}={level}"] = np.where(raw.isin(levels), column, np.nan)
        columns = {label: column for group in single.values() for label, column in group.items()}
        for names in self.interactions:
            for labels in product(*(single[name] for name in names)):
                columns[":".join(labels)] = np.prod([columns[label] for label in labels], axis=0)
        return pd.DataFrame(columns, index=scans.index)


def learn_encoding(scans: pd.DataFrame, covariates: Sequence[str], other_columns: np.ndarray) -> Encoding:
    """Encode covariates, omitting columns that are linear combinations of earlier ones.

    Parameters
    ----------
    scans : DataFrame
        Training scans.
    covariates : sequence of str
        Columns of `scans`. Numbers have a linear effect; text, categories and booleans are categorical. ``a:b`` is the
        interaction of two of them, and adds the effects of both.
    other_columns : (scan, column) array
        Other columns of the regression, such as scanner indicators, which take precedence.

    Returns
    -------
    Encoding

    Raises
    ------
    InputError
        A covariate does not exist or has missing values.
    """
    levels: dict[str, tuple[str, ...] | None] = {}
    interactions = tuple(tuple(name.split(":")) for name in dict.fromkeys(covariates) if name not in scans and ":" in name)
    whole = [name for name in covariates if name in scans or ":" not in name]
    for name in dict.fromkeys([*whole, *(part for parts in interactions for part in parts)]):
        if name not in scans:
            raise InputError(
                f"The scans table has no covariate {name!r}.",
                got=name_columns(scans),
                expected="covariates among the columns",
                do="correct the covariates",
            )
        values = scans[name]
        is_numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        if (is_bad := values.isna() | (values.isin([np.inf, -np.inf]) if is_numeric else False)).any():
            raise InputError(
                f"The covariate {name!r} has missing or infinite values.",
                got=f"no value for scans {shorten(scans['scan_id'][is_bad])}",
                expected="a value for every training scan",
                do="complete the column, or omit the covariate or these scans",
            )
        levels[name] = None if is_numeric else tuple(sorted(values.unique(), key=str))
    all_columns = Encoding(levels, (), (), interactions)._all_columns(scans)
    kept, columns = [], other_columns
    for name in all_columns:
        extended = np.column_stack([columns, _standardized(all_columns[name])])
        if np.linalg.matrix_rank(extended) > np.linalg.matrix_rank(columns):
            kept.append(name)
            columns = extended
    notes = []
    if omitted := [name for name in all_columns if name not in kept]:
        notes.append(
            f"Omitted, because constant or collinear with scanners or other covariates: {listed(omitted)}. "
            f"Their effects are attributed to the columns that they are collinear with."
        )
    return Encoding(levels, tuple(kept), tuple(notes), interactions)


def _standardized(values: pd.Series) -> np.ndarray:
    """Center and divide by the largest absolute value, so that the matrix rank does not depend on units."""
    centered = (values - values.mean()).to_numpy()
    return centered / max(np.abs(centered).max(), np.finfo(float).tiny)


def indicators(labels: pd.Series, levels: Sequence[str]) -> np.ndarray:
    """Return 0/1 indicator columns, (scan, level)."""
    return (labels.to_numpy(object)[:, None] == np.asarray(levels, dtype=object)).astype(float)
