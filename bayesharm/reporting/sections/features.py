"""Sections on features: any feature by name, brain regions, and the evidence for sampling bias."""

from __future__ import annotations

from bayesharm.reporting.charts.features import feature_chart, networks_chart, populations_chart, regions_chart
from bayesharm.reporting.feature_data import choose_features
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Chart, Picture, Section, Table
from bayesharm.reporting.words import capitalized, count, estimate, named, verb


def describe_features(view: RunView) -> Section:
    """Offer the biases of every feature: by name, and sorted."""
    result, effect = view.before_after, view.posterior.effect(view.removed_effect)
    chosen = choose_features(result)
    first, n = int(chosen[0]), len(view.posterior.features)
    all_of = f"All {n:,}" if len(chosen) == n else f"{len(chosen):,} of {n:,}"
    chart = feature_chart(
        result.bias[:, first], result.sd[:, first], effect["contraction"].values,
        [str(name) for name in effect["scanner"].values], view.posterior.features[first],
    )  # fmt: skip
    sentences = [
        f"{all_of} features are here, those with the largest biases first. Search for a name, choose a scanner, and "
        "click on a row: all figures of single features follow. Spread: expected size of the scanner biases before "
        "and after harmonization, in sd of the feature."
    ]
    return Section("Features", sentences, figures=(chart,), live="features")


def describe_regions(view: RunView) -> Section | None:
    """Describe the brain regions and networks with the largest effects."""
    if view.edge_table is None or view.is_preview:
        return None
    family = view.mapped_effect
    what = named(view, family)
    table, mean = view.regions(family), view.variance_components.families.loc[family, "finite_sd"]
    n_above = int((table["finite_sd_q05"] > mean).sum())
    sentences = [
        f"{capitalized(what)} {verb(what)} largest in the edges of {table.index[0]}, "
        f"{estimate(table.iloc[0], 'finite_sd')}, and smallest in those of {table.index[-1]}, "
        f"{estimate(table.iloc[-1], 'finite_sd')}, in {view.units}.",
        f"In {n_above} of {count(len(table), 'region')} the 90% interval lies above the mean over all features, {mean:#.3g}."
        + ("" if n_above else " No region stands out."),
    ]
    figures: list[Chart | Picture] = [regions_chart(table, mean, what, view.units)]
    if view.networks is not None:
        square = view.networks_of(family)
        pair = square.stack().idxmax()
        where = f"within {pair[0]}" if pair[0] == pair[1] else f"between {pair[0]} and {pair[1]}"
        sentences.append(f"Among pairs of networks {what} {verb(what)} largest {where}, {square.loc[pair]:#.3g}.")
        figures.append(networks_chart(square, what, view.units))
    if view.coordinates is not None:
        figures += brain_pictures(view, what)
    columns = ["finite_sd", "finite_sd_q05", "finite_sd_q95"]
    shown = Table(table[columns].rename_axis("region"), f"Mean over a region's edges, in {view.units}, with 90% intervals.")
    return Section("Regions", sentences, (shown,), tuple(figures))


def brain_pictures(view: RunView, what: str) -> list[Picture]:
    """Draw the regions and the largest edges on a glass brain."""
    from io import BytesIO

    from bayesharm.reporting.plots.brain import connectome_scene, plot_brain, plot_connectome

    pictures = []
    for draw, words in ((plot_brain, "by region"), (plot_connectome, "of the largest edges")):
        data = BytesIO()
        draw(view).savefig(data, format="webp", dpi=220, pil_kwargs={"quality": 85})  # a fifth of the size of SVG
        caption = f"Size of {what} {words}, on a glass brain: standard deviation of the effects, in {view.units}."
        scene = connectome_scene(view) if draw is plot_connectome else ""
        pictures.append(Picture(data.getvalue(), caption, f"Glass brain: size of {what} {words}.", scene))
    return pictures


def describe_populations(view: RunView) -> Section | None:
    """Describe the evidence for one population or several, if it was computed."""
    if view.populations is None:
        return None
    test, table = view.populations, view.populations.families
    sentences = []
    for name, conclusion in zip(table.index, test.conclusions(), strict=True):
        row = table.loc[name]
        largest = max(row["log_bayes_factor_some"], row["log_bayes_factor_all"])
        share = f"{row['share']:.0%} ({row['share_q05']:.0%} to {row['share_q95']:.0%}) of the features have sampling bias"
        if row["log_bayes_factor_all"] >= row["log_bayes_factor_some"]:
            share = "no evidence for features without sampling bias"
        sentences.append(
            f"{capitalized(conclusion)}; ½ before the data, log Bayes factor {largest:+.1f}"
            + (f"; {share}." if row["probability"] > 0.5 else ".")
        )
    for unit_type, row in test.predictions.loc[table.index[-1]].iterrows():
        better = "better" if row["difference"] > 0 else "worse"
        sentences.append(
            f"With sampling bias, held-out {unit_type} are predicted {better}, by {abs(row['difference']):.1f} in log "
            f"density (standard error {row['se']:.1f})."
        )
    frame = table.drop(columns=["khat", "is_reliable"])
    return Section("One population or several", sentences, (Table(frame),), (populations_chart(test),))
