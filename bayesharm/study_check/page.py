"""The check of a study as one page of text, 100 columns wide."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayesharm.errors import listed
from bayesharm.results.console import bullets, make_table
from bayesharm.study_check.confounding import LITTLE
from bayesharm.study_check.counts import Counts
from bayesharm.study_check.feature_values import FeatureCheck
from bayesharm.study_check.gains import MOST
from bayesharm.study_check.links import Links
from bayesharm.study_check.precision import INSEPARABLE, Precision

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

PAGE_WIDTH = 100
MAX_SCANNERS, MAX_MATRIX, MAX_DESCRIBED = 30, 12, 2
MAX_PAIRS, MAX_CONFOUNDED = 3, 10
MAX_ERRORS = 10  # at the end of the page
CORRECT = "Correct the errors listed below and at the end of this page, then check again."
MIN_INFLATION = 1.1  # of the rows that are shown
EFFECTS = {
    "measurement": "measurement bias",
    "sampling": "sampling bias",
    "disorder": "disorder effect",
    "site": "site effect",
}


def render_page(check: Any) -> Group:
    """Render a :class:`~bayesharm.study_check.result.StudyCheck`: the verdict first, then the tables it rests on."""
    from rich.console import Group
    from rich.text import Text

    counts, verdict, precision = check.counts, check.verdict, check.precision
    parts: list[Any] = [
        Text.assemble(("Study check", "bold"), f"\n{_totals(counts, check.features)}\n"),
        bullets("Verdict", (*verdict.sentences, *verdict.advice)),
        Text.assemble(("Next\n", "bold"), f"    {CORRECT}" if check.is_refused else _wrap_command(verdict.command), "\n"),
    ]
    errors = [finding for finding in check.findings if finding.severity == "error"]
    others = [finding for finding in check.findings if finding.severity != "error"]
    refused = f"Errors: a fit refuses this study ({len(errors)})"
    parts.append(bullets(refused, (each.sentence for each in errors)))
    parts.append(bullets(f"Findings ({len(others)})", (each.sentence for each in others)))
    parts.append(bullets("Caveats of the design", check.caveats))
    parts.append(scanner_table(check))
    parts.append(links_table(check.links, counts))
    if check.confounding["with"].isin(["scanner", "diagnosis", *check.protocol]).any():
        parts.append(confounding_table(check.confounding, check.protocol))
    if precision is not None:
        title = "Variance inflation (variance of an effect, relative to its variance if the other term were known)"
        parts.append(bullets(title, describe_inflation(precision)))
        parts.append(bullets("Least certain differences between scanners, sd of a feature", describe_pairs(precision)))
    if check.gains is not None:
        title = "What more travelers would add, people with one scan on each of two scanners"
        parts.append(bullets(title, describe_gains(check.gains)))
    if check.features is not None:
        parts.append(bullets("Features", describe_features(check.features, counts.totals["scans"])))
    more = [f"{len(errors) - MAX_ERRORS} more, above."] if len(errors) > MAX_ERRORS else []
    parts.append(bullets(refused, [*(each.what for each in errors[:MAX_ERRORS]), *more]))  # once more, as the last lines
    return Group(*parts)


def _wrap_command(command: str) -> str:
    """Break a command between words, so that it can be copied as it is printed."""
    if not command.startswith("bayesharm "):
        return f"    {command}"
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):  # quoted words stay whole
        if lines[-1] and len(lines[-1]) + len(word) > PAGE_WIDTH - 12:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(" " * (8 if k else 4) + line for k, line in enumerate(lines))


def _totals(counts: Counts, features: FeatureCheck | None) -> str:
    total = counts.totals
    parts = [
        f"{total['scans']:,} scans of {total['people']:,} people on {total['scanners']} scanners",
        f"{total['travelers']} traveler{'' if total['travelers'] == 1 else 's'}",
        f"{total['people_scanned_once']:,} people scanned once",
    ]
    if features is not None:
        parts.append(f"{features.n_features:,} feature{'' if features.n_features == 1 else 's'}")
    return ", ".join(parts)


def scanner_table(check: Any) -> Table:
    """Render scans, people, diagnoses, age, sex and the expected precision by scanner."""
    counts, precision = check.counts, check.precision
    has_precision = precision is not None and "expected_sd" in precision.scanners
    scanners = counts.scanners.head(MAX_SCANNERS)
    cells = {
        "scanner": scanners.index.map(str),
        "scans": scanners.n_scans.map(_count),
        "people": scanners.n_people.map(_count),
        "travelers": scanners.n_travelers.map(_count),
    }
    if has_precision:
        expected = precision.scanners.reindex(scanners.index)  # a model of travelers has no other scanners
        cells["± sd"] = expected.expected_sd.map("± {:.2f}".format, na_action="ignore").fillna("not in model")
        cells["from data"] = expected.from_data.map("{:.0%}".format, na_action="ignore").fillna("")
    extra = {str(name): counts.diagnoses.loc[scanners.index, name].map(_count) for name in counts.diagnoses}
    extra |= {str(name): counts.described.loc[scanners.index, name] for name in counts.described.columns[:MAX_DESCRIBED]}
    shown = _that_fit(extra, PAGE_WIDTH - 3 - sum(map(_width, cells.items())))
    diagnoses = [name for name in shown if name in counts.diagnoses]
    caption = "People: with a scan there. Travelers: with scans on two or more scanners."
    if diagnoses:
        caption += (
            f" {listed(diagnoses)}: people with scans on one scanner only; people who change scanners within their site "
            "belong to its populations too."
        )
    if len(shown) < len(extra):
        caption += f" In the JSON only: {listed([name for name in extra if name not in shown])}."
    if has_precision:
        caption += _explain_precision(check)
    columns = {name: cells[name] for name in ("scanner", "scans", "people", "travelers")} | shown
    columns |= {name: cells[name] for name in ("± sd", "from data") if name in cells}
    table = make_table(_title("Scanners", counts.scanners), caption, columns, PAGE_WIDTH)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _that_fit(columns: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return as many columns as fit into a width, in their order."""
    shown = {}
    for name, cells in columns.items():
        width -= _width((name, cells))
        if width >= 0:
            shown[name] = cells
    return shown


def _width(column: tuple[str, Iterable[str]]) -> int:
    """Width of a column of a table, with the space beside it."""
    return max(len(column[0]), *map(len, column[1])) + 3


def _explain_precision(check: Any) -> str:
    precision = check.precision
    sizes = ", ".join(f"{name} {value:.2f}" for name, value in precision.scales.items())
    origin = "estimated from the features" if check.scales_from == "features" else "the prior medians of the model"
    before = precision.scanners.prior_sd.mean()
    return (
        f" ± sd: expected posterior sd of the {EFFECTS.get(precision.effect, precision.effect)} of the scanner, relative to "
        f"the mean of all scanners, in sd of a feature over scans; before the data it is {before:.2f}. From data: share of "
        f"the information that comes from the data, not from the prior. For these sds, {origin}: {sizes}."
    )


def links_table(links: Links, counts: Counts) -> Any:
    """Render the travelers whom scanners share: a matrix, or sentences where there are many scanners; and who they are."""
    from rich.console import Group

    names = list(links.shared.index)
    if len(links.components) == len(names):
        return Group()
    sentences = _describe_travelers(counts)
    if len(links.components) > 1:
        sentences.append("Linked groups: " + "; ".join(listed(group, 8) for group in links.components) + ".")
    shared = links.pairs.travelers
    if shared.min() == shared.max():
        return bullets("Travelers", [*sentences, f"Every two scanners share {shared.min()} travelers."])
    if len(names) > MAX_MATRIX or sum(map(len, names)) + 2 * len(names) > PAGE_WIDTH - 20:
        weak = links.pairs[links.pairs.travelers > 0].sort_values("travelers", kind="stable").head(MAX_PAIRS)
        pairs = (f"{row.first} and {row.second} ({row.travelers})" for row in weak.itertuples())
        sentences.append(f"Fewest shared travelers, of pairs that share any: {listed(pairs)}.")
        return bullets("Travelers", sentences)
    caption = "Number of travelers with scans on both scanners; on the diagonal, all travelers of the scanner."
    table = make_table("Travelers shared by scanners", caption, ["", *names], PAGE_WIDTH)
    for name in names:
        table.add_row(name, *(_count(links.shared.loc[name, other]) for other in names))
    return Group(table, bullets("Travelers", sentences))


def _describe_travelers(counts: Counts) -> list[str]:
    visits, people = counts.travelers, counts.scans_per_person
    many = "; ".join(
        f"{n} scan{'' if n == 1 else 's'}: {count:,} {'person' if count == 1 else 'people'}"
        for n, count in list(people.items())[:6]
    )
    more = f"; more: {people.iloc[6:].sum():,} people" if len(people) > 6 else ""
    return [
        f"{len(visits)} traveler{'' if len(visits) == 1 else 's'}, each on {_range(visits.n_scanners)} scanners with "
        f"{_range(visits.n_scans)} scans.",
        f"Scans per person: {many}{more}.",
    ]


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high} (median {values.median():g})"


def confounding_table(confounding: pd.DataFrame, protocol: Sequence[str]) -> Any:
    """Render what goes with the scanner and the diagnosis, and with one another the protocol factors of the model."""
    confounding = confounding[confounding["with"].isin(["scanner", "diagnosis", *protocol])]
    is_balanced = confounding.share < LITTLE
    shown = confounding[~is_balanced].head(MAX_CONFOUNDED)
    if shown.empty:
        return bullets("What goes with what", [_balanced(confounding)])
    table = make_table(
        "What goes with what",
        "Share: share of the variance of the first that lies between levels of the second, adjusted for chance, over "
        "people."
        + (" Between protocol factors: squared canonical correlation over scanners." if protocol else "")
        + (f" {_balanced(confounding[is_balanced])}" if is_balanced.any() else ""),
        ["column", "with", "share", "description"],
        PAGE_WIDTH,
    )
    for row in shown.itertuples():
        table.add_row(row.of, str(row[2]), f"{row.share:.0%}", row.in_words)
    return table


def _balanced(rows: pd.DataFrame) -> str:
    named = [f"{of} with {other}" for of, other in zip(rows.of, rows["with"], strict=True)]
    return f"Balanced (less than {LITTLE:.0%}): {listed(named)}."


def describe_inflation(precision: Precision) -> list[str]:
    """Say how much more certain an effect would be if another term of the model were known."""
    sentences = []
    for row in precision.inflation[precision.inflation.largest >= MIN_INFLATION].itertuples():
        of, by = (EFFECTS.get(each, each) for each in (row.of, row.by))
        factor = f"{row.mean:.1f} on average, {row.largest:.1f}"
        if row.largest > INSEPARABLE:
            factor = "the data cannot tell one from the other"
        sentences.append(f"{of} by {by}: {factor} for {row.level}.")
    return sentences


def describe_pairs(precision: Precision) -> list[str]:
    """Name the pairs of scanners whose difference will be least certain, and the evidence on it."""
    return [
        f"{row.first} and {row.second}: ± {row.expected_sd:.2f}, {row.from_data:.0%} from the data (travelers alone: "
        f"{row.from_travelers:.0%}), rests on {row.rests_on}."
        for row in precision.pairs.head(MAX_PAIRS).itertuples()
    ]


def describe_gains(gains: pd.DataFrame) -> list[str]:
    """Say what travelers between the best pairs of scanners would add."""
    sentences = []
    for row in gains.head(MAX_PAIRS).itertuples():
        link = f" {row.to_link} people alone would give half of the information," if row.to_link > 0 else ""
        halve = f"{row.to_halve} halve the sd" if row.to_halve > 0 else f"more than {MOST} halve the sd"
        sentences.append(
            f"{row.first} and {row.second}: ± {row.sd_0:.3f} now, ± {row.sd_2:.3f} with two more;{link} {halve}."
        )
    return sentences


def describe_features(features: FeatureCheck, n_scans: int) -> list[str]:
    """Describe missing values in sentences; other findings on features are among the findings."""
    n_values = int(features.missing.n_missing.sum())
    if not n_values:
        return [f"{features.n_features:,} features, no value is missing."]
    return [
        f"{n_values:,} of {features.n_features * n_scans:,} values are missing "
        f"({n_values / features.n_features / n_scans:.1%}), in {len(features.missing):,} of {features.n_features:,} "
        f"features and {len(features.missing_scans):,} of {n_scans:,} scans.",
        f"Most in features {_named_counts(features.missing)}; most in scans {_named_counts(features.missing_scans)}.",
    ]


def _named_counts(table: pd.DataFrame) -> str:
    return listed([f"{name} ({count:,})" for name, count in table.n_missing.head(3).items()])


def _title(title: str, table: Sequence[Any] | pd.DataFrame) -> str:
    return title if len(table) <= MAX_SCANNERS else f"{title} ({MAX_SCANNERS} of {len(table)}; all of them are in the JSON)"


def _count(value: Any) -> str:
    return f"{int(value):,}" if value else "·"
