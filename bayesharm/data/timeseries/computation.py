"""Connectivity of all scans of a study, with everything that was left out."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding, refuse_errors
from bayesharm.data.readers.squares import edge_names
from bayesharm.data.timeseries.estimation import Measure, clean, correlate
from bayesharm.data.timeseries.regions import RegionList, list_regions
from bayesharm.data.timeseries.series import ScanSource
from bayesharm.data.transforms import fisher_z
from bayesharm.errors import InputError, shorten
from bayesharm.progress import Progress

IN_MEMORY = 1 << 29  # bytes of results above which they are kept in a temporary file
MOST_ERRORS = 20  # damaged files after which reading stops
AHEAD = 8  # scans for each thread that are read before their results are stored


class StudyConnectivity(NamedTuple):
    """As :class:`bayesharm.data.connectivity.Connectivity`."""

    values: np.ndarray
    names: np.ndarray
    scan_id: np.ndarray
    regions: np.ndarray
    scans: pd.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ScanResult:
    """Connectivity of one scan, and what was left out.

    Attributes
    ----------
    scan : ScanSource
    n_volumes, n_dropped : int
        Volumes in use, and volumes of the scan that are not.
    missing : tuple of str
        Regions without a signal.
    identical : tuple of str
        Pairs of regions with the same time series.
    edges : (edge,) array or None
        None if they could not be computed, or were stored.
    is_singular : bool
        Whether partial correlations do not exist although there are enough volumes.
    dof : int
        Degrees of freedom of a correlation: volumes, without those that regressors and the regions conditioned on take.
    columns : dict
        Further numbers on the scan.
    """

    scan: ScanSource
    n_volumes: int
    n_dropped: int
    missing: tuple[str, ...]
    identical: tuple[str, ...] = ()
    edges: np.ndarray | None = None
    is_singular: bool = False
    dof: int = 0
    columns: dict[str, float] = field(default_factory=dict)

    @property
    def relative_noise(self) -> float:
        """Variance of Fisher z if volumes are independent, 1 / (degrees of freedom − 3); NaN if there are too few."""
        return 1 / (self.dof - 3) if self.dof > 3 else np.nan


def compute_all(
    scans: Sequence[ScanSource],
    measure: Measure,
    in_z: bool,
    labels: Any,
    min_volumes: int,
    n_threads: int,
    progress: Progress,
) -> StudyConnectivity:
    """Compute the connectivity of all scans; problems of all of them are refused together.

    Parameters
    ----------
    scans : sequence of ScanSource
    measure, labels, min_volumes, progress
        As for :func:`bayesharm.connectivity`.
    in_z : bool
        Whether to return Fisher z.
    n_threads : int
        Number of scans that are read at the same time.

    Raises
    ------
    InputError
    """
    progress("connectivity", 0, len(scans), "")
    first = scans[0].read()
    regions = list_regions(labels, first, scans[0])
    names = edge_names(list(regions.names))
    if not names.size:
        raise InputError("There are no edges.", got="a single region", expected="two regions or more", do="add regions")
    values = _allocate(len(scans), names.size)
    results, damaged = [], []
    compute = partial(_compute_one, regions=regions, measure=measure)
    sources = [replace(scans[0], read=lambda: first), *scans[1:]]
    for k, result in enumerate(_in_order(compute, sources, n_threads)):
        progress("connectivity", k + 1, len(scans), "")
        if isinstance(result, InputError):
            damaged.append(Finding("unreadable", "error", result.what, result.got, result.expected, result.do))
            if len(damaged) == MOST_ERRORS:
                break
            continue
        if result.edges is not None:
            values[k] = fisher_z(result.edges) if in_z else result.edges
        results.append(replace(result, edges=None))
    progress("connectivity", len(scans), len(scans), "done")
    refuse_errors([*damaged, *_problems(results, len(regions.names), min_volumes, measure, in_z)], can_be_accepted=False)
    table = pd.DataFrame(
        [
            {"scan_id": each.scan.scan_id, "n_volumes": each.n_volumes, "n_dropped": each.n_dropped,
             "n_missing_regions": len(each.missing), "relative_noise": each.relative_noise, "file": each.scan.origin}
            | each.columns
            for each in results
        ]
    )  # fmt: skip
    notes = _notes(results, regions, measure)
    return StudyConnectivity(values, names, table["scan_id"].to_numpy(str), np.array(regions.names), table, tuple(notes))


def _in_order(compute: Any, scans: Sequence[ScanSource], n_threads: int) -> Iterator[ScanResult | InputError]:
    """Yield the result or the error of each scan; few scans are read ahead, so that memory stays bounded."""
    from threadpoolctl import threadpool_limits

    step = AHEAD * n_threads
    # With threads of its own in each of ours, BLAS takes four times as long.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        for start in range(0, len(scans), step):
            yield from pool.map(compute, scans[start : start + step])


def _compute_one(scan: ScanSource, regions: RegionList, measure: Measure) -> ScanResult | InputError:
    try:
        given = scan.read()
        position = regions.place(given, scan)
    except InputError as error:
        return error
    series, n_regions = clean(given.values), len(regions.names)
    at = position[series.present]
    has_region = np.zeros(n_regions, bool)
    has_region[at] = True
    missing = tuple(name for name, is_there in zip(regions.names, has_region, strict=True) if not is_there)
    columns = {} if given.columns is None else given.columns
    n_conditioned = len(at) - 2 if measure == "partial" else 0
    dof = series.n_volumes - given.n_regressors - n_conditioned
    result = ScanResult(scan, series.n_volumes, given.n_left_out + series.n_dropped, missing, dof=dof, columns=columns)
    if measure == "partial" and series.n_volumes <= len(at):
        return result
    found = correlate(series, measure)
    if found is None:
        return replace(result, is_singular=True)
    square = np.full((n_regions, n_regions), np.nan)
    square[np.ix_(at, at)] = found
    row, column = np.tril_indices(n_regions, -1)
    edges = square[row, column]
    same = np.flatnonzero(np.abs(edges) == 1)
    pairs = tuple(f"{regions.names[row[k]]} and {regions.names[column[k]]}" for k in same)
    return replace(result, edges=edges, identical=pairs)


def _allocate(n_scans: int, n_edges: int) -> np.ndarray:
    """Return an array for the results; a large one is a temporary file, which vanishes with it."""
    shape = (n_scans, n_edges)
    if 4 * math.prod(shape) <= IN_MEMORY:
        return np.full(shape, np.nan, np.float32)
    try:
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, np.float32, "w+", shape=shape)
    except OSError as error:
        raise InputError(
            "The results do not fit into the temporary folder.",
            got=f"{tempfile.gettempdir()}: {error.strerror or error}",
            expected=f"room for {4 * math.prod(shape) / 1e9:.1f} GB",
            do="free some space, or set the environment variable TMPDIR to another folder",
        ) from None


def _problems(
    results: Sequence[ScanResult], n_regions: int, min_volumes: int, measure: Measure, in_z: bool
) -> Iterator[Finding]:
    """Yield what makes the result impossible, each problem with all scans that have it."""
    total = len(results)

    def finding(code: str, bad: Sequence[ScanResult], what: str, got: str, expected: str, do: str) -> Finding:
        scans = tuple(each.scan.scan_id for each in bad)
        return Finding(code, "error", what, f"{len(bad):,} of {total:,} scans: {got}", expected, do, scans=scans)

    def quote(bad: Sequence[ScanResult]) -> str:
        counts = [(each.scan.scan_id, each.n_volumes, each.n_volumes + each.n_dropped) for each in bad[:5]]
        parts = [f"{name} ({used:,}" + f" of {total:,}" * (used < total) + ")" for name, used, total in counts]
        return ", ".join(parts) + f" and {len(bad) - 5} more" * (len(bad) > 5)

    long = [each for each in results if each.n_volumes >= min_volumes]
    empty = [each for each in long if len(each.missing) == n_regions]
    if empty:
        yield finding(
            "no-signal", empty, "Some scans have no region with a signal.",
            shorten(each.scan.scan_id for each in empty), "time series that vary", "leave these scans out",
        )  # fmt: skip
    short = [each for each in results if each.n_volumes < min_volumes]
    if short:
        yield finding(
            "too-short", short, "The time series of some scans are too short.", f"{quote(short)} volumes",
            f"at least {min_volumes:,} volumes: the sd of Fisher z is about 1 / sqrt(volumes - 3)",
            "leave these scans out, or choose a smaller min_volumes (--min-volumes in the shell)",
        )  # fmt: skip
    few = [each for each in long if measure == "partial" and each.n_volumes <= n_regions - len(each.missing)]
    if few:
        yield finding(
            "partial-undetermined", few, "Partial correlations need more volumes than regions.",
            f"{quote(few)} volumes for {n_regions:,} regions", "more volumes than regions in every scan",
            "compute correlations (measure='correlation'), or use an atlas with fewer regions",
        )  # fmt: skip
    if singular := [each for each in long if each.is_singular]:
        yield finding(
            "partial-undetermined", singular, "Partial correlations do not exist where regions determine each other.",
            shorten(each.scan.scan_id for each in singular),
            "regions whose time series are linearly independent, also after denoising",
            "compute correlations (measure='correlation'), or use an atlas with fewer regions",
        )  # fmt: skip
    same = [each for each in results if each.identical]
    if in_z and same:
        yield finding(
            "identical-series", same, "Regions with the same time series have no Fisher z.",
            f"{same[0].scan.scan_id}: {shorten(same[0].identical, 2)}", "a time series of its own for each region",
            "remove one region of each pair",
        )  # fmt: skip


def _notes(results: Sequence[ScanResult], regions: RegionList, measure: Measure) -> Iterator[str]:
    """Yield remarks for the user."""
    if dropped := [each for each in results if each.n_dropped]:
        total = sum(each.n_dropped for each in dropped)
        yield f"{total:,} volumes were censored or had missing values, and were left out ({len(dropped):,} scans)."
    if missing := Counter(name for each in results for name in each.missing):
        named = ", ".join(f"{name} ({count:,} scan{'s' * (count > 1)})" for name, count in missing.most_common(5))
        more = f" and {len(missing) - 5} more" * (len(missing) > 5)
        conditional = " Partial correlations of these scans are given the other regions." * (measure == "partial")
        yield f"Regions without a signal in some scans, whose edges are missing there: {named}{more}.{conditional}"
    if same := Counter(pair for each in results for pair in each.identical):
        pair, count = same.most_common(1)[0]
        yield f"{len(same):,} pairs of regions have the same time series (r = 1), such as {pair} in {count:,} scans."
    if regions.from_columns:
        yield "The files do not name their regions: they are numbered by column, from 0. Name them with labels (--labels)."
