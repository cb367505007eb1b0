"""Scans with region time series: in a .npz archive, in files, in a folder, or in memory."""

from __future__ import annotations

import fnmatch
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.readers.bids_names import join_entities, parse_name
from bayesharm.data.readers.files import cut, list_files
from bayesharm.data.timeseries.formats import CIFTI, READERS, format_of, read_series, require_file
from bayesharm.data.timeseries.series import ScanSource, Series
from bayesharm.errors import InputError, shorten
from bayesharm.io.limits import refuse_zip_bomb
from bayesharm.io.tables import is_path, to_labels

type TimeSeries = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any]
FORMATS = (*READERS, ".npz")
REGIONS = "regions"  # the array of names in an archive


def find_scans(source: TimeSeries, match: str | None = None, out: Path | None = None) -> list[ScanSource]:
    """Find the scans of a source; their time series are read later.

    Parameters
    ----------
    source : path, sequence of paths, or mapping
        An archive, a file, a folder, several of these; or ``scan_id -> (volume, region)`` array or DataFrame.
    match : str, optional
        Shell glob; only files whose names match are used.
    out : path, optional
        The output, which is no input if it is in a folder.

    Raises
    ------
    InputError
        There are no time series, or several for one scan.
    """
    if isinstance(source, Mapping):
        scans = [
            ScanSource(str(name), f"time series {name!r}", partial(_in_memory, values)) for name, values in source.items()
        ]
    else:
        paths = [source] if is_path(source) else list(source)  # type: ignore[arg-type]
        scans = [scan for path in paths for scan in _scans_of(Path(path), match, out)]  # type: ignore[arg-type]
    if not scans:
        raise InputError("There are no time series.", got="an empty source", expected="at least one scan", do="name files")
    refuse_repeated(scans)
    return scans


def name_scan(path: Path) -> str:
    """Return the identifier of the scan in a file: the BIDS entities of the raw image, else the name of the file.

    The name ends before ``_rois_`` and the atlas, as in the files of ABIDE, whose tables have the part before.
    """
    name = parse_name(path.name)
    if name is not None and "sub" in name.source:
        return join_entities(name.source)
    return path.name[: len(path.name) - len(format_of(path.name))].partition("_rois_")[0]


def select_by_name(files: Sequence[Path], match: str | None) -> list[Path]:
    """Return the files whose names match a glob; all of them without one."""
    return [file for file in files if match is None or fnmatch.fnmatchcase(file.name, match)]


def _scans_of(path: Path, match: str | None, out: Path | None) -> list[ScanSource]:
    if path.is_dir():
        files = _files_in(path, match, None if out is None else out.resolve())
        return [scan for file in files for scan in _scans_of(file, None, None)]
    if not select_by_name([path], match):
        return []
    require_file(path)
    if path.name.lower().endswith(".npz"):
        return _scans_in_archive(path)
    if not format_of(path.name):
        raise InputError(
            "The format of the time series is unknown.",
            got=str(path),
            expected="a name ending in " + ", ".join(FORMATS),
            do=f"parcellate it first (wb_command -cifti-parcellate, which writes {CIFTI})"
            if path.name.lower().endswith(".dtseries.nii")
            else "convert the file to one of these formats",
        )
    return [ScanSource(name_scan(path), str(path), partial(read_series, path))]


def _files_in(folder: Path, match: str | None, out: Path | None) -> list[Path]:
    """Return the files of time series in a folder: those that match, or those that tools write under these names."""
    files = [file for file in list_files(folder) if file.resolve() != out]
    readable = [file for file in files if file.name.lower().endswith(FORMATS)]
    chosen = [file for file in readable if _is_usual(file.name)] if match is None else select_by_name(readable, match)
    if not chosen:
        raise InputError(
            "The folder has no time series." if match is None else "No file of time series matches the pattern.",
            got=f"{folder}: {len(files):,} files" + (f", none like {match!r}" if match else "") + _examples(readable),
            expected=f"files *_timeseries.tsv, *.1D, *{CIFTI}, *.npy or *.npz" if match is None else "a glob of file names",
            do="choose files by name: match='*_bold_rois.txt' (--match in the shell)",
        )
    return chosen


def _is_usual(name: str) -> bool:
    """Whether a file is likely to hold time series of regions; tables of text are so only by their name."""
    stem, ending = name.lower().removesuffix(format_of(name)), format_of(name)
    return "desc-confounds" not in stem and (ending not in (".tsv", ".csv", ".txt") or stem.endswith("timeseries"))


def _examples(files: list[Path]) -> str:
    return f", such as {shorten([file.name for file in files], 2)}" if files else ""


def _scans_in_archive(path: Path) -> list[ScanSource]:
    try:
        refuse_zip_bomb(path)
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            regions = to_labels(archive[REGIONS][:])[0] if REGIONS in names else None
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise a dozen types of error for damaged files
        raise _refuse_archive(path, cut(error), "a complete .npz file of arrays of numbers") from None
    if "features" in names:
        raise _refuse_archive(path, "an array 'features'", "one array of volumes × regions per scan, named by its scan_id")
    labels = None if regions is None else tuple(regions.tolist())
    return [
        ScanSource(name, f"{path}:{name}", partial(_read_member, path, name, labels)) for name in names if name != REGIONS
    ]


def _read_member(path: Path, name: str, regions: tuple[str, ...] | None) -> Series:
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = archive[name]
    except Exception as error:
        raise _refuse_archive(path, f"array {name!r}: {cut(error)}", "arrays of numbers, complete and unpickled") from None
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "iuf":
        got = f"array {name!r} of shape {values.shape} and type {values.dtype}"
        raise _refuse_archive(path, got, "volumes × regions of numbers in each array but 'regions'")
    return Series(values, regions)


def _refuse_archive(path: Path, got: str, expected: str) -> InputError:
    return InputError(
        "The archive of time series cannot be used.",
        got=f"{path}: {got}",
        expected=expected,
        do="write it with numpy.savez(file, regions=names, **{scan_id: values})",
    )


def _in_memory(values: Any) -> Series:
    names = tuple(map(str, values.columns)) if isinstance(values, pd.DataFrame) else None
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "iuf":
        raise InputError(
            "The time series of a scan cannot be used.",
            got=f"shape {array.shape}, type {array.dtype}",
            expected="volumes × regions of numbers",
            do="correct the array",
        )
    return Series(array, names)


def refuse_repeated(scans: Sequence[ScanSource]) -> None:
    """Raise an `InputError` if there are several sources of one scan, and say how their files differ."""
    origins = defaultdict(list)
    for scan in scans:
        origins[scan.scan_id].append(scan.origin)
    repeated = {name: found for name, found in origins.items() if len(found) > 1}
    if not repeated:
        return
    name, found = next(iter(repeated.items()))
    variants = [parsed.variant | {"ending": parsed.extension} for each in found if (parsed := parse_name(Path(each).name))]
    keys = sorted({key for variant in variants for key in variant})
    differing = {key: sorted({variant.get(key, "none") for variant in variants}) for key in keys}
    choices = "; ".join(f"{key}: {', '.join(values)}" for key, values in differing.items() if len(values) > 1)
    raise InputError(
        "Some scans have several files of time series.",
        got=f"{len(repeated):,} scans, such as {name}: {shorten(found, 3)}",
        expected="one for each scan",
        do="choose files by name, such as match='*_atlas-NAME_*' (--match in the shell)"
        + (f"; the files differ in {choices}" if choices else ""),
    )
