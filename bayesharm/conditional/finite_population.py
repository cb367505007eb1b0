"""How large the effects of each family are: given the scales, effects are Gaussian and are drawn, exactly.

Two sizes of a family are computed from each draw. Its *finite-population* standard deviation is that of the effects that are
there, not of those that there could be. Its *contribution* is the mean over scans of its squared effect over the sum of all
squared effects and the squared residual, divided by its number of levels (Yamashita et al., *PLOS Biology* 17, 2019).
Effects are counted from the mean of the levels that share a scale, those of diagnoses from the reference.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayesharm.algorithms.devices import share_out
from bayesharm.algorithms.linalg import cholesky
from bayesharm.conditional.gaussian import condition
from bayesharm.likelihood.collapsed import segment_sum
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import Design

Array = jax.Array
MOST_DRAWS = 5  # at once


class Levels(NamedTuple):
    """Which columns are whose, and which scans have which: once for all scans that have the same.

    Attributes
    ----------
    of_family : tuple of int arrays
        Columns of each family, in the order of the design's scales but the noise.
    centered : (family,) array
        1 for families whose effects are compared with their own mean, 0 for those compared with a reference.
    column : (family, pattern) int array
        The column that scans of a pattern have of each family; the number of columns where they have none.
    fixed : (pattern, column) array
        Columns of the mean and of covariates.
    which : (column,) int array
        Their numbers.
    pattern : (scan,) int array
    """

    of_family: tuple[np.ndarray, ...]
    centered: np.ndarray
    column: np.ndarray
    fixed: np.ndarray
    which: np.ndarray
    pattern: np.ndarray


def list_levels(design: Design) -> Levels:
    """Read off a design which scan has which level of which family."""
    by_diagnosis = {family.name for family in design.spec.families if family.grouping == "diagnosis"}
    of_family = tuple(np.flatnonzero(design.column_scale == k).astype(np.int32) for k in range(1, len(design.scales)))
    of_name = np.array([name.partition(":")[0] in by_diagnosis for name in design.columns])
    which = np.flatnonzero(design.column_scale < 0).astype(np.int32)
    matrix = design.matrix.tocsc()
    column = np.full((len(of_family), design.n_scans), len(design.columns), np.int32)
    for row, columns in zip(column, of_family, strict=True):
        for k in columns:
            row[matrix.indices[matrix.indptr[k] : matrix.indptr[k + 1]]] = k
    fixed = matrix[:, which].toarray()
    alike = np.concatenate([column.T, fixed], axis=1)
    _, first, pattern = np.unique(alike, axis=0, return_index=True, return_inverse=True)
    return Levels(
        of_family,
        np.array([0.0 if of_name[columns].any() else 1.0 for columns in of_family]),
        column[:, first],
        fixed[first],
        which,
        pattern.reshape(-1).astype(np.int32),
    )


@partial(jax.jit, static_argnums=0, static_argnames="mesh")
def draw_finite_population(
    problem: Problem,
    ratios: VarianceRatios,
    levels: Levels,
    moments: Moments,
    log_scales: Array,
    keys: Array,
    values: Array,
    mesh: Mesh | None = None,
) -> tuple[Array, Array]:
    """Finite-population sds, one draw for each draw of the scales, and contributions, fewer draws; of standardized features.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    levels : Levels
    moments : Moments
    log_scales : (draw, scale, feature) array
    keys : (feature,) PRNG keys
    values : (scan, feature) array
        Standardized features, in the order of the design's scans.
    mesh : Mesh, optional
        As for :func:`bayesharm.algorithms.devices.share_out`.

    Returns
    -------
    finite_sd, contribution : (draw, scale, feature) arrays
        Noise, the first scale, has its sd and the mean share of the squared residual. A family of a single level that is
        compared with its own mean has no sd: NaN. Contributions are of every fifth draw, or more.
    """

    def function(shared, own):
        ratios, levels = shared
        return _of_draws(problem, ratios, levels, *own)

    return share_out(function, mesh, (ratios, levels), (moments, log_scales, keys, values))


def _of_draws(problem, ratios, levels, moments, log_scales, keys, values):
    """Some draws at a time, as lanes of their own; the first of them goes through all scans."""
    plan, (n_draws, _, n_features) = problem.likelihood.plan, log_scales.shape
    at_once = next(k for k in range(MOST_DRAWS, 0, -1) if n_draws % k == 0)
    statistics = problem.likelihood.weighted(ratios, moments)
    by_feature = jax.tree.map(lambda leaf: jnp.tile(leaf, at_once), statistics.by_feature)
    statistics = statistics._replace(by_feature=by_feature)
    cross, eliminated = problem.likelihood.eliminated_products(ratios, moments)
    eliminated = jnp.tile(eliminated, at_once)
    (n_dense, n_eliminated), column = (cross.shape[1], len(plan.kinds.of_column)), plan.eliminated[1]
    n_levels = np.array([len(columns) for columns in levels.of_family])[:, None]
    lane_keys, lane_draw = jnp.tile(keys, at_once), np.repeat(np.arange(at_once), n_features)

    def normal(key, k):
        return jax.random.normal(jax.random.fold_in(key, k), (n_dense + n_eliminated,), np.float32)

    def of_draws(item):
        start, log_scales = item
        dense, covariance, g, _, own = condition(problem.likelihood, statistics, log_scales)
        z = jax.vmap(normal)(lane_keys, start + lane_draw).T
        dense += jnp.einsum("ijf,jf->if", cholesky(covariance), z[:n_dense])
        rest = segment_sum(column, n_eliminated, g[1 + plan.kinds.of_entry] * (eliminated - cross @ dense))
        rest += jnp.sqrt(own[1 + plan.kinds.of_column]) * z[n_dense:]
        effects = jnp.concatenate([dense, rest, jnp.zeros_like(dense[:1])])
        first = effects[:, :n_features]
        fitted = first[levels.column].sum(0) + levels.fixed @ first[levels.which]
        finite = [jnp.exp(log_scales[0])]
        for k, columns in enumerate(levels.of_family):
            # what all levels share cannot be told from the mean of the scans
            away = effects[columns] - levels.centered[k] * effects[columns].mean(0)
            effects = effects.at[columns].set(away)
            finite.append(jnp.sqrt((away**2).sum(0) / (len(away) - levels.centered[k])))
        squares = effects[levels.column, :n_features] ** 2  # (family, pattern, feature)
        residual = (values - fitted[levels.pattern]) ** 2
        total = squares.sum(0)[levels.pattern] + residual
        weight = jax.ops.segment_sum(1 / total, levels.pattern, levels.column.shape[1])
        contribution = (squares * weight).sum(1) / len(values) / n_levels
        return jnp.stack(finite), jnp.concatenate([(residual / total).mean(0)[None], contribution])

    log_scales = jnp.swapaxes(log_scales.reshape(n_draws // at_once, at_once, -1, n_features), 1, 2)
    log_scales = log_scales.reshape(*log_scales.shape[:2], -1)
    finite, contribution = jax.lax.map(of_draws, (jnp.arange(0, n_draws, at_once), log_scales))
    finite = finite.reshape(len(finite), -1, at_once, n_features)
    return jnp.swapaxes(finite, 1, 2).reshape(n_draws, -1, n_features), contribution
