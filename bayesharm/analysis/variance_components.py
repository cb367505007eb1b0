"""Which source of differences is largest: sizes of all families with their posterior, over features, regions and levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from bayesharm.data.parcellation import group_by_networks, group_by_region, read_edge_regions
from bayesharm.errors import InputError, RunFolderError
from bayesharm.inference.hyperposterior import predictive_moments
from bayesharm.io.tables import TableSource
from bayesharm.results.console import as_text, format_probability, format_significant, make_table
from bayesharm.results.posterior import Posterior
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

MOST_LEVELS = 20


def render_sources(sources: VarianceComponents) -> Group:
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
        cells = [*format_significant(row, "tau"), *format_significant(row, "finite_sd")]
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
        ranks.add_row(one, other, format_probability(sources.larger.loc[one, other]))
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
            level.add_row(str(label), *format_significant(row, "rms"))
        parts.append(level)
    return Group(*parts)


def ranking_table(ranking: pd.DataFrame, unit: str) -> Table:
    """Sizes and order of protocol factors and of what they leave."""
    places = [name for name in ranking if str(name).startswith("rank_")]
    largest, probability = ranking.index[0], format_probability(ranking.rank_1.iloc[0])
    table = make_table(
        f"Parts of measurement; {largest} is the largest: {probability}",
        "Rms: root mean square over features of the sd of the effects that are there, which does not depend on how many "
        f"levels a factor has. {unit} Then the probability of each place. Scanner: what protocol factors leave. The summary "
        "says which of them nothing but priors tells apart.",
        ["part", "rms", "90% interval", *(f"{k}." for k in range(1, len(places) + 1))],
    )
    for family, row in ranking.iterrows():
        table.add_row(str(family), *format_significant(row, "rms"), *(f"{row[name]:.2f}" for name in places))
    return table


Z = 1.6448536269514722  # of 90% intervals
SIZES = ("tau", "finite_sd", "contribution")
N_RANKED = 20_000  # draws of the sizes of protocol factors that are ranked


@dataclass(frozen=True, eq=False)
class VarianceComponents(Tables):
    """Sizes of the sources of differences. Intervals are 90%: columns `…_q05` and `…_q95`.

    Attributes
    ----------
    about : dict
        `unit`: what `tau`, `finite_sd` and `rms` are in, the `features'` own or `sd` of each feature over the scans.
    families : DataFrame by family
        Means over features of `tau`, the scale of the population that effects are drawn from; `finite_sd`, the standard
        deviation of the effects that are there; `contribution`, the share of a scan's squares, by level.
    larger : DataFrame, family × family
        Probability that the mean finite_sd of the row's family is larger than that of the column's.
    levels : DataFrame by family and level
        `rms`: root mean square over features of the effect of a scanner, a population, a diagnosis.
    features : DataFrame by feature
        The three sizes of each family.
    regions, networks : DataFrame by region, or pair of networks, and family; or None
        Means over the edges of a region, or of a pair of networks.
    ranking : DataFrame by family, or None
        Of what measurement bias is made of, protocol factors and the `scanner` that they leave: `rms`, the root mean square
        over features of the finite_sd, which does not depend on how many levels a factor has; `rank_1`, `rank_2`, …, the
        probability to be the largest by it, the second, ….
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
        return render_sources(self)


def variance_components(
    posterior: Posterior, edge_table: TableSource | None = None, networks: TableSource | None = None
) -> VarianceComponents:
    """How large each source of differences is, and which is largest.

    Features are independent given what they share. The variance of a mean over features is that of independent ones, and
    what the uncertainty of eta, the typical log-scale of a family, adds: the derivative of a posterior mean by eta is its
    posterior covariance with the log-scale over the prior's variance. Noise is also known no better than the scanners'
    noise ratios. What two families of one feature have in common, and
    their etas, is in the probabilities.

    Parameters
    ----------
    posterior : Posterior
        Of a whole fit.
    edge_table : path or DataFrame, optional
        Table of edges: `feature`, and `node_a` and `node_b`, the regions that it joins.
    networks : path or DataFrame, optional
        Table of regions: `region` and its `network`.

    Returns
    -------
    Sources

    Raises
    ------
    RunFolderError
        The run is a preview.
    InputError
        `edge_table` lacks features of the run or a column, or `networks` lacks regions.
    """
    if "sources" not in posterior.tree.children:
        raise RunFolderError(
            "The run does not say how large its sources are.",
            got="a preview" if posterior.preview_notice else "an adapted posterior, or a run folder without /sources",
            expected="the run folder of a whole fit",
            do="fit without --preview" if posterior.preview_notice else "take the posterior of a fit",
        )
    if networks is not None and edge_table is None:
        raise InputError(
            "Networks are given, but not which regions a feature joins.",
            got="networks without edge_table",
            expected="both",
            do="give a table of features with node_a and node_b too",
        )
    scales = posterior.tree["scales"].to_dataset()
    unit = scales["unit"].values
    own = posterior.is_single_modality
    divide = np.ones_like(unit) if own else unit
    sizes, shared = _sizes(posterior, divide), _shared_errors(posterior, divide)
    features = _by_feature(posterior, sizes)
    regions = pairs = None
    if edge_table is not None:
        ends = read_edge_regions(edge_table, posterior.features)
        regions = _averages(sizes, shared, posterior, *group_by_region(ends), ["region"])
        if networks is not None:
            pairs = _averages(sizes, shared, posterior, *group_by_networks(ends, networks), ["network", "other"])
    return VarianceComponents(
        about={"unit": "the features' own" if own else "sd", "n_features": len(unit), "model": posterior.spec.name},
        families=_averages(sizes, shared, posterior, [()], np.ones((1, len(unit))), []),
        larger=_larger(posterior, sizes, shared, divide),
        levels=measure_levels(posterior),
        features=features,
        regions=regions,
        networks=pairs,
        ranking=_ranking(posterior, sizes, shared, divide),
    )


def _sizes(posterior: Posterior, divide: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, sd and limits of each size, (statistic, family, feature)."""
    scales, found = posterior.tree["scales"].to_dataset(), posterior.tree["sources"].to_dataset()
    statistics = ("mean", "sd", "q05", "q50", "q95")
    return {
        "tau": np.stack([scales[name].values for name in statistics]) / divide,
        "finite_sd": found["finite_sd"].values / divide,
        "contribution": found["contribution"].values,
    }


def _shared_errors(posterior: Posterior, divide: np.ndarray) -> dict[str, np.ndarray]:
    """What a posterior sd of eta moves each size by, (family, feature)."""
    hyper, found = posterior.tree["hyper"].to_dataset(), posterior.tree["sources"].to_dataset()
    eta, omega = hyper["eta"].values, hyper["omega"].values
    variance = predictive_moments(eta, omega, posterior.spec.feature_offset_sd).sd ** 2
    uncertain = np.sqrt(np.maximum(variance - (omega.reshape(-1, omega.shape[-1]) ** 2).mean(0), 0)) / variance
    scaled = found["with_scale"].values * uncertain[:, None]
    # the noise, the first family, is that of a scanner of ratio 1: what is uncertain of the ratios of all scans together
    n_scans = posterior.tree["design"].to_dataset()["n_scans"].values
    level = np.log(hyper["noise_ratio"].values) @ (n_scans / n_scans.sum())
    scaled[:2, 0] = np.hypot(scaled[:2, 0], 0.5 * level.std() * posterior.tree["scales"].to_dataset()["mean"].values[0])
    return {name: part / (1 if name == "contribution" else divide) for name, part in zip(SIZES, scaled, strict=True)}


def _families(posterior: Posterior) -> list[str]:
    return [str(name) for name in posterior.tree["scales"].to_dataset()["family"].values]


def _by_feature(posterior: Posterior, sizes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    columns: dict[str, np.ndarray] = {}
    for size, values in sizes.items():
        for k, family in enumerate(_families(posterior)):
            mean, _, low, _, high = values[:, k]
            columns |= {f"{size}_{family}": mean, f"{size}_{family}_q05": low, f"{size}_{family}_q95": high}
    return pd.DataFrame(columns, index=pd.Index(posterior.features, name="feature"))


def _averages(
    sizes: Mapping[str, np.ndarray],
    shared: Mapping[str, np.ndarray],
    posterior: Posterior,
    names: list[tuple[str, ...]],
    member: Any,
    levels: list[str],
) -> pd.DataFrame:
    """Means over the features of groups, (group, feature) matrix of ones, a row for each group and family."""
    families = _families(posterior)
    index = pd.MultiIndex.from_tuples([(*name, family) for name in names for family in families], names=[*levels, "family"])
    columns: dict[str, np.ndarray] = {}
    for size, (mean, sd, *_) in sizes.items():
        there = np.isfinite(mean)
        count = member @ there.T.astype(float)
        with np.errstate(invalid="ignore"):
            average = member @ np.where(there, mean, 0).T / count
            common = member @ np.where(there, shared[size], 0).T
            error = np.sqrt(member @ np.where(there, sd, 0).T ** 2 + common**2) / count
        low, high = _limits(average, error)
        columns |= {size: average.reshape(-1), f"{size}_q05": low.reshape(-1), f"{size}_q95": high.reshape(-1)}
    return pd.DataFrame(columns, index=index if levels else index.get_level_values("family"))


def _limits(mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """90% interval of a positive number, as if it were log-normal: with many features in it, that is a Gaussian."""
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(np.log1p((sd / mean) ** 2))
        middle = np.log(mean) - spread**2 / 2
    return np.exp(middle - Z * spread), np.exp(middle + Z * spread)


def _eta_correlation(posterior: Posterior) -> np.ndarray:
    """Of the typical log-scales of families, without the shift of all that is left to the amplitude."""
    hyper = posterior.tree["hyper"].to_dataset()
    eta, omega = (hyper[name].values.reshape(-1, hyper.sizes["family"]) for name in ("eta", "omega"))
    covariance = np.cov(eta.T)
    own = predictive_moments(eta, omega, posterior.spec.feature_offset_sd).sd ** 2 - (omega**2).mean(0)
    covariance -= np.mean(np.diag(covariance) - own)
    sd = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    return covariance / sd[:, None] / sd


def _larger(
    posterior: Posterior, sizes: Mapping[str, np.ndarray], shared: Mapping[str, np.ndarray], divide: np.ndarray
) -> pd.DataFrame:
    mean, families = sizes["finite_sd"][0], pd.Index(_families(posterior), name="family")
    common = np.nansum(shared["finite_sd"], axis=1)
    covariance = np.nansum(posterior.tree["sources"].to_dataset()["finite_covariance"].values / divide**2, axis=2)
    covariance += common[:, None] * _eta_correlation(posterior) * common
    variance = np.diag(covariance)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(variance[:, None] + variance - 2 * covariance)
        probability = ndtr(np.nansum(mean[:, None] - mean, axis=2) / error)
    return pd.DataFrame(probability, index=families, columns=families.rename("other"))


def _ranking(
    posterior: Posterior, sizes: Mapping[str, np.ndarray], shared: Mapping[str, np.ndarray], divide: np.ndarray
) -> pd.DataFrame | None:
    """Of the parts of measurement bias, largest first.

    Means of squares over many features are Gaussian together; a square has the moments that it has where a finite_sd is
    Gaussian. The mean finite_sd would not do: of two levels it is 0.80 tau, of eight 0.96 tau.
    """
    families = pd.Index(_families(posterior), name="family")
    parts = np.flatnonzero(families.isin(posterior.spec.components))
    if len(parts) < 2:
        return None
    within = posterior.tree["sources"].to_dataset()["finite_covariance"].values[np.ix_(parts, parts)] / divide**2
    mean, n_features = sizes["finite_sd"][0, parts], len(divide)
    square = (mean**2 + np.einsum("iif->if", within)).mean(1)
    common = (2 * mean * shared["finite_sd"][parts]).mean(1)
    covariance = (4 * mean[:, None] * mean * within + 2 * within**2).sum(2) / n_features**2
    covariance += common[:, None] * _eta_correlation(posterior)[np.ix_(parts, parts)] * common
    draws = np.random.default_rng(0).multivariate_normal(square, covariance, N_RANKED, method="eigh")
    rank = np.argsort(np.argsort(-draws, axis=1), axis=1)
    table = pd.DataFrame({"rms": np.sqrt(square)}, index=families[parts])
    table["rms_q05"], table["rms_q95"] = np.sqrt(_limits(square, np.sqrt(np.diag(covariance))))
    for k in range(len(parts)):
        table[f"rank_{k + 1}"] = (rank == k).mean(0)
    return table.sort_values("rms", ascending=False)


def measure_levels(posterior: Posterior) -> pd.DataFrame:
    """As `levels` of :class:`VarianceComponents`, of a preview too.

    Parameters
    ----------
    posterior : Posterior
    """
    divide, rows = (
        np.array(1.0) if posterior.is_single_modality else posterior.tree["scales"].to_dataset()["unit"].values,
        [],
    )
    for name in posterior.tree["effects"].children:
        if name in ("covariate", "participant"):  # slopes; and people, who are many and have no names worth telling
            continue
        effect = posterior.effect(name)
        mean, sd = effect["mean"].values / divide, effect["sd"].values / divide
        square = np.mean(mean**2 + sd**2, axis=1)
        error = np.sqrt(np.sum(2 * sd**4 + 4 * mean**2 * sd**2, axis=1)) / mean.shape[1]
        labels = effect["mean"][effect["mean"].dims[0]].values
        for level, *rms in zip(labels, *np.sqrt([square, *_limits(square, error)]), strict=True):
            row = dict(zip(("rms", "rms_q05", "rms_q95"), rms, strict=True))
            rows.append({"family": name, "level": str(level)} | row)
    return pd.DataFrame(rows).set_index(["family", "level"])
