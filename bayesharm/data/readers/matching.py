"""Matching of files and table rows to scans."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bayesharm.data.readers.bids_names import SOURCE_ENTITIES, is_same_value, join_entities, parse_name
from bayesharm.data.readers.files import cut
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import to_labels

# Entity -> columns of the scans table that may hold it.
ENTITY_COLUMNS = {
    "sub": ("participant_id",),
    "ses": ("session", "session_id", "ses"),
    "task": ("task", "task_id"),
    "acq": ("acquisition", "acq"),
    "run": ("run", "run_id"),
}


@dataclass(frozen=True)
class Record:
    """Values of one scan in the derivatives of a tool: a file, or a row of a table.

    Attributes
    ----------
    path : Path
        The file.
    identifier : str
        Text that identifies the scan: the beginning of the file name, or the label of the row.
    source : mapping
        Entities that identify the scan, such as ``{"sub": "01", "ses": "A"}``.
    variant : mapping
        Entities that describe the derivative, such as ``{"space": "fsLR"}``.
    measure, atlas : str
        The measure, such as ``"thickness"``, and the atlas of its regions.
    is_row : bool
        Whether the record is a row of a table.
    aliases : tuple of str
        Other texts that identify the scan, unless several records have them.
    """

    path: Path
    identifier: str
    source: Mapping[str, str]
    variant: Mapping[str, str] = field(default_factory=dict)
    measure: str = ""
    atlas: str = ""
    is_row: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name of the record in messages."""
        return cut(self.identifier if self.is_row else self.path.name)


@dataclass(frozen=True, eq=False)
class Matching:
    """Assignment of records to scans.

    Attributes
    ----------
    records : (scan,) int array
        Number of the record of each scan; -1 if it has none.
    rule : str
        How the records were found, in words.
    """

    records: np.ndarray
    rule: str


def match_records(records: Sequence[Record], scans: pd.DataFrame, has_scan_ids: bool, *, lenient: bool = False) -> Matching:
    """Find the record of each scan, by the rule that finds most of them.

    The rules are: the same text as `scan_id`; the entities in `scan_id`; the columns participant_id, session, run, which do
    not overrule other entities in `scan_id`.

    Parameters
    ----------
    records : sequence of Record
    scans : DataFrame
        The scans table.
    has_scan_ids : bool
        Whether the user's table has identifiers of scans; row numbers identify nothing.
    lenient : bool
        Whether records may lack entities of a scan, such as an anatomical image the task of a functional scan.

    Raises
    ------
    InputError
        Two records belong to one scan, or one record to two scans.
    """
    found: list[tuple[str, list[list[int]]]] = []
    parts = [_entities_of(label) if has_scan_ids else {} for label in scans["scan_id"]]
    if has_scan_ids:
        found.append(("by scan_id", _by_text(records, scans["scan_id"])))
        found.append(("by the parts of scan_id (sub-…_ses-…)", _by_entities(records, parts, lenient)))
    columns, named = _from_columns(scans, parts)
    found.append((f"by the column{'s' * (len(named) > 1)} {', '.join(named)}", _by_entities(records, columns, lenient)))
    rule, candidates = max(found, key=lambda pair: _count_matches(pair[1]))
    _refuse_shared(candidates, records, scans)
    _refuse_repeated(candidates, records, scans)
    return Matching(np.array([each[0] if each else -1 for each in candidates], dtype=int), rule)


def _count_matches(candidates: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return how many scans have a record of their own, and how many have any."""
    count = Counter(k for each in candidates for k in each)
    return sum(len(each) == 1 and count[each[0]] == 1 for each in candidates), sum(map(bool, candidates))


def _by_text(records: Sequence[Record], labels: pd.Series) -> list[list[int]]:
    position = defaultdict(list)
    for k, record in enumerate(records):
        for text in {record.identifier, *record.aliases}:
            position[text].append(k)
    return [position.get(label, []) for label in labels]


def _entities_of(label: str) -> dict[str, str]:
    parsed = parse_name(label)
    return parsed.source if parsed is not None and "sub" in parsed.entities else {}


def _from_columns(scans: pd.DataFrame, parts: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the entities of each scan from columns, beside those of its identifier, and the names of these columns."""
    wanted = [dict(entities) for entities in parts]
    named = []
    for entity, names in ENTITY_COLUMNS.items():
        column = next((name for name in names if name in scans), None)
        if column is None:
            continue
        named.append(column)
        labels, missing = to_labels(scans[column])
        for entities, label, is_missing in zip(wanted, labels.tolist(), missing, strict=True):
            if not is_missing:
                entities[entity] = label.removeprefix(f"{entity}-")
    return wanted, named


def _by_entities(records: Sequence[Record], wanted: Sequence[Mapping[str, str]], lenient: bool) -> list[list[int]]:
    """Return the records that have all entities of each scan, each record only for the scans that name most of them.

    If `lenient`, a record may lack entities of the scan.
    """
    by_person = defaultdict(list)
    for k, record in enumerate(records):
        by_person[record.source.get("sub", record.identifier)].append(k)
    claims: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for scan, entities in enumerate(wanted):
        needed = dict(entities)
        person = needed.pop("sub", None)
        for k in by_person.get(person, []) if person is not None else []:
            source = records[k].source
            if all(is_same_value(source[key], value) if key in source else lenient for key, value in needed.items()):
                claims[k].append((len(needed), scan))
    candidates: list[list[int]] = [[] for _ in wanted]
    for k, scans_of_record in claims.items():
        most = max(size for size, _ in scans_of_record)
        for size, scan in scans_of_record:
            if size == most:
                candidates[scan].append(k)
    return [sorted(each) for each in candidates]


def _refuse_shared(candidates: Sequence[Sequence[int]], records: Sequence[Record], scans: pd.DataFrame) -> None:
    count = Counter(k for each in candidates for k in each)
    shared = [k for k, number in count.items() if number > 1]
    if shared:
        owners = [scans["scan_id"].iloc[scan] for scan, each in enumerate(candidates) if shared[0] in each]
        raise InputError(
            f"One {_noun(records)} belongs to several scans.",
            got=f"{records[shared[0]].label} for the scans {shorten(owners, 3)}, and {len(shared) - 1:,} more",
            expected="a different file or row for each scan",
            do="write scan_id as the beginning of the file names (sub-01_ses-A_task-rest_run-1), or add the columns "
            "session and run to the scans table",
        )


def _refuse_repeated(candidates: Sequence[Sequence[int]], records: Sequence[Record], scans: pd.DataFrame) -> None:
    """Refuse several records of one scan, and say in which part of their names they differ."""
    repeated = [scan for scan, each in enumerate(candidates) if len(each) > 1]
    if not repeated:
        return
    group = [records[k] for k in candidates[repeated[0]]]
    variants, sources = _differing([dict(each.variant) for each in group]), _differing([dict(each.source) for each in group])
    if sources:
        do = "write scan_id as the beginning of the file names, or add a column to the scans table for: " + ", ".join(
            sources
        )
    elif variants:
        key, values = next(iter(variants.items()))
        do = "choose one: " + " or ".join(f"--entity {key}={value}" for value in values[:4])
    else:
        do = "remove the repeated ones"
    raise InputError(
        f"{len(repeated):,} of {len(scans):,} scans have more than one {_noun(group)}.",
        got=f"scan {scans['scan_id'].iloc[repeated[0]]!r}: {shorten((each.label for each in group), 3)}",
        expected="one for each scan",
        do=do,
    )


def _noun(records: Sequence[Record]) -> str:
    return "row" if records[0].is_row else "file"


def _differing(entities: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for each in entities for key in each)
    values = {key: sorted({each.get(key, "none") for each in entities}) for key in keys}
    return {key: each for key, each in values.items() if len(each) > 1}


def source_label(source: Mapping[str, str]) -> str:
    """Return the beginning of the file name of a scan."""
    return join_entities({key: source[key] for key in SOURCE_ENTITIES if key in source})
