"""Categories of covariates, protocol factors, sites and diagnoses: spelled differently, or going with the scanner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bayesharm.data.finding import Finding
from bayesharm.data.screening.words import PLACEHOLDERS, UNKNOWN, folded, is_constant_by_name, meaning_of, tokens
from bayesharm.errors import shorten
from bayesharm.io.numbers import is_text
from bayesharm.io.tables import to_labels

RARE = 0.01  # largest probability that a reported category is on one scanner only by chance


def screen_categories(scans: pd.DataFrame, covariates: Sequence[str] = (), factors: Sequence[str] = ()) -> Iterator[Finding]:
    """Find categories that are one category in several spellings, or that go with the scanner.

    Names of scanners, sites and diagnoses that differ in capitals or blanks are refused when the table is read.
    """
    if "diagnosis" in scans:
        yield from _synonyms(scans, "diagnosis", scans["diagnosis"].astype(str))
    for column in dict.fromkeys([*covariates, *factors]):
        if column not in scans:
            continue
        if not (is_text(scans[column]) or column in factors):
            yield from _numbered_sexes(scans, column)
            continue
        labels, missing = to_labels(scans[column])
        known = pd.Series(labels, scans.index)[~missing]
        spelled = list(_placeholders(scans, column, known, column in factors)) + list(_spellings(scans, column, known))
        spelled = spelled or list(_synonyms(scans, column, known))
        yield from spelled
        if column in covariates and not spelled:
            yield from _by_scanner(scans, column, known)


def _placeholders(scans: pd.DataFrame, column: str, labels: pd.Series, is_factor: bool) -> Iterator[Finding]:
    """Categories that stand for an unknown value, and would count as one category."""
    is_sign = labels.map(lambda label: not any(c.isalnum() for c in label) and label in PLACEHOLDERS).astype(bool)
    is_word = labels.map(lambda label: folded(label) in UNKNOWN).astype(bool)
    unknown = labels[is_sign | is_word]
    if len(unknown):
        yield Finding(
            "placeholder-category",
            "error" if is_factor or is_sign.any() else "caveat",
            f"Some values of {column!r} seem to stand for unknown values, and would count as one category.",
            got=f"{shorten(unknown.unique())} in {len(unknown)} scans on "
            f"{shorten(scans['scanner'][unknown.index].unique())}",
            expected="a known category for every scan",
            do="fill in the values or leave these scans out; if it is a category of its own, write it as a name",
            scans=tuple(scans["scan_id"][unknown.index]),
            columns=(column,),
        )


def _spellings(scans: pd.DataFrame, column: str, labels: pd.Series) -> Iterator[Finding]:
    names = pd.Series(labels.unique())
    same = names.map(folded)
    alike = names[same.duplicated(keep=False)]
    if len(alike):
        ordered = alike.iloc[np.argsort(same[alike.index].to_numpy(str), kind="stable")]
        yield _one_category(scans, column, labels, list(ordered), "differ only in capitals, blanks, accents or punctuation")


def _synonyms(scans: pd.DataFrame, column: str, labels: pd.Series) -> Iterator[Finding]:
    names = pd.Series(labels.unique())
    same = names.map(lambda name: meaning_of(name, column))
    alike = names[same.duplicated(keep=False)]
    if len(alike) and same[alike.index].ne(names[alike.index].map(folded)).any():
        ordered = alike.iloc[np.argsort(same[alike.index].to_numpy(str), kind="stable")]
        yield _one_category(scans, column, labels, list(ordered), "seem to mean the same")
    elif is_constant_by_name(column) and len(mixed := _numbers_beside_words(names)):
        yield _one_category(scans, column, labels, mixed, "are numbers beside words")


def _numbered_sexes(scans: pd.DataFrame, column: str) -> Iterator[Finding]:
    """More than two numbers for sex: another coding on some scanners, or a code for a missing value."""
    labels, missing = to_labels(scans[column])
    known = pd.Series(labels, scans.index)[~missing]
    if tokens(column) & {"sex", "gender"} and known.nunique() > 2:
        yield _one_category(scans, column, known, sorted(known.unique()), "are numbers, and more than two")


def _numbers_beside_words(names: pd.Series) -> list[str]:
    """Return all categories if some are numbers and others words: 1, 2, male and female."""
    is_number = names.str.fullmatch(r"\d+(\.0)?")
    return list(names) if is_number.any() and not is_number.all() else []


def _one_category(scans: pd.DataFrame, column: str, labels: pd.Series, alike: list[str], how: str) -> Finding:
    where = {name: shorten(sorted(scans["scanner"][labels.index[labels == name]].unique()), 2) for name in alike}
    return Finding(
        "category-spelling",
        "error",
        f"Some values of {column!r} {how}; each would count as a category of its own"
        + (" and take up the differences between scanners." if column not in ("scanner", "site", "diagnosis") else "."),
        got="; ".join(f"{name!r} on {scanners}" for name, scanners in list(where.items())[:6]),
        expected="one spelling for each category on all scanners",
        do="write each category in one way, or give clearly different names to different categories",
        scans=tuple(scans["scan_id"][labels.index[labels.isin(alike)]]),
        columns=(column,),
    )


def _by_scanner(scans: pd.DataFrame, column: str, labels: pd.Series) -> Iterator[Finding]:
    """Categories that no two groups of scanners have in common, or that one scanner has alone."""
    scanner, category = scans["scanner"][labels.index], labels
    (scanner_code, scanners), (code, categories) = pd.factorize(scanner, sort=True), pd.factorize(category, sort=True)
    if len(scanners) < 2 or len(categories) < 2:
        return
    size = len(scanners) + len(categories)
    graph = coo_array((np.ones(len(code)), (scanner_code, len(scanners) + code)), shape=(size, size))
    n_parts, part = connected_components(graph, directed=False)
    if n_parts > 1:
        groups = [
            f"{shorten(categories[part[len(scanners) :] == k], 3)} on {shorten(scanners[part[: len(scanners)] == k], 3)}"
            for k in range(n_parts)
        ]
        yield Finding(
            "categories-by-scanner",
            "caveat",
            f"{column!r} takes other values on some scanners than on all others: its effect can be a scanner's bias.",
            got="; ".join(groups[:4]),
            expected="categories that several scanners have in common",
            do=f"check the coding of {column!r}; leave it out of the covariates if it only says which scanner it was",
            columns=(column,),
        )
        return
    share = np.bincount(scanner_code) / len(scanner_code)
    person = scans["participant_id"][labels.index]
    for k, name in enumerate(categories):
        on = np.unique(scanner_code[code == k])
        n_people = person[code == k].nunique()
        if len(on) == 1 and n_people >= 3 and float((share**n_people).sum()) < RARE:
            yield Finding(
                "category-on-one-scanner",
                "caveat",
                f"A category of {column!r} exists on one scanner only.",
                got=f"{name!r} in {int((code == k).sum())} scans, all on {scanners[on[0]]!r}",
                expected="categories on several scanners",
                do=f"check the coding; only the other scans on it separate the effect of {name!r} from the scanner's bias",
                scans=tuple(scans["scan_id"][labels.index[code == k]]),
                columns=(column,),
            )
