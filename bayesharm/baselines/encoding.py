"""Covariates as columns of numbers, learned from the training scans and the same for every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, listed, shorten


@dataclass(frozen=True, eq=False)
class Encoding:
    """How covariates become columns.

    Attributes
    ----------
    levels : dict
        Levels of each covariate that is categories, in order, the first of which has no column; None for numbers.
    columns : tuple of str
        Columns that are used.
    notes : tuple of str
        What was left out, and why.
    """

    levels: dict[str, tuple[str, ...] | None]
    columns: tuple[str, ...]
    notes: tuple[str, ...]

    def encode(self, scans: pd.DataFrame) -> np.ndarray:
        """(scan, column) float64 array; NaN in rows of scans without a value, or with a category that was not learned."""
        return self._all_columns(scans)[list(self.columns)].to_numpy(float)

    def _all_columns(self, scans: pd.DataFrame) -> pd.DataFrame:
        columns = {}
        for name, levels in self.levels.items():
            given = scans[name] if name in scans else pd.Series(None, scans.index, dtype=object)
            if levels is None:
                values = pd.to_numeric(given, errors="coerce").to_numpy(float)
                columns[name] = np.where(np.isfinite(values), values, np.nan)
                continue
            for level, column in zip(levels[1:], indicators(given, levels).T[1:], strict=True):
                columns[f"{name}={level}"] = np.where(given.isin(levels), column, np.nan)
        return pd.DataFrame(columns, index=scans.index)


def learn_encoding(scans: pd.DataFrame, covariates: Sequence[str], apart_from: np.ndarray) -> Encoding:
    """Columns of covariates that can be told from one another and from other columns of a regression.

    Parameters
    ----------
    scans : DataFrame
        To fit to.
    covariates : sequence of str
        Columns of it. Numbers have a linear effect; text, categories and booleans are categories.
    apart_from : (scan, column) array
        What else is in the regression, such as the columns of the scanners.

    Raises
    ------
    InputError
        A covariate does not exist, or lacks values.
    """
    levels: dict[str, tuple[str, ...] | None] = {}
    for name in dict.fromkeys(covariates):
        if name not in scans:
            raise InputError(
                f"The scans table has no covariate {name!r}.",
                got=f"columns {shorten(scans.columns, 30)}",
                expected="covariates that are columns",
                do="correct the covariates",
            )
        values = scans[name]
        number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        if (bad := values.isna() | (values.isin([np.inf, -np.inf]) if number else False)).any():
            raise InputError(
                f"The covariate {name!r} has missing or infinite values.",
                got=f"no value for scans {shorten(scans['scan_id'][bad])}",
                expected="a value for every scan to fit to",
                do="complete the column, or leave the covariate or those scans out",
            )
        levels[name] = None if number else tuple(sorted(values.unique(), key=str))
    everything = Encoding(levels, (), ())._all_columns(scans)
    kept, columns = [], apart_from
    for name in everything:
        wider = np.column_stack([columns, _standardized(everything[name])])
        if np.linalg.matrix_rank(wider) > np.linalg.matrix_rank(columns):
            kept.append(name)
            columns = wider
    notes = []
    if left_out := [name for name in everything if name not in kept]:
        notes.append(
            f"Left out, since they are the same for all scans or cannot be told from scanners and other covariates: "
            f"{listed(left_out)}; what they do goes with what they cannot be told from."
        )
    return Encoding(levels, tuple(kept), tuple(notes))


def _standardized(values: pd.Series) -> np.ndarray:
    """Without units, so that the rank does not depend on them."""
    centered = (values - values.mean()).to_numpy()
    return centered / max(np.abs(centered).max(), np.finfo(float).tiny)


def indicators(labels: pd.Series, levels: Sequence[str]) -> np.ndarray:
    """0/1 columns (scan, level)."""
    return (labels.to_numpy(object)[:, None] == np.asarray(levels, dtype=object)).astype(float)
