"""Relative noise variances of scans that are amounts of data, or differ too much to be variances."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.data.screening.words import with_values

MOST = 100.0  # ratio of relative variances: that of 10 minutes and 6 seconds of data
UNUSUAL = 10.0  # ratio of typical variances of new scans and those of the fit, from which on it is reported
EXPECTED = "relative variances, such as 1 / volumes or 1 / seconds of data"
LEAST_AMOUNT = 10.0  # from which all values are rather seconds or volumes than their inverse


def screen_weights(scans: pd.DataFrame, name: str) -> Iterator[Finding]:
    """Find noise weights that look like amounts of data, and weights that are far apart.

    Parameters
    ----------
    scans : DataFrame
    name : str
        Column of relative noise variances; empty for none. Values that are no variances are left to the model.
    """
    if (values := _read_variances(scans, name)) is None:
        return
    if (values > LEAST_AMOUNT).all() and np.ptp(values) > 0:
        yield Finding(
            "noise-weight",
            "caveat",
            f"The noise weights {name!r} look like amounts of data: scans with more of them count as noisier.",
            got=f"values from {values.min():g} to {values.max():g}, all above {LEAST_AMOUNT:g}",
            expected=EXPECTED,
            do=f"if more means less noise, name a column of relative variances, 1 / {name}",
            columns=(name,),
        )
    if (ratio := values.max() / values.min()) > MOST:
        farthest = np.argsort(-np.abs(np.log(values / np.median(values))))[:3]
        labels = scans["scan_id"].to_numpy()[farthest]
        yield Finding(
            "noise-weight",
            "caveat",
            f"The noise weights {name!r} differ by a factor of {ratio:,.0f}.",
            got="farthest from the median, "
            f"{np.median(values):g}: {with_values(list(labels), [f'{value:g}' for value in values[farthest]])}",
            expected=f"{EXPECTED}, that differ by a factor of at most {MOST:g}",
            do="correct these values: scans with a large weight hardly count, and a small one outweighs all others",
            scans=tuple(map(str, labels)),
            columns=(name,),
        )


def compare_weights(scans: pd.DataFrame, name: str, unit: float) -> Iterator[Finding]:
    """Find noise weights of new scans that are in other units than those of the fit.

    Parameters
    ----------
    scans : DataFrame
    name : str
        Column of relative noise variances. Values that are no variances are left to the model.
    unit : float
        Geometric mean of these variances in the fit.
    """
    if (values := _read_variances(scans, name)) is None:
        return
    typical = np.exp(np.log(values).mean())
    if (ratio := max(typical / unit, unit / typical)) <= UNUSUAL:
        return
    size, noise = ("larger", "hardly count") if typical > unit else ("smaller", "outweigh those of the fit")
    yield Finding(
        "noise-weight",
        "error" if ratio > MOST else "caveat",
        f"The noise weights {name!r} are {ratio:,.0f} times {size} than in the fit: the new scans {noise}.",
        got=f"{typical:g} (geometric mean), and {unit:g} in the fit",
        expected="relative variances in the units of the fit",
        do=f"compute {name!r} as for the fit; for scans whose precision is not known, give {unit:g}",
        columns=(name,),
    )


def _read_variances(scans: pd.DataFrame, name: str) -> np.ndarray | None:
    """Return the values of a column, (scan,); None if there is none, or if some are no variances."""
    if not name or name not in scans or not len(scans) or not pd.api.types.is_numeric_dtype(scans[name]):
        return None
    values = scans[name].to_numpy(float)
    return values if (np.isfinite(values) & (values > 0)).all() else None
