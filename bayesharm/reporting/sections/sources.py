"""Sections on the sources of variation: their shares and sizes, protocol factors, and the priors of their scales."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.analysis.covariate_effects import covariate_effects
from bayesharm.analysis.variance_shares import variance_shares
from bayesharm.model.labels import NOISE_RATIO
from bayesharm.reporting.charts.base import plus_minus
from bayesharm.reporting.charts.sources import (
    named_rows,
    prior_chart,
    ranking_chart,
    shares_chart,
    sizes_chart,
)
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Section, Table
from bayesharm.reporting.words import (
    WELL_SUPPORTED,
    capitalized,
    count,
    estimate,
    named,
    on_tails,
    percent,
    removed,
    support,
    verb,
)

MAX_PAIRS = 3  # neighbors in the order of the sources that sentences compare one by one
MAX_TOLD = 4  # covariates in sentences; the table has all


def describe_sources(view: RunView) -> Section:
    """Describe the share of each source in the variance of a scan, the sizes of their effects, and their order."""
    shares = variance_shares(view.posterior)
    words, largest = _words(view, shares.index), str(shares.index[0])
    sentences = [
        f"{capitalized(words[largest])} {verb(words[largest])} the largest source of variation: {shares.iloc[0]:.0%} of the "
        "variance of a scan."
    ]
    if view.removed_effect in shares.index[1:]:
        sentences.append(f"{capitalized(removed(view))}: {shares[view.removed_effect]:.1%}.")
    sentences += on_tails(view)
    charts = [shares_chart(shares, words)]
    if view.is_preview:
        return Section(
            "Sources of variation", [*sentences, "A preview has no intervals of the sizes."], figures=tuple(charts)
        )
    components = view.variance_components
    families = components.families.dropna(subset="finite_sd").sort_values("finite_sd", ascending=False, kind="stable")
    sentences += _describe_order(view, families)
    charts.append(sizes_chart(families, words, view.scales, view.units))
    shown = families.drop(columns=families.filter(like="contribution").columns)
    caption = (
        f"Means over {count(components.about['n_features'], 'feature')}, in {view.units}, with 90% intervals. Population: "
        "standard deviation of the distribution from which the effects come (tau). Study: standard deviation of the "
        f"effects of the levels in this study.{components.about['slopes']}"
    )
    return Section("Sources of variation", sentences, (Table(named_rows(shown, words), caption),), tuple(charts))


def _words(view: RunView, names: pd.Index) -> dict[str, str]:
    labels = [*map(str, names), *map(str, view.scales), *view.posterior.spec.components]
    return {label: named(view, label) for label in labels}


def _describe_order(view: RunView, table: pd.DataFrame) -> list[str]:
    components = view.variance_components
    largest = table.index[0]
    what = named(view, largest)
    sentences = [
        f"{capitalized(what)} {verb(what, 'have', 'has')} a standard deviation of "
        f"{estimate(table.loc[largest], 'finite_sd')} in {view.units}, on average over "
        f"{count(components.about['n_features'], 'feature')}."
    ]
    neighbors = zip(table.index[:-1], table.index[1:], strict=True)
    open_pairs = [(a, b) for a, b in neighbors if components.larger.loc[a, b] < WELL_SUPPORTED]
    if len(open_pairs) > MAX_PAIRS:
        chances = [components.larger.loc[pair] for pair in open_pairs]
        sentences.append(
            f"The order of the sources is not settled: {len(open_pairs)} pairs of neighbors in the figure are in this "
            f"order with probabilities of {percent(min(chances))} to {percent(max(chances))}."
        )
        open_pairs = []
    elif not open_pairs and len(table) > 1:
        sentences.append("The order of the sources in the figure is well supported.")
    for a, b in open_pairs:
        first, second = named(view, a), named(view, b)
        sentences.append(f"That {first} {verb(first)} larger than {second} {support(components.larger.loc[a, b])}.")
    if {view.removed_effect, "disorder"} <= set(table.index):
        ratio = table.loc[view.removed_effect, "finite_sd"] / table.loc["disorder", "finite_sd"]
        probability = components.larger.loc[view.removed_effect, "disorder"]
        sentences.append(
            f"The effects of scanners are {ratio:.2f} times as large as those of diagnoses; the probability that they are "
            f"larger is {percent(probability)}."
        )
    return sentences


def describe_contributions(view: RunView) -> Section | None:
    """Describe the contribution of one level of each source to the squares of a scan, the measure of the 2019 study."""
    if view.is_preview:
        return None
    table = view.variance_components.families.filter(like="contribution").dropna()
    words = _words(view, table.index)
    percent_table = (100 * table).rename(columns=lambda name: name.replace("contribution", "percent"))
    percent_table = percent_table.sort_values("percent", ascending=False, kind="stable")
    sentences = [
        "Yamashita et al. (2019) divide the squared effect by the sum of all squared effects and the squared "
        "residual, and by the number of levels of the source. These contributions do not add up to 100%, and compare "
        "single levels: one scanner with one person. The shares above compare whole sources.",
        f"Noise, the residual of the model, contributes {table.loc['noise', 'contribution']:.1%}"
        f"{', with the residuals in the tails' * view.posterior.spec.has_tails}.",
    ]
    return Section(
        "Contributions as in the 2019 study", sentences,
        (Table(named_rows(percent_table, words), "Contribution of one level (%), with 90% intervals."),), is_folded=True,
    )  # fmt: skip


def describe_covariates(view: RunView) -> Section | None:
    """Describe the effects of covariates."""
    table = covariate_effects(view.posterior)
    if table is None:
        return None
    n = len(view.posterior.features)
    sentences = [
        f"{label}: the 90% interval excludes 0 in {row['clear']:,} of {count(n, 'feature')}; largest in {row['feature']}, "
        f"{plus_minus(row['largest'], row['largest_sd'])}."
        for label, row in table.head(MAX_TOLD).iterrows()
    ]
    if any("[" in label for label in table.index):
        sentences.append("Square brackets: a category, compared with the one that is not listed, or a column of a spline.")
    shown = table.rename(columns={
        "mean": "mean over features", "spread": "sd over features", "clear": "features without 0", "feature": "in feature",
        "largest": "largest effect", "largest_sd": "largest effect_sd",
    })  # fmt: skip
    caption = (
        "Effect of one unit of a covariate, such as a year. Mean and sd over features: of the posterior means, in sd of a "
        "feature. Features without 0: those whose 90% interval excludes 0. Largest effect: farthest from 0 in sd of a "
        f"feature; its value is in {view.feature_units}. Covariates are part of the model and stay in harmonized data."
    )
    return Section("Covariates", sentences, (Table(shown, caption),))


def describe_ranking(view: RunView) -> Section | None:
    """Describe the ranking of the components of measurement bias, in a model with protocol factors."""
    ranking = None if view.is_preview else view.variance_components.ranking
    if ranking is None:
        return None
    name, largest = ranking.index[0], ranking.iloc[0]
    sentences = [
        f"The largest component of {removed(view)} is {name}: {estimate(largest, 'rms')} in {view.units}. "
        f"Its first rank {support(largest['rank_1'])}."
    ]
    factors = [family.name for family in view.posterior.spec.factors]
    caveats = tuple(note for note in view.summary.notes if any(factor in note for factor in factors))
    return Section("Protocol factors", sentences, figures=ranking_chart(ranking, view.units), caveats=caveats)


def describe_scales(view: RunView) -> Section:
    """Describe the typical scales before and after the data."""
    spec, table = view.posterior.spec, view.summary.hyper
    names = [str(name) for name in table.index if view.scales[str(name)].family != NOISE_RATIO] if view.scales else []
    by_population = {family.name for family in spec.families if family.by == "population"}
    sampling = [name for name in names if view.scales[name].family in by_population]
    factor = np.exp(2 * 1.645 * spec.priors.eta_sd)
    sentences = [
        "The typical scale of a source is the median of its scales over features, in sd of a feature. Its 90% prior "
        f"interval spans a factor of {factor:.0f}."
    ]
    for name in sampling or [name for name in names if view.scales[name].family == view.removed_effect]:
        row = table.loc[name]
        sentences.append(
            f"For {named(view, name)} it is {estimate(row, 'scale')}, an interval that spans a factor of "
            f"{row.scale_q95 / row.scale_q05:.2f}."
        )
    if offset := spec.feature_offset_sd:
        n_features = int(view.posterior.hyper.attrs.get("features", len(view.posterior.features)))
        sd = 1 / np.sqrt(n_features / offset**2 + len(names) / spec.priors.eta_sd**2)
        sentences.append(
            f"Each feature is divided by its own sd, so that {count(n_features, 'feature')} do not determine typical scales "
            f"more closely than to a factor of about {np.exp(2 * 1.645 * sd):.2f}; their ratios are known better."
        )
    medians = {family.name: family.prior_median for family in spec.families} | {"noise": spec.noise_scale}
    medians |= {family.slope_name: family.slope_prior_median for family in spec.slopes}
    words = _words(view, table.index)
    chart = prior_chart(view.posterior.hyper, medians, spec.priors, names, words, view.scales)
    shown = named_rows(table[[name for name in table.columns if not name.startswith(("rhat", "ess"))]], words)
    caption = "Typical scale, and spread of the log-scales over features, with 90% intervals."
    return Section("Prior against posterior", sentences, (Table(shown, caption),), (chart,), is_folded=True)
