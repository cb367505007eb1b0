"""Sections on the scanners: their biases, noise and gains, and their similarity."""

from __future__ import annotations

import pandas as pd
from scipy.cluster.hierarchy import leaves_list

from bayesharm.analysis.summary import is_estimated
from bayesharm.errors import listed
from bayesharm.reporting.charts.scanners import bias_chart, bias_map, distance_chart, ratio_chart, tree_chart
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Chart, Section, Table
from bayesharm.reporting.words import LITTLE_FOUND, MOSTLY_PRIOR, estimate, removed

CLEAR = 1.1  # ratio from which a difference is named: of many intervals some exclude 1 by chance, by little
SUPPORTED_GROUP = 0.9  # share of posterior draws above which a group of scanners is reported


def describe_scanners(view: RunView) -> Section:
    """Describe the scanners with large bias, with unusual noise, and with estimates that rest on the prior."""
    table, sizes = view.summary.scanners, view.scanners
    first, last = sizes.iloc[0], sizes.iloc[-1]
    sentences = [
        f"{first.name} is furthest from the mean of all scanners: its {removed(view).replace('effects', 'effect')} is "
        f"{estimate(first, 'rms')} in {view.units} (root mean square over features, with its 90% interval)"
        + (f"; {last.name} is nearest, {estimate(last, 'rms')}." if len(sizes) > 1 else ".")
    ]
    if len(sizes) > 1 and first.rms_q05 < sizes.rms_q95.iloc[1:].max():
        sentences.append("Intervals overlap: which scanner is furthest from the mean is not settled.")
    if view.before_after.is_little:
        sentences.append(LITTLE_FOUND)
    sentences += describe_noise(table)
    charts: list[Chart] = [bias_chart(table), ratio_chart(table, "noise_ratio", "Noise variance ratio")]
    if is_estimated(table, "bias_ratio") and (table["bias_ratio_q05"] > 1).any():
        large = table[table["bias_ratio_q05"] > 1].sort_values("bias_ratio", ascending=False, kind="stable")
        named = listed(f"{name} (bias variance ratio {ratio:.2f})" for name, ratio in large["bias_ratio"].items())
        sentences.append(f"Larger biases than the average scanner, over all features: {named}.")
    if is_estimated(table, "gain"):
        sentences += describe_gains(table)
        charts.append(ratio_chart(table, "gain", "Gain"))
    if len(uncertain := table.index[table["from_data"] < MOSTLY_PRIOR]):
        rests = "estimate rests" if len(uncertain) == 1 else "estimates rest"
        sentences.append(f"For {listed(map(str, uncertain))} the {rests} more on the prior than on the data.")
    return Section("Scanners", sentences, (scanner_table(view),), tuple(charts))


def scanner_table(view: RunView) -> Table:
    """Return the table of scanners: numbers of scans and travelers, bias, noise, gain, and the share from the data."""
    table, design = view.summary.scanners, view.posterior.design
    frame = pd.DataFrame({
        "scans": design["n_scans"].to_series().loc[table.index],
        "travelers": design["n_travelers"].to_series().loc[table.index],
        "bias": table["bias"], "bias_sd": table["uncertainty"],
    })  # fmt: skip
    for ratio in ("noise_ratio", "bias_ratio", "gain"):
        if ratio == "noise_ratio" or is_estimated(table, ratio):
            for end in ("", "_q05", "_q95"):
                frame[f"{ratio}{end}"] = table[f"{ratio}{end}"]
    frame["from data (%)"] = 100 * table["from_data"]
    caption = (
        "Bias: posterior mean ± posterior sd, root mean squares over features, in sd of a feature. Noise, bias and "
        "gain ratios: relative to the average scanner, with 90% intervals; a ratio of 1 (1 to 1) is not estimated. From "
        "data: share of the information on the bias that comes from the data, not the prior. Pale: more prior than data."
    )
    return Table(frame.rename_axis("scanner"), caption, list(table["from_data"] < MOSTLY_PRIOR))


def describe_noise(table: pd.DataFrame) -> list[str]:
    """Name the scanners with a noise variance ratio (lambda) that clearly differs from 1, by a tenth or more."""
    ratio = table["noise_ratio"]
    noisy = table[(table["noise_ratio_q05"] > 1) & (ratio > CLEAR)].sort_values(
        "noise_ratio", ascending=False, kind="stable"
    )
    quiet = table[(table["noise_ratio_q95"] < 1) & (ratio < 1 / CLEAR)].sort_values("noise_ratio", kind="stable")
    sentences = []
    for subset, comparison in ((noisy, "Noisier"), (quiet, "Less noisy")):
        if len(subset):
            named = listed(f"{name} (noise variance ratio {ratio[name]:.2f})" for name in subset.index)
            sentences.append(f"{comparison} than the average scanner: {named}.")
    return sentences or ["No scanner is clearly noisier or less noisy than the average."]


def describe_gains(table: pd.DataFrame) -> list[str]:
    """Name the scanners whose gain differs from 1."""
    far = table[(table["gain_q05"] > 1) | (table["gain_q95"] < 1)].sort_values("gain", ascending=False, kind="stable")
    if far.empty:
        return ["Differences between people are about as large on all scanners: no gain is clearly above or below 1."]
    named = listed(f"{name} (gain {gain:.2f})" for name, gain in far["gain"].items())
    return [f"Differences between people are larger (gain above 1) or smaller than on the average scanner on {named}."]


def describe_similarity(view: RunView) -> Section | None:
    """Describe the most similar and most different scanners, and the groups of scanners."""
    if len(view.posterior.scanners) < 2:
        return None
    pairs, splits = view.similarity.pairs, view.similarity.splits
    near, far = pairs["distance"].idxmin(), pairs["distance"].idxmax()
    groups = splits.iloc[:-1]
    supported = groups[groups["support"] >= SUPPORTED_GROUP]
    sentences = [
        f"{near[0]} and {near[1]} have the most similar bias maps, at a distance of "
        f"{estimate(pairs.loc[near], 'distance')} in {view.units}; {far[0]} and {far[1]} have the most different, at "
        f"{estimate(pairs.loc[far], 'distance')}.",
        f"The bias maps of {near[0]} and {near[1]} have a correlation of {pairs.loc[near, 'correlation']:.2f} over "
        "features. Biases are centered over scanners: for unrelated scanners it would be "
        f"{-1 / (len(view.similarity.scanners) - 1):.2f}.",
    ]
    for _, row in supported.iterrows():
        others = [name for name in view.similarity.scanners if name not in row.scanners.split(", ")]
        group = f"{others[0]} stands apart from all others" if len(others) == 1 else f"{row.scanners} form a group"
        sentences.append(f"{group} in {row.support:.0%} of the posterior draws.")
    if len(groups) and supported.empty:
        sentences.append(
            f"The best supported group of scanners occurs in {groups['support'].max():.0%} of the posterior draws: the data "
            "allow other trees."
        )
    charts = tree_chart(view.similarity, view.units), distance_chart(view.similarity, view.units)
    table = Table(splits.rename(columns={"scanners": "group"}).set_index("group"), "Groups of the tree, closest first.")
    return Section("Similarity of scanners", sentences, (table,), charts)


def describe_bias_map(view: RunView) -> Section | None:
    """Show the bias of each scanner in the features with the largest biases."""
    if len(view.posterior.scanners) < 2:
        return None
    result, groups = view.before_after, None
    bias = pd.DataFrame(result.bias, view.bias.index, view.bias.columns)
    if view.edge_table is not None and view.networks is not None:
        groups = view.network_pairs
    chart = bias_map(bias, groups, leaves_list(view.similarity.linkage))
    size = (bias**2).mean().pow(0.5).sort_values(ascending=False)
    top = ", ".join(str(name) for name in size.index[:5])
    return Section("Where the biases are large", [f"The features with the largest biases: {top}."], figures=(chart,))
