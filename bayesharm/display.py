"""Tables and sentences of a summary, for a terminal or a text file of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from bayesharm.compare import Comparison
    from bayesharm.populations import Populations
    from bayesharm.similarity import Similarity
    from bayesharm.sources import Sources
    from bayesharm.summary import Summary

MEANING = {
    "measurement": "what a scanner does to everybody",
    "sampling": "how the people of a site differ",
    "site": "scanner and people of a site together",
    "disorder": "what a diagnosis does",
    "participant": "how people differ",
    "noise": "what changes from scan to scan",
    "scanner": "what protocol factors leave of measurement",
}


MOST_LEVELS = 20


def as_text(thing: Any) -> str:
    """What would be on a terminal of 80 columns, without colours."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=80, color_system=None).print(thing)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def show(thing: Any) -> None:
    """Print on the terminal with colours, as plain text elsewhere."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(thing)
    else:
        print(thing)


def render(summary: Summary) -> Group:
    """The summary for a terminal or a text file, for 80 columns or more."""
    from rich.console import Group
    from rich.text import Text

    about = summary.about
    counts = (
        f"{about['n_scans']:,} scans, {about['n_scanners']} scanners, {about['n_features']:,} features, seed {about['seed']}"
    )
    head = Text.assemble((f"Model {about['model']}", "bold"), f"\n{about['title']}\n{counts}\n")
    return Group(
        head,
        sources_table(summary),
        hyper_table(summary),
        scanners_table(summary),
        bullets("Convergence", summary.verdicts),
        bullets("Beware", summary.notes),
    )


def bullets(title: str, sentences: Iterable[str]) -> Group:
    """Sentences below a title; nothing if there are none."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for sentence in sentences:
        table.add_row(" -", Text(sentence))
    return Group(Text(title, "bold"), table, Text("")) if table.row_count else Group()


def sources_table(summary: Summary) -> Table:
    """Size of each source of differences; in units only if the features may share one."""
    mixed = summary.sources["rms"].isna().all()
    table = make_table(
        "Size of each source of differences between scans",
        f"Root mean square over levels and features, what is uncertain of them included. {_unit(summary)}"
        + ("" if mixed else " Units: the features' own."),
        ["source", "in sd", *([] if mixed else ["in units"]), "what it is"],
    )
    for source, row in summary.sources.sort_values("rms_in_sd", ascending=False).iterrows():
        in_units = [] if mixed else [f"{row.rms:.4g}"]
        other = "part of measurement" if source in summary.about["parts"] else ""
        table.add_row(str(source), f"{row.rms_in_sd:.3f}", *in_units, MEANING.get(str(source), other))
    return table


def _unit(summary: Summary) -> str:
    return {
        "each": "Sd: of each feature over the scans.",
        "shared": "Sd: one for all features, root mean square of theirs over the scans.",
    }[summary.about["units"]]


def hyper_table(summary: Summary) -> Table:
    """Hyperparameters with their intervals."""
    apart = ", what all scales of a feature share apart" if summary.about["units"] == "each" else ""
    table = make_table(
        "Scales over all features, with 90% intervals",
        f"Typical: exp(eta), in sd. Spread: omega, how much the log scale differs between features{apart}. {_unit(summary)}",
        ["family", "typical", "90% interval", "spread", "90% interval"],
    )
    for family, row in summary.hyper.iterrows():
        cells = [cell for name in ("scale", "spread") for cell in _with_interval(row, name)]
        table.add_row(str(family), *cells)
    return table


def scanners_table(summary: Summary, most: int = 20) -> Table:
    """Scanners, those with the largest bias first."""
    some = summary.scanners.head(most)
    sized = ["prior size"] if (some["bias_ratio_q05"] < some["bias_ratio_q95"]).any() else []  # else it is 1
    title = "Scanners, largest bias first"
    if len(some) < len(summary.scanners):
        title += f" ({len(some)} of {len(summary.scanners)}; all of them: bayesharm summary RUN --out FOLDER)"
    table = make_table(
        title,
        "Bias (posterior mean) and its posterior sd: root mean square over features, in sd. Noise: "
        "variance against the average scanner."
        + (" Prior size: the same of the variance from which its biases are. " if sized else " ")
        + f"From data: share of what is known about the bias that comes from the data, not the prior. {_unit(summary)}",
        ["scanner", "bias", "± sd", "noise", "90% interval", *sized, "from data"],
    )
    for scanner, row in some.iterrows():
        share = "" if np.isnan(row.from_data) else f"{row.from_data:.0%}"
        noise, size = _with_interval(row, "noise_ratio", 2), [f"{row.bias_ratio:.2f}"] if sized else []
        table.add_row(str(scanner), f"{row.bias:.3f}", f"{row.uncertainty:.3f}", *noise, *size, share)
    return table


def render_sources(sources: Sources) -> Group:
    """Sizes of the sources, their order, and the levels with the largest effects."""
    from rich.console import Group

    about, families = sources.about, sources.families.sort_values("finite_sd", ascending=False, na_position="last")
    unit = "In the features' own units." if about["unit"] != "sd" else "In sd of each feature over the scans."
    sizes = make_table(
        "Sources of differences, with 90% intervals",
        f"Means over {about['n_features']:,} features. Scale: sd of the population that effects come from. Effects: sd of "
        f"those that are there. {unit} Share: contribution to a scan's squares, by level.",
        ["source", "scale", "90% interval", "effects", "90% interval", "share"],
    )
    for family, row in families.iterrows():
        cells = [*_significant(row, "tau"), *_significant(row, "finite_sd")]
        sizes.add_row(str(family), *cells, f"{row.contribution:.2%}")
    told = families.finite_sd.notna()
    if sources.ranking is not None:  # which have a table of their own
        told &= ~families.index.isin(sources.ranking.index)
    order = [str(name) for name in families.index[told]]
    ranks = make_table(
        "Which is larger",
        "Probability that the effects of a source are larger than those of the next, in the mean over features.",
        ["source", "next", "probability"],
    )
    for one, other in zip(order[:-1], order[1:], strict=True):
        ranks.add_row(one, other, _probability(sources.larger.loc[one, other]))
    parts = [sizes, ranks]
    if sources.ranking is not None:
        parts.append(ranking_table(sources.ranking, unit))
    for name, table in sources.levels.groupby("family", sort=False):
        largest = table.droplevel("family").sort_values("rms", ascending=False)
        level = make_table(
            f"{str(name)[0].upper()}{str(name)[1:]}, largest first"
            + (f" ({MOST_LEVELS} of {len(table)})" if len(table) > MOST_LEVELS else ""),
            f"Root mean square over features of the effect, what is uncertain of it included. {unit}",
            ["level", "rms", "90% interval"],
        )
        for label, row in largest.head(MOST_LEVELS).iterrows():
            level.add_row(str(label), *_significant(row, "rms"))
        parts.append(level)
    return Group(*parts)


def render_populations(found: Populations) -> Group:
    """Whether sites sample populations of their own, how well that predicts, and a verdict for each diagnosis."""
    from rich.console import Group

    about = found.about
    table = make_table(
        "One population or several",
        f"From {about['n_teachers']} features, which go together and count as {about['n_effective']:.0f}. Log Bayes factors "
        "against no sampling bias in any feature: where some features have it, or all. Share: of features that have it, "
        "with its 90% interval. Scale: typical for those, in sd of a feature.",
        ["sampling bias", "some", "all", "share", "90% interval", "scale"],
    )
    for family, row in found.families.iterrows():
        share = _with_interval(row, "share", 2)
        table.add_row(str(family), f"{row.log_bayes_factor_some:+.1f}", f"{row.log_bayes_factor_all:+.1f}", *share,
                      f"{row.scale:.3f}")  # fmt: skip
    left = make_table(
        "Predicting what is left out",
        "Log predictive density with sampling bias less that without, summed over features; se: over sites or participants.",
        ["sampling bias", "left out", "number", "features", "difference", "se"],
    )
    for (family, what), row in found.predictions.iterrows():
        numbers = f"{row.n:.0f}", f"{row.n_features:.0f}", f"{row.difference:+.1f}", f"{row.se:.1f}"
        left.add_row(str(family), str(what), *numbers)
    return Group(table, left, bullets("Verdict", found.verdicts()), bullets("Beware", found.notes))


def render_comparison(found: Comparison) -> Group:
    """What each run predicts, which is better, and how predictions fit the scans of each scanner."""
    from rich.console import Group

    about, (one, other) = found.about, found.about["runs"]
    table = make_table(
        f"{one} against {other}",
        f"Log predictive density of what was left out, {about['folds']} folds, summed over {about['n_features']:,} of "
        f"{about['of_features']:,} features. Positive differences: the first is better; se over what was left out.",
        ["left out", "number", one, other, "difference", "se"],
    )
    for what, row in found.predictions.iterrows():
        values = (f"{row[name]:,.1f}" for name in (f"elpd_{one}", f"elpd_{other}", "difference", "se"))
        table.add_row(str(what), f"{row.n:.0f}", *values)
    checks = make_table(
        "Scans of people left out, against what was predicted",
        "Standardized residuals over scans and features: mean (0 if all is well), sd (1), share outside the 90% interval "
        "(10%), and more than 3 sd away (0.3%).",
        ["run", "scanner", "mean", "sd", "outside", "far"],
    )
    for (run, scanner), row in found.checks.iterrows():
        away = f"{row['mean']:+.2f}", f"{row.sd:.2f}", f"{row.outside:.1%}", f"{row.far:.1%}"
        checks.add_row(str(run), str(scanner), *away)
    return Group(table, checks, bullets("Verdict", found.verdicts()), bullets("Beware", found.notes))


def render_similarity(similarity: Similarity) -> Group:
    """For each scanner the one that is nearest, and the groups that scanners form."""
    from rich.console import Group

    about, pairs = similarity.about, similarity.pairs.sort_values("distance", kind="stable")
    unit = "in sd of each feature over the scans" if about["unit"] == "sd" else "in the features' own units"
    unrelated = -1 / (len(similarity.scanners) - 1)
    nearest = make_table(
        "Which scanner is nearest, with 90% intervals",
        f"Distance of bias maps: root mean square difference over {about['n_features']:,} features, {unit}, what is "
        f"uncertain of it included. r: correlation over features; unrelated scanners have {unrelated:.2f}.",
        ["scanner", "nearest", "distance", "90% interval", "r", "90% interval"],
    )
    for (scanner, other), row in pairs[~pairs.index.get_level_values("scanner").duplicated()].iterrows():
        correlation = _with_interval(row, "correlation", 2)
        nearest.add_row(str(scanner), str(other), *_significant(row, "distance"), *correlation)
    groups = make_table(
        "Groups of scanners, closest first",
        "Average linkage of the distances. Support: share of posterior draws whose tree has the group.",
        ["scanners", "distance", "support"],
    )
    for _, row in similarity.splits.iloc[:-1].iterrows():  # the last are all
        groups.add_row(row.scanners, f"{row.distance:#.3g}", f"{row.support:.0%}")
    parts = [nearest, *([groups] if groups.row_count else [])]
    return Group(*parts, *([bullets("Beware", [about["remark"]])] if about["remark"] else []))


def ranking_table(ranking: pd.DataFrame, unit: str) -> Table:
    """Sizes and order of protocol factors and of what they leave."""
    places = [name for name in ranking if str(name).startswith("rank_")]
    largest, probability = ranking.index[0], _probability(ranking.rank_1.iloc[0])
    table = make_table(
        f"Parts of measurement; {largest} is the largest: {probability}",
        "Rms: root mean square over features of the sd of the effects that are there, which does not depend on how many "
        f"levels a factor has. {unit} Then the probability of each place. Scanner: what protocol factors leave. The summary "
        "says which of them nothing but priors tells apart.",
        ["part", "rms", "90% interval", *(f"{k}." for k in range(1, len(places) + 1))],
    )
    for family, row in ranking.iterrows():
        table.add_row(str(family), *_significant(row, "rms"), *(f"{row[name]:.2f}" for name in places))
    return table


def _significant(row: pd.Series, name: str) -> tuple[str, str]:
    """A size in any unit and its interval, three digits of each."""
    if np.isnan(row[name]):
        return "", ""
    value, low, high = (f"{row[column]:#.3g}" for column in (name, f"{name}_q05", f"{name}_q95"))
    return value, f"{low} to {high}"


def _probability(value: float) -> str:
    return "> 0.999" if value > 0.999 else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _with_interval(row: pd.Series, name: str, digits: int = 3) -> tuple[str, str]:
    low, high = row[f"{name}_q05"], row[f"{name}_q95"]
    return f"{row[name]:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def make_table(title: str, caption: str, columns: Iterable[str]) -> Table:
    """An empty table as all of ours are; columns of text to the left, of numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=caption + "\n",
        caption_justify="left",
        caption_style="dim",
        width=78,
    )
    for k, name in enumerate(columns):
        table.add_column(name, justify="left" if k == 0 or name == "what it is" else "right", overflow="fold")
    return table
