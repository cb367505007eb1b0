"""Reading of folders with one file per scan, and the definition of their formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.readers.files import describe_dataset
from bayesharm.data.readers.labels import checksum
from bayesharm.data.readers.matching import Record
from bayesharm.data.readers.options import ReaderOptions
from bayesharm.data.readers.reading import Reading, choose_records, drop_empty, match_all
from bayesharm.data.readers.regions import Values, align_regions, name_regions
from bayesharm.data.readers.row_store import RowStore
from bayesharm.data.readers.squares import Square, check_square, edge_names
from bayesharm.errors import InputError, shorten
from bayesharm.progress import Progress

MOST_ERRORS = 20  # damaged files after which reading stops
AHEAD = 4  # files for each thread that wait to be read, so that an error stops the work soon


@dataclass(frozen=True)
class FolderFormat:
    """A tool that writes one file per scan.

    Attributes
    ----------
    name, title : str
        Name of the option, and of the tool.
    recognize : callable
        Path -> the `Record`, or None if the tool does not write such a file.
    load : callable
        Record -> `Values`.
    squares : mapping
        Measure -> rules of its matrices; other measures have one value for each region.
    usual_measure : str
        Measure to take if none is chosen.
    lenient : tuple of str
        Measures whose files do not name all entities of a scan, such as the task of a functional one.
    is_numbered : bool
        Whether the files have the numbers of the regions in the atlas instead of names, which a label file gives.
    columns : callable, optional
        All files and the records in use -> columns for the scans table.
    """

    name: str
    title: str
    recognize: Callable[[Path], Record | None]
    load: Callable[[Record], Values]
    squares: Mapping[str, Square]
    usual_measure: str = ""
    lenient: tuple[str, ...] = ()
    is_numbered: bool = False
    columns: Callable[[Sequence[Path], Sequence[Record]], dict[str, np.ndarray]] | None = None


@dataclass
class _Counts:
    """Missing values of the scans, by kind."""

    absent: np.ndarray
    silent: np.ndarray
    empty: np.ndarray
    reordered: int = 0
    damaged: list[InputError] = field(default_factory=list)


def read_folder(
    format: FolderFormat,
    root: Path,
    files: Sequence[Path],
    scans: pd.DataFrame,
    has_scan_ids: bool,
    options: ReaderOptions,
    progress: Progress,
) -> Reading:
    """Read one measure of all scans from the files of a tool.

    Parameters
    ----------
    format : FolderFormat
    root : Path
        Folder of the derivatives.
    files : sequence of Path
        All its files.
    scans : DataFrame
        The scans table.
    has_scan_ids : bool
        Whether the user's table has identifiers of scans.
    options : ReaderOptions
    progress : callable

    Raises
    ------
    InputError
        The options do not lead to one file for each scan, or files are damaged or of different regions.
    """
    found = [record for record in map(format.recognize, files) if record is not None]
    records = choose_records(found, options, format.usual_measure)
    measure, atlas = records[0].measure, records[0].atlas
    lenient = measure in format.lenient
    matching, dropped = match_all(records, scans, has_scan_ids, options, lenient=lenient)
    rows = np.flatnonzero(matching.records >= 0)
    used = [records[k] for k in matching.records[rows]]
    regions, region_names = name_regions(format.load(used[0]), used[0], format.title, format.is_numbered, options)
    square = format.squares.get(measure)
    names = np.array(region_names, dtype=str) if square is None else edge_names(region_names)
    store = RowStore(len(rows), len(names))
    counts = _read_files(format, used, regions, square, store, progress)
    dropped |= drop_empty(counts.empty, scans["scan_id"].iloc[rows].tolist(), options)
    kept = np.flatnonzero(~counts.empty)
    columns = format.columns(files, used) if format.columns is not None else {}
    missing = {
        "missing in the file": int(counts.absent[kept].sum()),
        "of regions without signal": int(counts.silent[kept].sum()),
    }
    provenance: dict[str, Any] = {
        "format": format.name, "tool": format.title, **describe_dataset(root), "measure": measure, "atlas": atlas,
        "unit": square.kind if square is not None else "", "regions": len(regions),
        "regions_sha256": checksum(region_names), "matched": matching.rule,
        "files": [os.path.relpath(used[k].path, root) for k in kept], "dropped": dropped, "missing": missing,
        "columns": sorted(columns),
    }  # fmt: skip
    return Reading(
        store.to_matrix(kept, names, scans["scan_id"].to_numpy(str)[rows[kept]]),
        rows[kept],
        {name: values[kept] for name, values in columns.items()},
        provenance,
        tuple(_notes(provenance, counts.reordered, len(kept) * len(names))),
    )


def _notes(provenance: Mapping[str, Any], n_reordered: int, n_values: int) -> list[str]:
    """Return sentences about what was read and what is missing."""
    origin = provenance["tool"] + (f" {provenance['version']}" if "version" in provenance else "")
    atlas = f" of the {provenance['regions']:,} regions of {provenance['atlas'] or 'one atlas'}"
    notes = [
        f"{len(provenance['files']):,} files of {origin} were read: {provenance['measure']}{atlas}, "
        f"matched {provenance['matched']}."
    ]
    if n_reordered:
        notes.append(f"The regions of {n_reordered:,} files were in another order, and were aligned by name.")
    if any(provenance["missing"].values()):
        parts = [f"{count:,} {kind}" for kind, count in provenance["missing"].items() if count]
        notes.append(f"{sum(provenance['missing'].values()):,} of {n_values:,} values are missing: {', '.join(parts)}.")
    if provenance["dropped"]:
        notes.append(f"{len(provenance['dropped']):,} were left out: {shorten(provenance['dropped'], 3)}.")
    if provenance["columns"]:
        notes.append(f"Added to the scans table, for --covariates: {', '.join(provenance['columns'])}.")
    return notes


def _read_files(
    format: FolderFormat,
    records: Sequence[Record],
    regions: list[str],
    square: Square | None,
    store: RowStore,
    progress: Progress,
) -> _Counts:
    """Read all files into the store, in threads: Arrow and numpy work without the lock of Python."""
    total = len(records)
    counts = _Counts(np.zeros(total, int), np.zeros(total, int), np.zeros(total, bool))
    lower = np.tril_indices(len(regions), -1) if square is not None else None

    def read_one(row: int) -> bool:
        loaded = format.load(records[row])
        order = align_regions(loaded, regions, records[row])
        values = loaded.values
        if square is not None:
            checked = check_square(values, loaded.regions, square, records[row].path)
            values, counts.absent[row], counts.silent[row] = checked
            values = values if order is None else values[np.ix_(order, order)]
            values = values[lower]
        else:
            values = values if order is None else values[order]
            counts.absent[row] = np.isnan(values).sum()
        counts.empty[row] = np.isnan(values).all()
        store.write(row, values)
        return order is not None

    n_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    done, rows = 0, iter(range(total))
    progress("reading files", 0, total, "")
    with ThreadPoolExecutor(n_threads) as threads:
        waiting: dict[Future[bool], int] = {}
        while len(counts.damaged) < MOST_ERRORS:
            for row in rows:
                waiting[threads.submit(read_one, row)] = row
                if len(waiting) >= AHEAD * n_threads:
                    break
            if not waiting:
                break
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                done += 1
                del waiting[future]
                try:
                    counts.reordered += future.result()
                except InputError as error:
                    counts.damaged.append(error)
            progress("reading files", done, total, "")
    if counts.damaged:
        raise _combine(counts.damaged, total, done < total)
    return counts


def _combine(errors: list[InputError], total: int, stopped: bool) -> InputError:
    """Return one error about all damaged files."""
    if len(errors) == 1:
        return errors[0]
    first = errors[0]
    others = "\n".join(f"    {error.brief} {error.got}" for error in errors[1:5])
    return InputError(
        f"{'At least ' if stopped else ''}{len(errors):,} of {total:,} files cannot be used. The first: {first.what}",
        got=f"{first.got}\n{others}",
        expected=first.expected,
        do=first.do,
    )
