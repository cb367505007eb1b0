"""Time series of one scan, and scans whose time series are read when needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Series:
    """Region time series of one scan.

    Attributes
    ----------
    values : (volume, region) array
        NaN where a value is missing.
    regions : tuple of str or None
        Names of the regions; None if the source has none.
    n_left_out : int
        Volumes of the scan that are not in `values`.
    n_regressors : int
        Regressors that were removed from `values`, if known.
    columns : dict
        Further numbers on the scan, such as mean framewise displacement.
    """

    values: np.ndarray
    regions: tuple[str, ...] | None
    n_left_out: int = 0
    n_regressors: int = 0
    columns: dict[str, float] | None = None


@dataclass(frozen=True, eq=False)
class ScanSource:
    """A scan whose time series can be read.

    Attributes
    ----------
    scan_id : str
    origin : str
        File, for messages and the table of scans.
    read : callable
        Returns the `Series`.
    """

    scan_id: str
    origin: str
    read: Callable[[], Series]
