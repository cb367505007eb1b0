"""Regions of the files of a tool: their names, and their alignment by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bayesharm.data.readers.files import cut
from bayesharm.data.readers.labels import read_labels
from bayesharm.data.readers.matching import Record
from bayesharm.data.readers.options import ReaderOptions
from bayesharm.errors import InputError, shorten


@dataclass(frozen=True, eq=False)
class Values:
    """Values of one scan: a square matrix, or one value for each region; the regions are None if the file has no names."""

    values: np.ndarray
    regions: list[str] | None


def name_regions(
    loaded: Values, record: Record, title: str, is_numbered: bool, options: ReaderOptions
) -> tuple[list[str], list[str]]:
    """Name the regions of the features, from the first file or from the label file.

    Parameters
    ----------
    loaded : Values
        Content of the first file.
    record : Record
        The first file.
    title : str
        Name of the tool.
    is_numbered : bool
        Whether the files have numbers of regions, which the label file translates.
    options : ReaderOptions

    Returns
    -------
    regions : list of str
        As the first file has them; the names if it has none.
    names : list of str
        For the features.

    Raises
    ------
    InputError
        A name repeats, the label file is missing or not needed, or it does not fit.
    """
    regions = loaded.regions
    if regions is None:
        names = _read_names(loaded, record, title, options)
        return names, names
    if len(set(regions)) < len(regions):
        raise InputError(
            "Some regions have the same name.",
            got=f"{record.path}: {shorten(cut(name) for name, count in Counter(regions).items() if count > 1)}",
            expected="a different name for every region",
            do="correct the names of the regions in the atlas",
        )
    if options.labels is None:
        return regions, regions
    if not is_numbered:
        raise InputError(
            f"The files of {title} name their regions.",
            got=f"labels {options.labels}",
            expected="no label file",
            do="omit the option --labels",
        )
    return regions, _translate(regions, read_labels(options.labels), record)


def _read_names(loaded: Values, record: Record, title: str, options: ReaderOptions) -> list[str]:
    """Return the names in the label file, in the order of the atlas."""
    if options.labels is None:
        raise InputError(
            f"The files of {title} do not name their regions.",
            got=record.path.name,
            expected=f"a label file of the atlas{' ' + record.atlas if record.atlas else ''}",
            do="give it with --labels FILE: …_dseg.tsv with the columns index and name, or a list with one name per line",
        )
    names = list(read_labels(options.labels).values())
    if len(names) != loaded.values.shape[-1]:
        raise InputError(
            "The label file does not fit the files.",
            got=f"{len(names):,} names in {options.labels}, {loaded.values.shape[-1]:,} regions in {record.path}",
            expected="one name for each region, in the order of the atlas",
            do="give the label file of this atlas; if the tool left out regions outside the image, extract them again with "
            "all regions kept, because nothing says which are missing",
        )
    return names


def _translate(numbers: list[str], labels: Mapping[str, str], record: Record) -> list[str]:
    """Return the names of regions, given their numbers in the atlas."""
    if lacking := [number for number in numbers if number not in labels]:
        raise InputError(
            "The label file lacks some regions.",
            got=f"no name for {shorten(map(cut, lacking))} in {record.path}",
            expected="a name for the number of each region",
            do="give the label file of this atlas",
        )
    return [labels[number] for number in numbers]


def align_regions(loaded: Values, reference: list[str], record: Record) -> np.ndarray | None:
    """Return where each region of the first file is in another file; None if the order is the same.

    Raises
    ------
    InputError
        The file has other regions.
    """
    regions = loaded.regions
    if regions is None:
        if loaded.values.shape[-1] != len(reference):
            raise InputError(
                "The matrices differ in size.",
                got=f"{loaded.values.shape[-1]:,} regions in {record.path}, {len(reference):,} in the others",
                expected="the same regions in all files",
                do="extract the regions again with all regions kept: nothing in the file says which are missing",
            )
        return None
    if regions == reference:
        return None
    position, known = {name: k for k, name in enumerate(regions)}, set(reference)
    lacking = [cut(name) for name in reference if name not in position]
    other = [cut(name) for name in regions if name not in known]
    if lacking or other or len(position) < len(regions):
        raise InputError(
            "The files have different regions.",
            got=f"{record.path}: lacks {shorten(lacking, 3) or 'none'}; has {shorten(other, 3) or 'no others'}"
            + ("" if len(position) == len(regions) else "; some regions more than once"),
            expected=f"the {len(reference):,} regions of the first file, in any order",
            do="read files of one atlas and one version of it; remove the others",
        )
    return np.array([position[name] for name in reference])
