"""Numbers that tables hold as text: decimal commas, thousands separators and units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bayesharm.errors import shorten

MISSING_WORDS = frozenset(["", "na", "n/a", "#n/a", "#na", "nan", "-nan", "<na>", "null", "none"])
UNITS = (
    "y yr yrs year years yo jahre jahr ans an mo month months w wk weeks d day days h hr min s sec ms "
    "mm cm m mm2 mm^2 mm² cm2 mm3 mm^3 mm³ cm3 cm^3 cm³ cc ml l µm um kg g mg lb lbs % bpm hz db"
).split()
_EXPONENT = r"(?:[eE][+-]?\d+)?"
_PLAIN = re.compile(rf"[+-]?(?:\d+\.?\d*|\.\d+){_EXPONENT}")
_DECIMAL_COMMA = re.compile(rf"[+-]?\d*,\d+{_EXPONENT}")
_THREE_DIGITS = re.compile(r"[+-]?[1-9]\d{0,2}[,.]\d{3}")  # 1,234 may be 1234 or 1.234
_GROUPS = {mark: re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:{re.escape(mark)}\d{{3}})+(?:{re.escape(point)}\d*)?")
           for mark, point in ((",", "."), (".", ","), ("'", "."), (" ", "."))}  # fmt: skip
_WITH_UNIT = re.compile(r"([+-]?[\d.,' ]*\d)\s*([^\d\s.,'+-][^\d\s]*[23]?)")


@dataclass(frozen=True)
class Numbers:
    """Text read as numbers.

    Attributes
    ----------
    values : Series, optional
        The numbers, NaN where a value is missing; None if the text is not all numbers.
    rule : str
        How they were read, such as ``decimal commas``; empty for plain numbers.
    doubt : str
        Why text that looks like numbers was not read as such.
    """

    values: pd.Series | None
    rule: str = ""
    doubt: str = ""


def parse_numbers(text: pd.Series) -> Numbers:
    """Read text as numbers where all values are numbers by one clear rule.

    Plain numbers come first; then a unit that all values share, decimal commas, and separators of thousands. Nothing is read
    where two readings are possible: ``1,234`` alone may be 1234 or 1.234.
    """
    words = text.astype("string").str.strip().str.replace("\u2212", "-").str.replace("[\u00a0\u202f\u2009]", " ", regex=True)
    words = words.mask(words.str.lower().isin(MISSING_WORDS))
    different = [str(word) for word in words.dropna().unique()]
    if not different:
        return Numbers(None)
    plain, rule, doubt = _read_words(different)
    if plain is None:
        return Numbers(None, doubt=doubt)
    numbers = words.map(dict(zip(different, plain, strict=True)))
    is_whole = all(re.fullmatch(r"[+-]?\d{1,15}", number) for number in plain)
    values = numbers.map(float, na_action="ignore").astype(float)
    values = values.astype("int64") if is_whole and not values.isna().any() else values
    return Numbers(values, rule)


def _read_words(words: Sequence[str]) -> tuple[list[str] | None, str, str]:
    """Return the words as plain numbers or None, the rule, and the doubt."""
    if all(map(_PLAIN.fullmatch, words)):
        return list(words), "", ""
    parts = [_WITH_UNIT.fullmatch(word) for word in words]
    units = {part[2].casefold().rstrip(".") for part in parts if part}
    if units and units <= set(UNITS):
        if len(units) > 1 or not all(parts):
            without = [word for word, part in zip(words, parts, strict=True) if not part]
            looks = [word for word in without if _PLAIN.fullmatch(word)]
            if len(looks) < len(without):
                return None, "", ""
            got = f"units {shorten(sorted(units))}" + (f", and none in {shorten(without, 3)}" if without else "")
            return None, "", f"values have different units: {got}"
        numbers, rule, doubt = _read_words([part[1].strip() for part in parts if part])
        return numbers, ", ".join(filter(None, [f"unit {min(units)!r} removed", rule])), doubt
    return _read_separators(words)


def _read_separators(words: Sequence[str]) -> tuple[list[str] | None, str, str]:
    """Read decimal commas, and separators of thousands."""
    special = [word for word in words if not _PLAIN.fullmatch(word)]
    if all(map(_DECIMAL_COMMA.fullmatch, special)) and not all(map(_THREE_DIGITS.fullmatch, special)):
        doubtful = [word for word in words if "." in word and _THREE_DIGITS.fullmatch(word)]
        if doubtful:
            return None, "", f"points and commas are mixed: {shorten([special[0], *doubtful], 3)}"
        return (
            [word.replace(",", ".") for word in words],
            f"decimal commas: {special[0]!r} is {special[0].replace(',', '.')}",
            "",
        )
    for mark, point in ((",", "."), (".", ","), ("'", "."), (" ", ".")):
        grouped = [word for word in special if mark in word]
        rest = [word for word in words if mark not in word]
        if not grouped or not all(map(_GROUPS[mark].fullmatch, grouped)):
            continue
        if not all(
            (_PLAIN if point == "." else _DECIMAL_COMMA).fullmatch(word) or word.lstrip("+-").isdigit() for word in rest
        ):
            continue
        certain = mark in "' " or any(word.count(mark) > 1 or point in word for word in words)
        if not certain:
            return None, "", f"{grouped[0]!r} may be {grouped[0].replace(mark, '')} or {grouped[0].replace(mark, '.')}"
        read = [word.replace(mark, "").replace(point, ".") for word in words]
        return read, f"separators of thousands: {grouped[0]!r} is {grouped[0].replace(mark, '').replace(point, '.')}", ""
    return None, "", ""


def is_text(values: pd.Series) -> bool:
    """Whether a column holds text, perhaps among other things."""
    return values.dtype == object or pd.api.types.is_string_dtype(values) or isinstance(values.dtype, pd.CategoricalDtype)


def read_numbers(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return a table with all text columns that hold nothing but numbers as numbers, and the rule of each unusual one.

    Columns of pandas' type `category` stay categories.
    """
    rules, converted = {}, {}
    for name in frame.columns:
        column = frame[name]
        if not is_text(column) or isinstance(column.dtype, pd.CategoricalDtype):
            continue
        if not all(isinstance(value, (str, float, int)) and not isinstance(value, bool) for value in column.dropna()):
            continue
        numbers = parse_numbers(column)
        if numbers.values is not None:
            converted[name] = numbers.values
            if numbers.rule:
                rules[str(name)] = numbers.rule
    return frame.assign(**converted) if converted else frame, rules
