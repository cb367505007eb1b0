"""Variance components: the size of each source of variation, over features, brain regions and levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesharm.analysis.family_sizes import FamilySizes, level_scale_errors, lognormal_interval, stretch_means
from bayesharm.analysis.units import common_units, feature_scale, on_slopes, slope_columns
from bayesharm.data.parcellation import group_by_networks, group_by_region, read_edge_regions
from bayesharm.errors import InputError
from bayesharm.inference.error_patterns import variance_inflation
from bayesharm.io.tables import TableSource
from bayesharm.results.console import as_text, format_probability, format_significant, make_table
from bayesharm.results.posterior import Posterior
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

MAX_LEVELS = 20  # rows of a printed table of levels


@dataclass(frozen=True, eq=False, repr=False)
class VarianceComponents(Tables):
    """Sizes of the sources of variation. Intervals are 90%: columns `…_q05` and `…_q95`.

    Attributes
    ----------
    about : dict
        `units` of `tau`, `finite_sd` and `rms`; `slopes`, what slopes are; `n_features`; `model`.
    families : DataFrame by family
        Means over features of `tau`, the standard deviation of the distribution from which effects are drawn; `finite_sd`,
        the standard deviation of the effects in this study; and `contribution`, the share of a scan's squares per level.
    larger : DataFrame, family × family
        Probability that the mean `finite_sd` of the row's family is larger than that of the column's.
    levels : DataFrame by family and level
        `rms`: root mean square over features of the effect of a scanner, a population or a diagnosis.
    features : DataFrame by feature
        The three sizes of each family.
    regions, networks : DataFrame by region, or pair of networks, and family; or None
        Means over the edges of a region, or of a pair of networks.
    ranking : DataFrame by family, or None
        Components of measurement bias: protocol factors, and `scanner` for the remainder. `rms`, the root mean square of
        `finite_sd` over features, which does not depend on a factor's number of levels; `rank_1`, `rank_2`, …, the
        probability of each rank.
    """

    about: dict[str, Any]
    families: pd.DataFrame
    larger: pd.DataFrame
    levels: pd.DataFrame
    features: pd.DataFrame
    regions: pd.DataFrame | None = None
    networks: pd.DataFrame | None = None
    ranking: pd.DataFrame | None = None

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_components(self)


def variance_components(
    posterior: Posterior, edge_table: TableSource | None = None, networks: TableSource | None = None
) -> VarianceComponents:
    """Compute the size of each source of variation, and the probability that one is larger than another.

    Intervals of means over features include the uncertainty of the hyperparameters, which the features share, and of the
    scanners' noise variance ratios. Probabilities allow for the posterior correlation between families; see
    :mod:`bayesharm.analysis.family_sizes`.

    Parameters
    ----------
    posterior : Posterior
        Of a full fit, not a preview.
    edge_table : path or DataFrame, optional
        Table of edges: `feature`, and the two regions that it connects, `node_a` and `node_b`.
    networks : path or DataFrame, optional
        Table of regions: `region` and its `network`.

    Returns
    -------
    VarianceComponents

    Raises
    ------
    RunFolderError
        The run is a preview or an adapted posterior.
    InputError
        `edge_table` lacks features of the run or a column, or `networks` lacks regions.
    """
    _check_tables(edge_table, networks)
    sizes = FamilySizes.from_posterior(posterior)
    by_region = by_networks = None
    if edge_table is not None:
        edges = read_edge_regions(edge_table, posterior.features)
        by_region = sizes.average(*group_by_region(edges), ("region",))
        if networks is not None:
            by_networks = sizes.average(*group_by_networks(edges, networks), ("network", "other"))
    return VarianceComponents(
        about={
            "units": common_units(posterior),
            "slopes": on_slopes(posterior),
            "n_features": len(sizes.features),
            "model": posterior.spec.name,
        },
        families=sizes.average(),
        larger=sizes.compare(),
        levels=summarize_levels(posterior),
        features=sizes.by_feature(),
        regions=by_region,
        networks=by_networks,
        ranking=sizes.rank(posterior.spec.components),
    )


def _check_tables(edge_table: TableSource | None, networks: TableSource | None) -> None:
    if networks is not None and edge_table is None:
        raise InputError(
            "Networks are given, but not which regions a feature connects.",
            got="networks without edge_table",
            expected="both",
            do="add a table of features with node_a and node_b",
        )


def summarize_levels(posterior: Posterior) -> pd.DataFrame:
    """Compute the root mean square over features of the effect of each level: scanners, populations, diagnoses.

    Parameters
    ----------
    posterior : Posterior
        A preview will do.

    Returns
    -------
    DataFrame by family and level
        `rms` with its 90% interval: the root of the posterior mean of the mean square, including the uncertainty of the
        effects.

    Notes
    -----
    A fit of few features has joint draws of the mean square. With more features, the error has two parts. That of the
    effects given the hyperparameters is independent between features, up to their effective number. The other is that of
    the scale, which the features share: if a share C of the information comes from the data, the derivative of
    ``mean² + sd²`` by the log-scale is ``(1 − C) (4 mean² + 2 sd²)``.
    """
    scale, rows, slopes = feature_scale(posterior), [], slope_columns(posterior)
    residual_dof = int(posterior.tree["error_patterns"].to_dataset()["residual_dof"].values[0])
    inflation = variance_inflation(posterior.error_pattern, residual_dof)
    for name in posterior.effect_families:
        effect = posterior.effect(name)
        # slopes have other units; participants are too many to list
        if name in slopes or effect["mean"].dims[0] in ("covariate", "participant"):
            continue
        mean, sd = effect["mean"].values / scale, effect["sd"].values / scale
        if "mean_square" in effect:
            draws, of_one = effect["mean_square"].values, effect["square_variance"].values
            square = draws.mean(0)
            limits = np.quantile(stretch_means(draws, of_one, mean.shape[1], inflation), [0.05, 0.95], axis=0)
        else:
            square = np.mean(mean**2 + sd**2, axis=1)
            of_one = np.mean(2 * sd**4 + 4 * mean**2 * sd**2, axis=1)  # variance of the square in a single feature
            from_prior = 1 - np.nan_to_num(effect["contraction"].values)
            shared = from_prior * np.mean(4 * mean**2 + 2 * sd**2, axis=1) * level_scale_errors(posterior, name)
            limits = lognormal_interval(square, np.sqrt(inflation * of_one / mean.shape[1] + shared**2))
        labels = effect["mean"][effect["mean"].dims[0]].values
        for level, *rms in zip(labels, *np.sqrt([square, *limits]), strict=True):
            row = dict(zip(("rms", "rms_q05", "rms_q95"), rms, strict=True))
            rows.append({"family": name, "level": str(level)} | row)
    return pd.DataFrame(rows).set_index(["family", "level"])


def render_components(components: VarianceComponents) -> Group:
    """Render the sizes of the sources of variation, their order, and the levels with the largest effects."""
    from rich.console import Group

    families = components.families.sort_values("finite_sd", ascending=False, na_position="last")
    tables = [_size_table(components, families), _order_table(components, families)]
    if components.ranking is not None:
        tables.append(_ranking_table(components.ranking, components.about["units"]))
    return Group(*tables, *_level_tables(components))


def _size_table(components: VarianceComponents, families: pd.DataFrame) -> Table:
    table = make_table(
        "Sources of variation, with 90% intervals",
        f"Means over {components.about['n_features']:,} features, in {components.about['units']}. Scale: standard deviation "
        "of the population of effects (tau). Effects: standard deviation of the effects in this study. Share: contribution "
        f"of one level to the squares of a scan (Yamashita et al. 2019).{components.about['slopes']}",
        ["source", "scale", "90% interval", "effects", "90% interval", "share"],
    )
    for family, row in families.iterrows():
        cells = [*format_significant(row, "tau"), *format_significant(row, "finite_sd")]
        table.add_row(str(family), *cells, f"{row.contribution:.2%}")
    return table


def _order_table(components: VarianceComponents, families: pd.DataFrame) -> Table:
    """Tabulate the probability of the order of neighbors; the ranking covers components of measurement bias."""
    has_size = families.finite_sd.notna()
    if components.ranking is not None:
        has_size &= ~families.index.isin(components.ranking.index)
    order = [str(name) for name in families.index[has_size]]
    table = make_table(
        "Which is larger",
        "Probability that the effects of a source are larger than those of the next, in the mean over features.",
        ["source", "next", "probability"],
    )
    for larger, smaller in zip(order[:-1], order[1:], strict=True):
        table.add_row(larger, smaller, format_probability(components.larger.loc[larger, smaller]))
    return table


def _ranking_table(ranking: pd.DataFrame, units: str) -> Table:
    ranks = [name for name in ranking if str(name).startswith("rank_")]
    largest, probability = ranking.index[0], format_probability(ranking.rank_1.iloc[0])
    table = make_table(
        f"Components of measurement bias; {largest} is the largest with probability {probability}",
        "Rms: standard deviation of the effects in this study, root mean square over features; it does not depend on a "
        f"factor's number of levels; in {units}. Then the probability of each rank. Scanner: remainder that the protocol "
        "factors do not explain. The caveats of the summary name factors that only the priors separate.",
        ["component", "rms", "90% interval", *(f"{k}." for k in range(1, len(ranks) + 1))],
    )
    for family, row in ranking.iterrows():
        table.add_row(str(family), *format_significant(row, "rms"), *(f"{row[name]:.2f}" for name in ranks))
    return table


def _level_tables(components: VarianceComponents) -> Iterator[Table]:
    for name, levels in components.levels.groupby("family", sort=False):
        largest = levels.droplevel("family").sort_values("rms", ascending=False)
        table = make_table(
            f"{str(name)[0].upper()}{str(name)[1:]} effects, largest first"
            + (f" ({MAX_LEVELS} of {len(levels)})" if len(levels) > MAX_LEVELS else ""),
            f"Root mean square over features, including the uncertainty of the effects, in {components.about['units']}.",
            ["level", "rms", "90% interval"],
        )
        for label, row in largest.head(MAX_LEVELS).iterrows():
            table.add_row(str(label), *format_significant(row, "rms"))
        yield table
