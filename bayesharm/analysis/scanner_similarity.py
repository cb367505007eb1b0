"""Which scanners measure alike: distance and correlation of their bias maps, and the tree that they form.

All three follow from sums over features of squares and products of biases. A run folder holds the mean and sd of each bias
and, once for all features, how the errors of two scanners go together; biases are drawn from that as Gaussian, feature by
feature, and the sums of many features have nearly the same distribution as those of the whole posterior.
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
from bayesharm.errors import RunFolderError
from bayesharm.results.console import as_text, bullets, format_significant, format_with_interval, make_table
from bayesharm.results.posterior import Posterior
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group


def render_similarity(similarity: ScannerSimilarity) -> Group:
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
        correlation = format_with_interval(row, "correlation", 2)
        nearest.add_row(str(scanner), str(other), *format_significant(row, "distance"), *correlation)
    groups = make_table(
        "Groups of scanners, closest first",
        "Average linkage of the distances. Support: share of posterior draws whose tree has the group.",
        ["scanners", "distance", "support"],
    )
    for _, row in similarity.splits.iloc[:-1].iterrows():  # the last are all
        groups.add_row(row.scanners, f"{row.distance:#.3g}", f"{row.support:.0%}")
    parts = [nearest, *([groups] if groups.row_count else [])]
    return Group(*parts, *([bullets("Beware", [about["remark"]])] if about["remark"] else []))


N_DRAWS = 400
AT_ONCE = 1024  # features
LIMITS = (0.05, 0.95)


@dataclass(frozen=True, eq=False)
class ScannerSimilarity(Tables):
    """How alike scanners measure. Intervals are 90%: columns `…_q05` and `…_q95`.

    Attributes
    ----------
    about : dict
        `unit`: what distances are in, the `features'` own or `sd` of each feature over the scans; `n_features`, `model`,
        `family` (whose maps are compared) and `preview_notice`.
    pairs : DataFrame by scanner and other
        Each pair twice. `distance`: root mean square over features of the difference of their biases, the posterior mean, so
        that what is unknown of them keeps scanners apart; `distance_of_means`: the same of the posterior means, which says
        what the data tell apart. `correlation` of their biases over features. Biases are counted from the mean of all
        scanners: unrelated ones have a correlation of -1 / (number of scanners - 1), not 0.
    splits : DataFrame
        Groups of scanners that the tree joins, closest first: `scanners`, `distance` (average linkage) and `support`, the
        share of draws whose tree has the same group.
    linkage : (scanner - 1, 4) array
        The tree of the posterior mean distances, as scipy writes it.
    """

    about: dict[str, Any]
    pairs: pd.DataFrame
    splits: pd.DataFrame
    linkage: np.ndarray

    @property
    def scanners(self) -> list[str]:
        """Scanners in the order of `linkage`."""
        return [str(name) for name in self.pairs.index.unique("scanner")]

    @property
    def groups(self) -> list[list[str]]:
        """Scanners of each row of `splits`."""
        return [[self.scanners[k] for k in sorted(group)] for group in _groups(self.linkage)]

    def matrix(self, name: str) -> pd.DataFrame:
        """A column of `pairs`, such as `distance`, as a table scanner × scanner; what is on its diagonal is missing."""
        return self.pairs[name].unstack("other").reindex(index=self.scanners, columns=self.scanners)

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_similarity(self)


def scanner_similarity(posterior: Posterior) -> ScannerSimilarity:
    """How alike the scanners of a run measure, and which groups they form.

    Features are independent given what they share, and what is uncertain of that is left out. The correlation of errors is
    that at typical scales of the study: it follows from who was scanned where, and hardly from the feature.

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
            "There is nothing to compare a scanner with.",
            got=f"a run of the one scanner {names[0]!r}",
            expected="two scanners or more",
            do="fit a study of several scanners",
        )
    mean, sd = effect["mean"].values, effect["sd"].values
    divide = 1.0 if posterior.is_single_modality else posterior.tree["scales"].to_dataset()["unit"].values
    good = np.isfinite(mean).all(0) & np.isfinite(sd).all(0)
    mean, sd = (mean / divide)[:, good], (sd / divide)[:, good]
    rng = np.random.default_rng([posterior.run["seed"], Stage.SIMILARITY])
    products, sums = _draw_sums(mean, sd, effect["correlation"].values, rng)

    distance, correlation = _distances(products, mean.shape[1]), _correlations(products, sums, mean.shape[1])
    of_means = _distances(mean @ mean.T, mean.shape[1])
    first, second = np.nonzero(~np.eye(len(names), dtype=bool))
    columns: dict[str, np.ndarray] = {}
    for name, draws in (("distance", distance), ("correlation", correlation)):
        low, high = np.quantile(draws, LIMITS, axis=0)
        values = {name: draws.mean(0), f"{name}_q05": low, f"{name}_q95": high}
        columns |= {column: value[first, second] for column, value in values.items()}
    columns["distance_of_means"] = of_means[first, second]
    index = pd.MultiIndex.from_arrays([names[first], names[second]], names=["scanner", "other"])
    tree = average(squareform(distance.mean(0), checks=False))
    return ScannerSimilarity(
        about={
            "unit": "the features' own" if posterior.is_single_modality else "sd",
            "n_features": mean.shape[1],
            "model": posterior.spec.name,
            "family": posterior.spec.removed_effect,
            "remark": posterior.preview_notice,
        },
        pairs=pd.DataFrame(columns, index=index),
        splits=_splits(tree, distance, names),
        linkage=tree,
    )


def _draw_sums(
    mean: np.ndarray, sd: np.ndarray, correlation: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of sums over features: products of the biases of two scanners, and biases."""
    variance, vectors = np.linalg.eigh(correlation)  # singular: biases sum to 0
    root = (vectors * np.sqrt(np.maximum(variance, 0))).astype(np.float32)
    products, sums = np.zeros((N_DRAWS, *correlation.shape)), np.zeros((N_DRAWS, len(mean)))
    for start in range(0, mean.shape[1], AT_ONCE):
        some = slice(start, start + AT_ONCE)
        z = rng.standard_normal((N_DRAWS, *mean[:, some].shape), np.float32)
        bias = (mean[:, some] + sd[:, some] * (root @ z)).astype(np.float32)
        products += bias @ bias.swapaxes(1, 2)
        sums += bias.sum(2)
    return products, sums


def _distances(products: np.ndarray, n_features: int) -> np.ndarray:
    """Root mean squares over features of differences, (..., scanner, scanner)."""
    square = np.diagonal(products, axis1=-2, axis2=-1)
    return np.sqrt(np.maximum(square[..., None] + square[..., None, :] - 2 * products, 0) / n_features)


def _correlations(products: np.ndarray, sums: np.ndarray, n_features: int) -> np.ndarray:
    covariance = products - sums[:, :, None] * sums[:, None] / n_features
    variance = np.diagonal(covariance, axis1=1, axis2=2) if n_features > 1 else np.nan
    sd = np.sqrt(np.broadcast_to(variance, sums.shape))
    return covariance / sd[:, :, None] / sd[:, None]


def _groups(tree: np.ndarray) -> Iterator[frozenset[int]]:
    """The scanners below each merge of a tree, in the order of the merges."""
    _, nodes = to_tree(tree, rd=True)
    return (frozenset(node.pre_order()) for node in nodes if not node.is_leaf())


def _splits(tree: np.ndarray, draws: np.ndarray, names: pd.Index) -> pd.DataFrame:
    groups = list(_groups(tree))
    found = dict.fromkeys(groups, 0)
    for distance in draws:
        for group in found.keys() & set(_groups(average(squareform(distance, checks=False)))):
            found[group] += 1
    return pd.DataFrame({
        "scanners": [", ".join(names[sorted(group)]) for group in groups],
        "n_scanners": [len(group) for group in groups],
        "distance": tree[:, 2],
        "support": [found[group] / len(draws) for group in groups],
    }).rename_axis("split")  # fmt: skip
