"""Connectivity from region time series: one correlation per pair of regions and scan, aligned over scans by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from bayesharm.data.timeseries.computation import compute_all
from bayesharm.data.timeseries.estimation import Measure
from bayesharm.data.timeseries.files import check_path, write_files
from bayesharm.data.timeseries.sources import TimeSeries, find_scans
from bayesharm.errors import InputError
from bayesharm.notebook import make_card, one_line
from bayesharm.progress import Progress, no_progress

MIN_VOLUMES = 50  # sd of Fisher z from as many independent volumes: 0.15, as large as differences between people


@dataclass(frozen=True, eq=False, repr=False)
class Connectivity:
    """Connectivity of scans, one value for each pair of regions.

    Attributes
    ----------
    values : (scan, edge) float32 array
        Correlations or partial correlations, or their Fisher z; NaN for edges of regions without a signal.
    names : (edge,) str array
        ``edge_<row>_<column>`` of the lower triangle, row by row.
    scan_id : (scan,) str array
    regions : (region,) str array
    scans : DataFrame
        One row per scan: `scan_id`; `n_volumes`, the number of volumes used; `n_dropped`, the number of volumes that
        were censored or had no values; `n_missing_regions`; `relative_noise`, the variance of Fisher z if volumes were
        independent, for ``fit(noise_weight="relative_noise")``; `file`; and, from fMRIPrep, `mean_fd`, the mean framewise
        displacement in mm.
    notes : tuple of str
        Remarks for the user: volumes and regions without values, identical time series.
    """

    values: np.ndarray
    names: np.ndarray
    scan_id: np.ndarray
    regions: np.ndarray
    scans: pd.DataFrame
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return one_line("Connectivity", self._counts())

    def _counts(self) -> dict[str, int]:
        return {"scans": len(self.values), "regions": len(self.regions), "edges": len(self.names)}

    def _repr_html_(self) -> str:
        tables = {"Scans": self.scans.set_index("scan_id")}
        return make_card("Connectivity", self._counts(), tables, folded={"Remarks": self.notes})

    @property
    def edges(self) -> pd.DataFrame:
        """`feature`, `node_a` and `node_b`: the edge table that :func:`bayesharm.variance_components` takes."""
        row, column = np.tril_indices(len(self.regions), -1)
        return pd.DataFrame({"feature": self.names, "node_a": self.regions[row], "node_b": self.regions[column]})

    def to_frame(self) -> pd.DataFrame:
        """Return `values` as a table: scans, by `scan_id`, × edges. :func:`bayesharm.load_dataset` takes it."""
        return pd.DataFrame(self.values, index=pd.Index(self.scan_id, name="scan_id"), columns=self.names)

    def to_matrices(self) -> np.ndarray:
        """Return `values` as (scan, region, region) symmetric matrices; NaN on the diagonal."""
        n_regions = len(self.regions)
        row, column = np.tril_indices(n_regions, -1)
        matrices = np.full((len(self.values), n_regions, n_regions), np.nan, self.values.dtype)
        matrices[:, row, column] = matrices[:, column, row] = self.values
        return matrices

    def write(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write the values, and beside them ``<name>_volumes.csv`` and ``<name>_edges.csv``; existing files are replaced.

        Parameters
        ----------
        path : path
            .npz, .zarr, .parquet, .csv, .tsv (all with identifiers of scans and names of edges) or .npy (without).

        Returns
        -------
        tuple of Path
            The files.

        Raises
        ------
        InputError, BayesharmError
            The path is not possible, or the disk is full. Nothing is written then.
        """
        return write_files(Path(path), self.values, self.names, self.scan_id, self.regions, self.scans, self.edges)


def connectivity(
    timeseries: TimeSeries,
    *,
    measure: Measure = "correlation",
    fisher_z: bool = False,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    match: str | None = None,
    min_volumes: int = MIN_VOLUMES,
    atlas_image: str | os.PathLike[str] | None = None,
    confounds: str = "simple",
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Connectivity:
    """Compute the connectivity of every scan from its region time series.

    Correlations are those of the empirical covariance. A shrunk covariance, the default of some libraries, depends on the
    number of volumes: scanners with shorter scans would get weaker correlations, a bias of the estimator and not of the
    scanner.

    Parameters
    ----------
    timeseries : path, sequence of paths, or mapping
        Volumes × regions of each scan: a .npz archive with one array per ``scan_id`` and the names in `regions`; .npy, .tsv,
        .csv, .txt, .1D or .ptseries.nii files of one scan each, or folders of them; or ``scan_id -> array or DataFrame``.
        With `atlas_image`, the folder of fMRIPrep. A scan in a BIDS file is named by the entities of its raw image.
    measure : {"correlation", "partial"}
        Partial correlations need more volumes than regions in every scan.
    fisher_z : bool
        Return arctanh of the correlations. Not needed for a fit with ``transform="fisher-z"``.
    labels : path or sequence of str, optional
        Names of the regions, for files that do not name them, or that have numbers of the atlas: a BIDS ``…_dseg.tsv``, a
        lookup table, or one name per line.
    match : str, optional
        Glob of file names, for folders with several files of a scan: ``"*_atlas-Schaefer_*"``.
    min_volumes : int
        Scans with fewer volumes are refused. The sd of Fisher z is about 1 / sqrt(volumes − 3) if volumes are independent.
    atlas_image : path, optional
        Label image, in the space of the images of fMRIPrep: time series are extracted with nilearn.
    confounds : str
        Strategy of `nilearn.interfaces.fmriprep.load_confounds_strategy`: "simple", "scrubbing", "compcor", "ica_aroma"; or
        "none". With an atlas image only.
    out : path, optional
        Write the result there, as :meth:`Connectivity.write` does.
    progress : callable, optional
        Receives progress (:class:`bayesharm.progress.Progress`).

    Returns
    -------
    Connectivity

    Raises
    ------
    InputError
        Files are damaged, have other regions or several scans of a name; scans are too short. Nothing is written then.
    BayesharmError
        An optional library is not installed, or the disk is full.
    """
    _check_options(measure, min_volumes)
    if out is not None:
        check_path(Path(out))
    if atlas_image is None:
        scans, n_threads = find_scans(timeseries, match, None if out is None else Path(out)), os.cpu_count() or 1
    else:
        from bayesharm.data.timeseries.fmriprep import find_images

        (scans, labels), n_threads = find_images(timeseries, atlas_image, labels, confounds, match), 1
    result = Connectivity(*compute_all(scans, measure, fisher_z, labels, min_volumes, n_threads, progress or no_progress))
    if out is not None:
        result.write(out)
    return result


def _check_options(measure: str, min_volumes: int) -> None:
    if measure not in get_args(Measure):
        raise InputError(
            "This measure of connectivity does not exist.",
            got=f"measure={measure!r}",
            expected=" or ".join(map(repr, get_args(Measure))),
            do="choose one of these",
        )
    if min_volumes < 4:
        raise InputError(
            "The minimum number of volumes is too small.",
            got=f"min_volumes={min_volumes!r}",
            expected="4 or more: with fewer, Fisher z has no standard deviation",
            do=f"leave it out, which means {MIN_VOLUMES}",
        )
