"""Scanners found from the protocols of the scans: equal protocols are one scanner."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bayesharm.errors import listed, shorten

# Fields of the sidecars -> their units in BIDS; "" for text.
PROTOCOL_FIELDS = {
    "Manufacturer": "",
    "ManufacturersModelName": "",
    "DeviceSerialNumber": "",
    "StationName": "",
    "SoftwareVersions": "",
    "MagneticFieldStrength": "T",
    "ReceiveCoilName": "",
    "InstitutionName": "",
    "PhaseEncodingDirection": "",
    "EchoTime": "s",
    "RepetitionTime": "s",
    "FlipAngle": "degree",
}
IDENTITY = ("Manufacturer", "ManufacturersModelName", "DeviceSerialNumber", "StationName", "InstitutionName")
DEFAULT_KEY = tuple(name for name in PROTOCOL_FIELDS if name != "SoftwareVersions")  # an upgrade is not a new scanner
TOLERANCE = 1e-3  # relative difference up to which two numbers are equal: 2.5 and 2.5000001
_LIMITS = {"EchoTime": 1.0, "RepetitionTime": 100.0}  # in seconds; larger numbers are milliseconds
_MISSING = ("", "n/a", "na", "none", "null", "unknown", "redacted", "anonymous", "anonymized", "anonymised", "deidentified")
_NO_NAMES = {
    "and", "center", "centre", "college", "department", "dept", "for", "hospital", "hospitals", "imaging", "institute",
    "institution", "magnetom", "medical", "medicine", "mri", "of", "research", "school", "the", "univ", "university",
}  # fmt: skip


@dataclass(frozen=True)
class Scanners:
    """The scanner of each scan.

    Attributes
    ----------
    labels : list of str
        Name of the scanner of each scan.
    key : tuple of str
        Fields that tell scanners apart.
    differing : DataFrame
        Scanner × field: the values of the fields in `key` that differ between scanners; "n/a" if missing.
    notes : list of str
        Fields that are missing, spelled differently, or vary within a scanner.
    """

    labels: list[str]
    key: tuple[str, ...]
    differing: pd.DataFrame
    notes: list[str]


def unify_spelling(name: str, values: Sequence[Any]) -> tuple[list[str | None], list[str]]:
    """Return one field of all scans as text, equal values spelled alike; None where it is missing.

    Numbers are equal within `TOLERANCE`, words if they differ in capitals and blanks only.

    Parameters
    ----------
    name : str
        Field of the sidecars.
    values : sequence
        Values as JSON has them; several echoes are a list.

    Returns
    -------
    values : list of str or None
    notes : list of str
        Spellings that were made equal, and numbers in the wrong unit.
    """
    if PROTOCOL_FIELDS.get(name):
        numbers = [_to_numbers(value) for value in values]
        spelling = _round_together([number for several in numbers for number in several])
        limit = _LIMITS.get(name, math.inf)
        large = sorted({spelling[number] for several in numbers for number in several if number > limit})
        notes = [f"{name} seems to be in milliseconds in some scans: {listed(large)}; BIDS uses seconds."] if large else []
        return [", ".join(spelling[number] for number in several) or None for several in numbers], notes
    texts = [_to_text(value) for value in values]
    counts = Counter(text for text in texts if text is not None)
    common: dict[str, str] = {}
    for text, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        common.setdefault(text.casefold(), text)
    variants = [text for text in sorted(counts) if common[text.casefold()] != text]
    notes = [
        f"{name} is spelled differently: {shorten([text, common[text.casefold()]])} count as equal." for text in variants
    ]
    return [None if text is None else common[text.casefold()] for text in texts], notes


def group_scanners(columns: Mapping[str, Sequence[str | None]], key: Sequence[str] | None = None) -> Scanners:
    """Group scans of equal protocol into scanners. A missing value equals only a missing value.

    Parameters
    ----------
    columns : mapping
        Column -> its value in each scan: ``scan_id``, ``participant_id`` and the fields of :func:`unify_spelling`.
    key : sequence of str, optional
        Columns that tell scanners apart; default: `DEFAULT_KEY`, without serial numbers that look like pseudonyms of
        participants.
    """
    notes: list[str] = []
    used = [name for name in key or DEFAULT_KEY if any(columns[name])]
    serial = "DeviceSerialNumber"
    if key is None and serial in used and _looks_like_pseudonyms(columns[serial], columns["participant_id"]):
        used.remove(serial)
        notes.append(
            f"{serial} is not used: it has {len(set(columns[serial]) - {None})} values, most of them in one participant "
            "only, as if it was replaced for privacy."
        )
    protocols = list(zip(*(columns[name] for name in used), strict=True))
    names = _name_protocols(protocols, used, is_default=key is None)
    labels = [names[protocol] for protocol in protocols]
    table = pd.DataFrame(
        [[value or "n/a" for value in protocol] for protocol in names], index=list(names.values()), columns=used
    )
    if key is None:
        notes += _similar_notes(table)
    others = [name for name in PROTOCOL_FIELDS if name not in used and not (key is None and name == serial)]
    notes += _missing_notes(columns, labels, used) + _variation_notes(columns, labels, others)
    return Scanners(labels, tuple(used), table.loc[:, table.nunique() > 1].sort_index(), notes)


def _looks_like_pseudonyms(serials: Sequence[str | None], participants: Sequence[str | None]) -> bool:
    """Whether most serial numbers belong to one participant only, in three participants or more."""
    people = pd.Series(participants).groupby(pd.Series(serials)).agg(["nunique", "first"])
    private = people[people["nunique"] == 1]
    return private["first"].nunique() > 2 and len(private) > len(people) / 2


def _name_protocols(protocols: list[tuple[Any, ...]], used: list[str], is_default: bool) -> dict[tuple[Any, ...], str]:
    """Return a readable name for each protocol: model, place and number, or the values of the chosen fields."""
    counts = Counter(protocols)
    names: dict[tuple[Any, ...], str] = {}
    numbers: Counter[str] = Counter()
    for protocol in sorted(counts, key=lambda protocol: (-counts[protocol], [value or "" for value in protocol])):
        values = dict(zip(used, protocol, strict=True))
        if not is_default:
            base = "-".join(_slug(value) if value else "unknown" for value in protocol)
        else:
            place = values.get("InstitutionName") or values.get("StationName")
            parts = [_slug(values.get("ManufacturersModelName") or values.get("Manufacturer") or "scanner")]
            base = "-".join([*parts, *([_slug(place, 2)] if place else [])])
        numbers[base.casefold()] += 1
        number = numbers[base.casefold()]
        names[protocol] = f"{base}-{number}" if is_default or number > 1 else base
    return names


def _slug(text: str, most: int = 4) -> str:
    """Return the telling words of a name, joined; such as ``Prisma`` for ``MAGNETOM Prisma``."""
    words = re.findall(r"\w+", text.replace("_", " ").replace(".", "p"))
    telling = [word for word in words if word.casefold() not in _NO_NAMES] or words
    return "".join(word[:1].upper() + word[1:] for word in telling[:most]) or "scanner"


def _missing_notes(columns: Mapping[str, Sequence[str | None]], labels: Sequence[str], used: Sequence[str]) -> list[str]:
    """Say which scans lack a field of the key, and that they are scanners of their own."""
    found = []
    for name in used:
        without = [k for k, value in enumerate(columns[name]) if value is None]
        if without:
            scans, scanners = [columns["scan_id"][k] for k in without], sorted({labels[k] for k in without})
            found.append(f"{name} in {len(without)} of {len(labels)} scans, of {listed(scanners, 3)} ({shorten(scans, 2)})")
    absent = [name for name in PROTOCOL_FIELDS if not any(columns[name])]
    notes = [f"A missing value is never equal to a value, so scans without a field are separate: {'; '.join(found)}."]
    return [*(notes if found else []), *([f"No sidecar states {listed(absent, 12)}."] if absent else [])]


def _similar_notes(table: pd.DataFrame) -> list[str]:
    """Name the few fields that separate scanners of one model and place."""
    notes = []
    for _, alike in table.groupby(table.index.str.rpartition("-").get_level_values(0)):
        differing = alike.loc[:, alike.nunique() > 1]
        if len(alike) > 1:
            found = listed([f"{name} ({', '.join(values.unique()[:4])})" for name, values in differing.items()])
            notes.append(
                f"{listed(sorted(alike.index))} differ in {found}. If they are one scanner, give them one name in "
                "the table, or leave these fields out of --scanner-by."
            )
    return notes


def _variation_notes(columns: Mapping[str, Sequence[str | None]], labels: Sequence[str], others: Sequence[str]) -> list[str]:
    """Describe fields outside the key that vary within a scanner, such as the software before and after an upgrade."""
    notes = []
    scanners = pd.Series(labels)
    for name in others:
        values = pd.Series(list(columns[name]), dtype=object).fillna("n/a")
        for scanner, several in values.groupby(scanners):
            counts = several.value_counts()
            if len(counts) > 1:
                found = listed([f"{value} ({count} scans)" for value, count in counts.items()], 4)
                notes.append(
                    f"{name} varies within {scanner}: {found}. To make them separate scanners, add it to --scanner-by."
                )
    return notes


def _to_numbers(value: Any) -> tuple[float, ...]:
    """Return the finite numbers in a JSON value."""
    numbers = []
    for item in value if isinstance(value, (list, tuple)) else (value,):
        try:
            number = float(item) if isinstance(item, (str, int, float)) and not isinstance(item, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            numbers.append(number)
    return tuple(numbers)


def _round_together(numbers: Sequence[float]) -> dict[float, str]:
    """Return the spelling of each number; numbers that differ by less than `TOLERANCE` are spelled like the most common."""
    counts = Counter(numbers)
    spelling: dict[float, str] = {}
    cluster: list[float] = []
    for number in [*sorted(counts), math.inf]:
        if cluster and number - cluster[0] > TOLERANCE * abs(cluster[0]):
            common = max(cluster, key=lambda number: (counts[number], -len(repr(number))))
            spelling |= dict.fromkeys(cluster, f"{common:.6g}")
            cluster = []
        cluster.append(number)
    return spelling


def _to_text(value: Any) -> str | None:
    """Return a JSON value as text on one line; None if it is empty, a word for missing or an object."""
    items = value if isinstance(value, (list, tuple)) else (value,)
    texts = [" ".join(str(item).split()) for item in items if isinstance(item, (str, int, float))]
    texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts if text.casefold() not in _MISSING]
    return ", ".join(texts) or None
