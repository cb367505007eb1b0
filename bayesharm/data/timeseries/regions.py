"""Alignment of the regions of scans by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.data.readers.files import cut
from bayesharm.data.readers.labels import read_labels
from bayesharm.data.timeseries.formats import format_of
from bayesharm.data.timeseries.series import ScanSource, Series
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import is_path

LEAST_SHARED = 0.5  # share of the regions that a scan must have to be of the same atlas
OF_TOOLS = (".tsv", ".csv", ".txt")  # tools leave out regions in such files, so that columns are not enough to identify them


@dataclass(frozen=True)
class RegionList:
    """The regions to which all scans are aligned.

    Attributes
    ----------
    names : tuple of str
    by_number : mapping
        Number of a region in the atlas -> its name; empty without a label file.
    from_columns : bool
        Whether the names are numbers of columns, because neither the scans nor the user name the regions.
    """

    names: tuple[str, ...]
    by_number: Mapping[str, str]
    from_columns: bool = False

    def place(self, series: Series, scan: ScanSource) -> np.ndarray:
        """Return the position of each region of a scan in this list, (region,).

        Raises
        ------
        InputError
            The scan has other regions.
        """
        n_columns = series.values.shape[1]
        if series.regions is None or self.from_columns:
            if n_columns != len(self.names):
                raise _refuse(
                    scan,
                    f"{n_columns:,} regions without names",
                    f"{len(self.names):,} regions"
                    + (", as in the first scan" if self.from_columns else ", as in the labels"),
                    "extract the regions again with all regions kept: nothing says which are missing",
                )
            return np.arange(n_columns)
        given = self.translate(series.regions)
        check_names(given, scan.origin)
        position = {name: k for k, name in enumerate(self.names)}
        other = [cut(name) for name in given if name not in position]
        if other or len(given) < LEAST_SHARED * len(self.names):
            raise _refuse(
                scan,
                f"{len(given):,} regions; {len(other):,} are not in the list: {shorten(other, 3) or 'none'}",
                f"regions of the list: {shorten(map(cut, self.names), 3)}",
                "read files of one atlas (--match chooses files by name), or give the names of all regions with labels "
                "(--labels in the shell)",
            )
        return np.array([position[name] for name in given])

    def translate(self, regions: Sequence[str]) -> Sequence[str]:
        """Return the names of regions that are numbers of the atlas."""
        if not set(regions) <= set(self.names) and self.by_number and set(regions) <= set(self.by_number):
            return [self.by_number[number] for number in regions]
        return regions


def list_regions(labels: Any, first: Series, scan: ScanSource) -> RegionList:
    """Return the regions of a study: those of the user's labels, else those of the first scan.

    Parameters
    ----------
    labels : path, sequence of str or None
    first : Series
        Of the first scan.
    scan : ScanSource
        The first scan.

    Raises
    ------
    InputError
        The labels cannot be used, or are missing for files that do not name their regions.
    """
    if labels is not None:
        by_number = read_labels(labels) if is_path(labels) else {}
        names = tuple(by_number.values()) if by_number else tuple(map(str, labels))
        check_names(names, str(labels) if is_path(labels) else "labels")
        return RegionList(names, by_number)
    if first.regions is not None:
        check_names(first.regions, scan.origin)
        return RegionList(first.regions, {})
    if format_of(Path(scan.origin).name) in OF_TOOLS:
        raise InputError(
            "The files do not name their regions.",
            got=scan.origin,
            expected="a header with the names of the regions, or a label file",
            do="give the label file of the atlas (--labels FILE): …_dseg.tsv with the columns index and name, or a list of "
            "names, one a line",
        )
    return RegionList(tuple(map(str, range(first.values.shape[1]))), {}, from_columns=True)


def check_names(names: Sequence[str], origin: str) -> None:
    """Raise an `InputError` if names of regions repeat or are empty."""
    repeated = [cut(name) for name, count in Counter(names).items() if count > 1]
    if repeated or not all(name.strip() for name in names):
        raise InputError(
            "The names of the regions cannot be used.",
            got=f"{origin}: " + (f"{shorten(repeated)} more than once" if repeated else "an empty name"),
            expected="a different name for every region",
            do="correct the names",
        )


def _refuse(scan: ScanSource, got: str, expected: str, do: str) -> InputError:
    return InputError("A scan has other regions.", got=f"{scan.origin}: {got}", expected=expected, do=do)
