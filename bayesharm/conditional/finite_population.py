"""Finite-population standard deviations of the families of effects, and their contributions to single scans.

Given the scales, the effects are Gaussian and are drawn exactly. Two quantities of each family follow from a draw:

- the *finite-population* standard deviation (Gelman, *Annals of Statistics* 33, 2005): the standard deviation of the effects
  over the levels in the study, not over all possible levels;
- the *contribution*: the squared effect over the sum of all squared effects and the squared residual, averaged over scans
  and divided by the number of levels of the family (Yamashita et al., *PLOS Biology* 17, 2019).

Effects are centered on the mean of the levels that share a scale; those of diagnoses are relative to the reference. Where
draws of all features belong together, the reported effects of single levels are kept too.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayesharm.algorithms.devices import run_sharded
from bayesharm.algorithms.programs import program
from bayesharm.conditional.gaussian import batch_draws, draw_effects
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.contrasts import EffectGroup
from bayesharm.model.design import Design

Array = jax.Array


class FamilyLevels(NamedTuple):
    """Columns of each family, and the columns of each scan; identical scans are one *pattern*.

    Attributes
    ----------
    of_family : tuple of int arrays
        Columns of each family, in the order of the design's scales without the noise and noise ratios.
    centered : (family,) array
        1 for families whose effects are centered on their own mean, 0 for those relative to a reference.
    column : (family, pattern) int array
        The column of each family in the scans of a pattern; the number of columns where they have none.
    value : (family, pattern) array
        Its value: 1 for levels, and for slopes the value that multiplies them.
    has_gain, fixed_has_gain : (family,), (fixed column,) arrays
        1 where the gain of the scanner multiplies the effects, else 0.
    scanner : (pattern,) int array
    fixed : (pattern, fixed column) array
        Values of the mean and of the covariates.
    fixed_columns : (fixed column,) int array
    pattern : (scan,) int array
    contrasts : (level, column) array
        Reported effects of single levels, those of participants left out.
    """

    of_family: tuple[np.ndarray, ...]
    centered: np.ndarray
    column: np.ndarray
    value: np.ndarray
    has_gain: np.ndarray
    fixed_has_gain: np.ndarray
    scanner: np.ndarray
    fixed: np.ndarray
    fixed_columns: np.ndarray
    pattern: np.ndarray
    contrasts: np.ndarray

    def with_gain(self, gain: Array) -> FamilyLevels:
        """Multiply the values by the gains of the scanners, (scanner,)."""
        gain = jnp.asarray(gain)[self.scanner]
        return self._replace(
            value=self.value * gain ** self.has_gain[:, None], fixed=self.fixed * gain[:, None] ** self.fixed_has_gain
        )


def find_levels(design: Design) -> FamilyLevels:
    """Find the level of every family that each scan of a design has."""
    by_diagnosis = [name for name in set(design.families) if design.spec.dimension_of(name) == "diagnosis"]
    of_family = tuple(np.flatnonzero(design.column_scale == k).astype(np.int32) for k in range(1, design.n_eta))
    of_name = np.isin(design.families, by_diagnosis)
    fixed_columns = np.flatnonzero(design.column_scale < 0).astype(np.int32)
    matrix = design.matrix.tocsc()
    column = np.full((len(of_family), design.n_scans), len(design.columns), np.int32)
    value = np.ones(column.shape)
    for row, numbers, columns in zip(column, value, of_family, strict=True):
        for k in columns:
            entries = slice(matrix.indptr[k], matrix.indptr[k + 1])
            row[matrix.indices[entries]], numbers[matrix.indices[entries]] = k, matrix.data[entries]
    fixed, scanner = matrix[:, fixed_columns].toarray(), design.class_scanner[design.scan_class]
    has_gain = (design.has_gain & (design.spec.gain != "none")).astype(float)
    by_gain = scanner[:, None] * has_gain.any()  # without gains, scans on several scanners may share a pattern
    scans = np.concatenate([column.T, value.T, fixed, by_gain], axis=1)
    _, first, pattern = np.unique(scans, axis=0, return_index=True, return_inverse=True)
    return FamilyLevels(
        of_family,
        np.array([0.0 if of_name[columns].any() else 1.0 for columns in of_family]),
        column[:, first],
        value[:, first],
        np.array([has_gain[columns].any() for columns in of_family], float),
        has_gain[fixed_columns],
        scanner[first].astype(np.int32),
        fixed[first],
        fixed_columns,
        pattern.reshape(-1).astype(np.int32),
        np.concatenate([group.contrasts for group in reported_levels(design)]),
    )


def reported_levels(design: Design) -> list[EffectGroup]:
    """List the reported effects whose levels are few."""
    return [group for group in design.effects if group.dim != "participant"]


@program("problem", "at_once", "mesh")
def draw_finite_population(
    problem: Problem,
    ratios: VarianceRatios,
    levels: FamilyLevels,
    moments: Moments,
    log_scales: Array,
    keys: Array,
    values: Array,
    at_once: int = 5,
    mesh: Mesh | None = None,
) -> tuple[Array, Array, Array]:
    """Draw finite-population sds and contributions of all families, for standardized features.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
        The same for all draws, or those of each draw: (draw, …) arrays.
    levels : FamilyLevels
    moments : Moments
    log_scales : (draw, scale, feature) array
    keys : (feature,) PRNG keys
    values : (scan, feature) array
        Standardized features, in the order of the design's scans; NaN where a feature lacks a scan.
    at_once : int
        Draws at once, at most; it bounds the memory. 1 where each draw has ratios of its own.
    mesh : Mesh, optional
        As for :func:`bayesharm.algorithms.devices.run_sharded`.

    Returns
    -------
    finite_sd : (draw, family, feature) array
        The first family is noise, with its sd. A centered family with a single level has no sd: NaN.
    contribution : (draw, family, feature) array
        Of one in `at_once` draws, or fewer, since it takes all scans. That of noise is the mean share of the squared
        residual.
    level_effects : (draw, level, feature) array
        Reported effects of single levels, where each draw has ratios of its own; else none.
    """

    def function(shared, sharded):
        ratios, levels = shared
        return _of_draws(problem, at_once, ratios, levels, *sharded)

    return run_sharded(function, mesh, (ratios, levels), (moments, log_scales, keys, values))


def _of_draws(problem, most_at_once, ratios, levels, moments, log_scales, keys, values):
    """A batch of draws at a time, side by side; contributions are computed from the first draw of each batch."""
    likelihood, (n_draws, _, n_features) = problem.likelihood, log_scales.shape
    batches, at_once = batch_draws(log_scales, most_at_once)
    n_columns = likelihood.n_dense + likelihood.n_eliminated
    lane_keys, lane_draw = jnp.tile(keys, at_once), np.repeat(np.arange(at_once), n_features)

    def standard_normal(key, k):
        return jax.random.normal(jax.random.fold_in(key, k), (n_columns,), np.float32)

    def depend_on(ratios):
        cross, of_feature = likelihood.eliminated_products(ratios, moments)
        products = cross if cross.shape[-1] == 1 else jnp.tile(cross, at_once), jnp.tile(of_feature, at_once)
        return likelihood.weighted(ratios, moments).tile(at_once), products, levels.with_gain(likelihood.gain(ratios))

    have_own_ratios = ratios.log_noise.ndim > 1
    same = None if have_own_ratios else depend_on(ratios)

    def of_batch(item):
        start, log_scales, own_ratios = item
        statistics, products, levels = depend_on(own_ratios) if same is None else same
        normal = jax.vmap(standard_normal)(lane_keys, start + lane_draw).T
        effects = draw_effects(likelihood, likelihood.condition(statistics, log_scales), products, normal)
        of_levels = contrasts @ effects[:, :n_features]
        with_none = jnp.concatenate([effects, jnp.zeros_like(effects[:1])])  # last, the column of scans without a level
        first = with_none[:, :n_features]
        fitted = (first[levels.column] * levels.value[..., None]).sum(0) + levels.fixed @ first[levels.fixed_columns]
        finite, effects = family_sds(levels, effects, log_scales[0])
        return finite, family_contributions(levels, effects[:, :n_features], values - fitted[levels.pattern]), of_levels

    own_ratios, contrasts = (ratios, levels.contrasts) if have_own_ratios else (None, levels.contrasts[:0])
    finite, contribution, of_levels = jax.lax.map(of_batch, (jnp.arange(0, n_draws, at_once), batches, own_ratios))
    finite = finite.reshape(len(finite), -1, at_once, n_features)
    return jnp.swapaxes(finite, 1, 2).reshape(n_draws, -1, n_features), contribution, of_levels


def family_sds(levels: FamilyLevels, effects: Array, log_noise: Array) -> tuple[Array, Array]:
    """Compute the finite-population sd of each family, that of the noise first, and center the effects of each.

    Parameters
    ----------
    levels : FamilyLevels
    effects : (column, feature) array
        A draw.
    log_noise : (feature,) array

    Returns
    -------
    finite_sd : (scale, feature) array
    effects : (column, feature) array
    """
    finite = [jnp.exp(log_noise)]
    for k, columns in enumerate(levels.of_family):
        if not len(columns):  # participants who were all scanned once
            finite.append(jnp.full_like(effects[0], jnp.nan))
            continue
        # a shift of all levels of a family is not separable from the mean of the scans
        deviation = effects[columns] - levels.centered[k] * effects[columns].mean(0)
        effects = effects.at[columns].set(deviation)
        finite.append(jnp.sqrt((deviation**2).sum(0) / (len(deviation) - levels.centered[k])))
    return jnp.stack(finite), effects


def family_contributions(levels: FamilyLevels, effects: Array, residuals: Array) -> Array:
    """Compute the contribution of each family, that of the noise first, (scale, feature).

    Parameters
    ----------
    levels : FamilyLevels
        With gains.
    effects : (column, feature) array
        A draw, the effects of each family centered.
    residuals : (scan, feature) array
        NaN where a feature lacks a scan.
    """
    effects = jnp.concatenate([effects, jnp.zeros_like(effects[:1])])  # the column of scans without a level
    squares = (effects[levels.column] * levels.value[..., None]) ** 2  # (family, pattern, feature)
    residual = residuals**2
    total = squares.sum(0)[levels.pattern] + residual
    observed = ~jnp.isnan(residual)
    share, one = jnp.where(observed, residual / total, 0.0), jnp.where(observed, 1 / total, 0.0)
    n_scans = observed.sum(0)
    weight = jax.ops.segment_sum(one, levels.pattern, levels.column.shape[1])
    n_levels = np.array([max(len(columns), 1) for columns in levels.of_family])[:, None]
    contribution = (squares * weight).sum(1) / n_scans / n_levels
    return jnp.concatenate([(share.sum(0) / n_scans)[None], contribution])
