"""Similarity of scanners: distance and correlation of their bias maps, and hierarchical clustering by distance.

All three follow from sums over features of squares and products of biases. A run folder holds the posterior mean and sd of
each bias and, once for all features, the posterior correlation between scanners. Biases are drawn as Gaussian from these,
correlated over features as their errors are (:mod:`bayesharm.inference.error_patterns`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import average, to_tree
from scipy.spatial.distance import squareform

from bayesharm.algorithms.random_streams import Stage
from bayesharm.analysis.units import common_units, feature_scale
from bayesharm.errors import RunFolderError
from bayesharm.results.console import as_text, bullets, format_significant, format_with_interval, make_table
from bayesharm.results.posterior import Posterior
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group


N_DRAWS = 400  # draws of all biases
FEATURE_CHUNK = 1024  # features drawn at once, to bound memory
INTERVAL = (0.05, 0.95)  # quantiles of 90% intervals


@dataclass(frozen=True, eq=False, repr=False)
class ScannerSimilarity(Tables):
    """Distances and correlations between the bias maps of scanners. Intervals are 90%: columns `…_q05` and `…_q95`.

    Attributes
    ----------
    about : dict
        `units` of distances, `n_features`, `model`, `family` (the effects that are compared) and `preview`.
    pairs : DataFrame by scanner and other
        Each pair twice. `distance`: root mean square difference of the biases over features, posterior mean; its expected
        value includes the uncertainty of the biases. `distance_of_means`: the distance between posterior means, without
        that uncertainty. `correlation` of the biases over features. Biases are centered over scanners: unrelated ones have
        a correlation of -1 / (number of scanners - 1), not 0.
    splits : DataFrame
        Groups of scanners in the tree, closest first: `scanners`, `n_scanners`, `distance` (average linkage) and `support`,
        the share of posterior draws whose tree has the group.
    linkage : (scanner - 1, 4) array
        The tree of the posterior mean distances in scipy's format.
    notes : tuple of str
        Caveats.
    """

    about: dict[str, Any]
    pairs: pd.DataFrame
    splits: pd.DataFrame
    linkage: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def scanners(self) -> list[str]:
        """Names of the scanners in the order of `linkage`."""
        return [str(name) for name in self.pairs.index.unique("scanner")]

    @property
    def groups(self) -> list[list[str]]:
        """Scanners of each row of `splits`."""
        return [[self.scanners[k] for k in sorted(group)] for group in _groups(self.linkage)]

    def matrix(self, name: str) -> pd.DataFrame:
        """Return a column of `pairs`, such as `distance`, as a table scanner × scanner with a missing diagonal."""
        return self.pairs[name].unstack("other").reindex(index=self.scanners, columns=self.scanners)

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_similarity(self)


def scanner_similarity(posterior: Posterior) -> ScannerSimilarity:
    """Compare the bias maps of the scanners and cluster the scanners by distance.

    The uncertainty of the hyperparameters, which all features share, is not part of the intervals.
    The posterior correlation between scanners is that at the typical scales of the study: it depends on the participants
    whom scanners share, and hardly on the feature.

    Parameters
    ----------
    posterior : Posterior

    Raises
    ------
    RunFolderError
        The run has a single scanner.
    """
    effect = posterior.effect(posterior.spec.removed_effect)
    names = pd.Index(effect["scanner"].values.astype(str), name="scanner")
    if len(names) < 2:
        raise RunFolderError(
            "A single scanner cannot be compared with others.",
            got=f"a run with one scanner, {names[0]!r}",
            expected="at least two scanners",
            do="fit a study of several scanners",
        )
    mean, sd = effect["mean"].values, effect["sd"].values
    is_finite = np.isfinite(mean).all(0) & np.isfinite(sd).all(0)
    scale = feature_scale(posterior)
    mean, sd = (mean / scale)[:, is_finite], (sd / scale)[:, is_finite]
    n_features = mean.shape[1]
    rng = np.random.default_rng([posterior.run["seed"], Stage.SIMILARITY])
    products, sums = _draw_sums(mean, sd, effect["correlation"].values, posterior.error_pattern[:, is_finite], rng)

    distance, correlation = _distances(products, n_features), _correlations(products, sums, n_features)
    of_means = _distances(mean @ mean.T, n_features)
    first, second = np.nonzero(~np.eye(len(names), dtype=bool))
    columns: dict[str, np.ndarray] = {}
    for name, draws in (("distance", distance), ("correlation", correlation)):
        low, high = np.quantile(draws, INTERVAL, axis=0)
        values = {name: draws.mean(0), f"{name}_q05": low, f"{name}_q95": high}
        columns |= {column: value[first, second] for column, value in values.items()}
    columns["distance_of_means"] = of_means[first, second]
    index = pd.MultiIndex.from_arrays([names[first], names[second]], names=["scanner", "other"])
    tree = average(squareform(distance.mean(0), checks=False))
    return ScannerSimilarity(
        about={
            "units": common_units(posterior),
            "n_features": n_features,
            "model": posterior.spec.name,
            "family": posterior.spec.removed_effect,
            "preview": bool(posterior.preview_notice),
        },
        pairs=pd.DataFrame(columns, index=index),
        splits=_splits(tree, distance, names),
        linkage=tree,
        notes=tuple(filter(None, [posterior.preview_notice])),
    )


def _draw_sums(
    mean: np.ndarray, sd: np.ndarray, correlation: np.ndarray, error_pattern: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw sums over features: of products of two scanners' biases, (draw, scanner, scanner), and of biases."""
    variance, vectors = np.linalg.eigh(correlation)  # singular, since biases sum to 0
    root = (vectors * np.sqrt(np.maximum(variance, 0))).astype(np.float32)
    weights = root @ rng.standard_normal((N_DRAWS, len(mean), len(error_pattern)), np.float32)
    products, sums = np.zeros((N_DRAWS, *correlation.shape)), np.zeros((N_DRAWS, len(mean)))
    for start in range(0, mean.shape[1], FEATURE_CHUNK):
        chunk = slice(start, start + FEATURE_CHUNK)
        bias = (mean[:, chunk] + sd[:, chunk] * (weights @ error_pattern[:, chunk])).astype(np.float32)
        products += bias @ bias.swapaxes(1, 2)
        sums += bias.sum(2)
    return products, sums


def _distances(products: np.ndarray, n_features: int) -> np.ndarray:
    """Compute root mean square differences over features, (..., scanner, scanner)."""
    square = np.diagonal(products, axis1=-2, axis2=-1)
    return np.sqrt(np.maximum(square[..., None] + square[..., None, :] - 2 * products, 0) / n_features)


def _correlations(products: np.ndarray, sums: np.ndarray, n_features: int) -> np.ndarray:
    """Compute correlations over features, (draw, scanner, scanner); NaN for a single feature."""
    covariance = products - sums[:, :, None] * sums[:, None] / n_features
    variance = np.diagonal(covariance, axis1=1, axis2=2) if n_features > 1 else np.nan
    sd = np.sqrt(np.broadcast_to(variance, sums.shape))
    return covariance / sd[:, :, None] / sd[:, None]


def _groups(tree: np.ndarray) -> Iterator[frozenset[int]]:
    """Yield the group of scanners below each merge of a tree, in the order of the merges."""
    _, nodes = to_tree(tree, rd=True)
    return (frozenset(node.pre_order()) for node in nodes if not node.is_leaf())


def _splits(tree: np.ndarray, draws: np.ndarray, names: pd.Index) -> pd.DataFrame:
    """Tabulate the groups of a tree, with the share of the drawn distances whose tree has each of them too."""
    groups = list(_groups(tree))
    count = dict.fromkeys(groups, 0)
    for distance in draws:
        for group in count.keys() & set(_groups(average(squareform(distance, checks=False)))):
            count[group] += 1
    return pd.DataFrame({
        "scanners": [", ".join(names[sorted(group)]) for group in groups],
        "n_scanners": [len(group) for group in groups],
        "distance": tree[:, 2],
        "support": [count[group] / len(draws) for group in groups],
    }).rename_axis("split")  # fmt: skip


def render_similarity(similarity: ScannerSimilarity) -> Group:
    """Render the nearest neighbor of each scanner, and the groups of scanners."""
    from rich.console import Group

    about, pairs = similarity.about, similarity.pairs.sort_values("distance", kind="stable")
    unrelated = -1 / (len(similarity.scanners) - 1)
    nearest = make_table(
        "Most similar scanner, with 90% intervals",
        f"Distance: root mean square difference of the bias maps over {about['n_features']:,} features, including their "
        f"uncertainty, in {about['units']}. r: correlation over features; {unrelated:.2f} for unrelated scanners.",
        ["scanner", "most similar", "distance", "90% interval", "r", "90% interval"],
    )
    for (scanner, other), row in pairs[~pairs.index.get_level_values("scanner").duplicated()].iterrows():
        correlation = format_with_interval(row, "correlation", 2)
        nearest.add_row(str(scanner), str(other), *format_significant(row, "distance"), *correlation)
    groups = make_table(
        "Groups of scanners, closest first",
        "Hierarchical clustering by distance (average linkage). Support: share of posterior draws whose tree has the group.",
        ["scanners", "distance", "support"],
    )
    for _, row in similarity.splits.iloc[:-1].iterrows():  # the last group holds all scanners
        groups.add_row(row.scanners, f"{row.distance:#.3g}", f"{row.support:.0%}")
    tables = [nearest, *([groups] if groups.row_count else [])]
    return Group(*tables, bullets("Caveats", similarity.notes))
