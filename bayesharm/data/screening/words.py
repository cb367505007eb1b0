"""Words by which tables name people, columns and missing values, and how to compare them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

PLACEHOLDERS = frozenset(
    "- -- --- . .. ... ? ?? ??? _ * # / na n/a n.a. nan none null nil unknown unk unkn unspecified missing miss empty blank "
    "anonymous anon tbd tba todo xxx xx undefined notavailable notapplicable unbekannt inconnu desconocido".split()
)
UNKNOWN = frozenset(
    "unknown unk unkn unspecified missing notavailable notapplicable undefined tbd na n/a unbekannt inconnu".split()
)
MISSING_CODES = (-9999.0, -999.0, -99.0, -9.0, -99999.0, 99.0, 999.0, 9999.0, 99999.0, -888.0, -777.0, 888.0, 777.0)
CODE_WORDS = frozenset(str(int(code)) for code in MISSING_CODES)

# Words of a category in several languages and codes, by column: the words of a line mean the same.
SYNONYMS = {
    "sex": (
        "m male man boy mann mannlich maennlich homme masculin masculino hombre varon maschio uomo mannelijk jongen garcon",
        "f female woman girl w weiblich frau femme feminin femenino mujer femmina donna vrouw vrouwelijk fille madchen",
    ),
    "hand": (
        "r right righthanded rh rechts rechtshander droite droitier droit diestro destro",
        "l left lefthanded lh links linkshander gauche gaucher zurdo mancino",
        "a ambidextrous ambi both mixed beidhandig ambidextre",
    ),
    "diagnosis": (
        "hc control controls healthy healthycontrol healthycontrols hv ctl ctrl con nc cn normal kontrolle temoin",
        "patient patients pat case cases",
    ),
}
KINDS = {
    "sex": frozenset(["sex", "gender"]),
    "hand": frozenset(["hand", "handedness"]),
    "diagnosis": frozenset(["diagnosis", "dx", "diag"]),
}
CONSTANTS = frozenset("sex gender handedness hand dob yob birth birthdate birthday birthyear race ethnicity".split())
DATES = frozenset("date datetime scandate acqtime acquisitiondate acq timestamp day".split())
UNITS_OF_TIME = frozenset("time years year yrs months month weeks days followup".split())
BESIDE_TIME = frozenset("in of since from to after baseline first visit scan study entry the elapsed".split())
VISITS = frozenset("session ses visit timepoint tp wave run".split())
POSITIVE = frozenset(
    "age height weight bmi iq fiq fsiq piq viq tiv icv etiv snr tsnr cnr volume volumes thickness education".split()
)


def tokens(name: str) -> frozenset[str]:
    """Return the words of a column name in lower case: ``age`` and ``at`` and ``scan`` of ``AgeAtScan``."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", str(name))
    words = re.findall(r"[^\W_]+", plain(apart))
    return frozenset([*words, "".join(words)])


def plain(text: str) -> str:
    """Return a text in lower case, without accents and surplus blanks."""
    without_accents = "".join(c for c in unicodedata.normalize("NFKD", str(text)) if not unicodedata.combining(c))
    return " ".join(without_accents.casefold().split())


def folded(text: str) -> str:
    """Return a text without case, accents, and blanks or dashes between letters; signs at its ends stay: ``j-``, ``HC+``."""
    marks = r"[\s_\-./]+"
    apart = re.sub(rf"(?<=\d){marks}(?=\d)", ".", plain(text))  # 1.0 is not 10
    return re.sub(rf"(?<=[^\W_]){marks}(?=[^\W_])", lambda mark: mark[0] if _in_number(apart, mark) else "", apart)


def _in_number(text: str, mark: re.Match[str]) -> bool:
    return text[mark.start() - 1].isdigit() and text[mark.end()].isdigit()


def meaning_of(text: str, column: str) -> str:
    """Return the first of all words that mean the same in a column: ``m`` for ``männlich``; else the folded text."""
    word, words = folded(text), tokens(column)
    for kind, names in KINDS.items():
        if words & names:
            return next((group.split()[0] for group in SYNONYMS[kind] if word in group.split()), word)
    return word


def is_age(name: str) -> bool:
    """Whether a column holds ages."""
    return bool(tokens(name) & {"age", "ages", "ageyears", "agemonths", "ageyrs"})


def is_elapsed_time(name: str) -> bool:
    """Whether a column holds time since something, such as ``years`` or ``years_from_baseline``; not ``reaction time``."""
    words = tokens(name)
    parts = words - {"".join(re.findall(r"[^\W_]+", plain(name)))} or words
    return bool(parts & UNITS_OF_TIME) and parts <= UNITS_OF_TIME | BESIDE_TIME


def is_constant_by_name(name: str) -> bool:
    """Whether a column holds something that stays the same in a person, such as sex."""
    return bool(tokens(name) & CONSTANTS)


def ages_in_years(name: str, values: pd.Series) -> np.ndarray:
    """Return ages in years; months and days are known by the column's name or by their size."""
    ages = values.to_numpy(float)
    words, median = tokens(name), np.nanmedian(ages) if np.isfinite(ages).any() else np.nan
    if words & {"days", "day"} or median > 3000:
        return ages / 365.25
    if words & {"months", "month", "agemonths", "mo"} or median > 130:
        return ages / 12
    return ages


def to_days(values: pd.Series) -> np.ndarray | None:
    """Return dates as days since 1970; None unless nearly all values are dates (ISO 8601, YYYYMMDD, or of a date type)."""
    if pd.api.types.is_datetime64_any_dtype(values):
        dates = pd.to_datetime(values, utc=True)
    else:
        text = values.astype("string").str.strip().str.removesuffix(".0")
        is_date = text.str.fullmatch(r"(1[89]|20)\d\d-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])([T ].*)?").fillna(False)
        if not len(text) or is_date.sum() < 0.9 * max(1, text.notna().sum()):
            return None
        dates = pd.to_datetime(text.where(is_date).str.slice(0, 10).str.replace("-", "").str.slice(0, 8),
                               format="%Y%m%d", errors="coerce", utc=True)  # fmt: skip
    days = (dates - pd.Timestamp("1970-01-01", tz="UTC")).dt.total_seconds() / 86400
    return days.to_numpy(float)


def with_values(scans: Sequence[str], values: Sequence[object], most: int = 5) -> str:
    """Quote values with their scans: ``-9999 (scan s003), …``, beyond `most` a count."""
    pairs = [f"{value} (scan {scan!r})" for scan, value in zip(scans, values, strict=True)]
    return ", ".join(pairs[:most]) + (f" and {len(pairs) - most} more" if len(pairs) > most else "")
