"""Finite-population sds and contributions against draws of the effects from their dense posterior.

The dense posterior shares no algebra with the package. Tolerances come from the Monte-Carlo errors of both averages, with a
false-alarm rate of 2e-5 over all comparisons; seeds are fixed.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats
from studies import random_study, two_ratios, with_protocol

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.conditional.finite_population import draw_finite_population, find_levels
from bayesharm.data.features import Features
from bayesharm.likelihood.moments import MomentReader
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

N_FEATURES, N_DRAWS = 3, 4000
FALSE_ALARMS = 2e-5


@pytest.fixture(
    scope="module",
    params=[
        (6, ("age", "sex"), False, 0),
        (0, (), False, 0),
        (3, (), False, 0),
        (5, (), True, 0),
        (9, ("age",), False, 0.15),
    ],
    ids=["covariates", "plain", "no diagnosis", "protocol", "missing values"],
)
def study(request):
    seed, covariates, protocol, missing = request.param
    scans = random_study(seed)
    spec = with_protocol(scans) if protocol else load_model("traveling_and_cohort")
    design = build_design(scans, replace(spec, covariates=covariates))
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 2, (len(scans), N_FEATURES))
    features[np.random.default_rng(1).random(features.shape) < missing] = np.nan
    log_scales = np.log(design.scale_medians)[:, None] + rng.normal(0, 0.4, (len(design.scales), N_FEATURES))
    log_ratio = rng.normal(0, 0.4, 2 * len(design.scanners))
    return design, features, log_scales, log_ratio


@pytest.fixture(scope="module")
def draw_sizes(study):
    """Return a function of log-scales (draw, …) and ratios, and the standardized values that it draws given."""
    design, features, *_ = study
    has_missing = bool(np.isnan(features[design.rows]).any())
    with jax.enable_x64(True):
        problem, levels = make_problem(design, has_missing=has_missing), find_levels(design)
        reader = MomentReader(Features.from_array(features), design, has_missing=has_missing)
        moments, standard = reader(np.arange(N_FEATURES))
    values = (reader.values(np.arange(N_FEATURES)) - standard.center) / standard.sd
    keys = feature_keys(1, Stage.FINITE_POPULATION, np.arange(N_FEATURES))

    def draw(log_scales, ratios, **options):
        with jax.enable_x64(True):
            found = draw_finite_population(problem, ratios, levels, moments, log_scales, keys, values, **options)
        return [np.asarray(part) for part in found]

    return draw, values


@pytest.fixture(scope="module")
def drawn(study, draw_sizes):
    *_, log_scales, log_ratio = study
    draw, values = draw_sizes
    return values, *draw(np.broadcast_to(log_scales, (N_DRAWS, *log_scales.shape)), two_ratios(log_ratio))[:2]


def of_the_posterior(study, values, f: int) -> tuple[np.ndarray, np.ndarray]:
    """Finite-population sds and contributions of draws from the dense posterior of all columns, (draw, scale)."""
    design, _, log_scales, log_ratio = study
    scale, seen = np.exp(log_scales[:, f]), ~np.isnan(values[:, f])
    x, y = design.matrix.toarray()[seen], values[seen, f]
    ratio, size = np.split(np.exp(log_ratio), 2)
    variance = scale[0] ** 2 * ratio[design.class_scanner] + scale[design.single_scan_scale] ** 2 * design.class_single_scan
    weight = 1 / variance[design.scan_class][seen]
    prior = np.where(design.column_scale < 0, design.column_sd, scale[design.column_scale])
    own = design.bias_ratio_of
    prior = prior * np.where(own >= 0, size[own] ** 0.5, 1.0)
    covariance = np.linalg.inv((x.T * weight) @ x + np.diag(prior**-2.0))
    rng = np.random.default_rng(f)
    effects = rng.multivariate_normal(covariance @ x.T @ (weight * y), covariance, N_DRAWS, method="cholesky")
    family = np.array([design.scale_labels[k] if k >= 0 else "" for k in design.column_scale])
    residual = (y - effects @ x.T) ** 2
    for name in design.scale_labels[1:]:
        if name != "disorder":
            effects[:, family == name] -= effects[:, family == name].mean(1, keepdims=True)
    squares = np.stack(
        [(effects[:, family == name] @ x[:, family == name].T) ** 2 for name in design.scale_labels[1:]], axis=1
    )
    shares = np.concatenate([residual[:, None], squares], axis=1) / (squares.sum(1) + residual)[:, None]
    contribution = shares.mean(2) / np.array([1, *((family == name).sum() for name in design.scale_labels[1:])])
    finite = [np.full(N_DRAWS, scale[0])]
    for name in design.scale_labels[1:]:
        own = effects[:, family == name]
        finite.append(np.sqrt((own**2).mean(1)) if name == "disorder" else own.std(1, ddof=1))
    return np.stack(finite, axis=1), contribution


@pytest.mark.filterwarnings("ignore:Degrees of freedom")
def test_sizes_are_those_of_the_dense_posterior(study, drawn):
    values, *found = drawn
    z = []
    for f in range(N_FEATURES):
        for mine, theirs in zip(found, of_the_posterior(study, values, f), strict=True):
            np.testing.assert_array_equal(np.isnan(mine[0, :, f]), np.isnan(theirs[0]))
            for power in (1, 2):
                one, other = mine[..., f] ** power, theirs**power
                error = np.hypot(one.std(0) / np.sqrt(len(one)), other.std(0) / np.sqrt(len(other)))
                z.append((one.mean(0) - other.mean(0))[error > 1e-9] / error[error > 1e-9])
    z = np.concatenate(z)
    assert np.abs(z[np.isfinite(z)]).max() < stats.norm.isf(FALSE_ALARMS / len(z) / 2)


@pytest.fixture(scope="module")
def with_own_ratios(study, draw_sizes):
    """Return a function of a sign for each of two draws, by which their log ratios are multiplied."""
    *_, log_scales, log_ratio = study

    def draw(*signs):
        ratios = jax.tree.map(lambda *parts: np.stack(parts), *[two_ratios(sign * log_ratio) for sign in signs])
        return draw_sizes[0](np.broadcast_to(log_scales, (2, *log_scales.shape)), ratios, at_once=1)

    return draw


def test_each_draw_may_have_ratios_of_its_own(drawn, with_own_ratios):
    _, finite, contribution = drawn
    first, second = with_own_ratios(1, -1), with_own_ratios(-1, 1)
    np.testing.assert_allclose(first[0][0], finite[0], rtol=1e-9)
    np.testing.assert_allclose(first[1][0], contribution[0], rtol=1e-9)
    np.testing.assert_allclose(second[0][1], finite[1], rtol=1e-9)
    assert not np.allclose(first[0][1], finite[1], equal_nan=True)


def test_effects_of_levels_have_the_sds_of_their_family(study, with_own_ratios):
    design = study[0]
    finite, _, effects = with_own_ratios(1, -1)
    groups = [group for group in design.effects if group.dim != "participant"]
    parts = np.split(effects, np.cumsum([len(group.levels) for group in groups])[:-1], axis=1)
    of_group = {group.name: part for group, part in zip(groups, parts, strict=True)}
    names = [name for name in ("measurement", "scanner", "Manufacturer") if name in design.scale_labels and name in of_group]
    assert names
    for name in names:
        found = of_group[name].std(1, ddof=1)
        np.testing.assert_allclose(found, finite[:, design.scale_labels.index(name)], rtol=1e-6)


def test_values_come_in_the_order_of_the_design(study, drawn):
    design, features, *_ = study
    used = features[design.rows]
    np.testing.assert_allclose(drawn[0], (used - np.nanmean(used, 0)) / np.nanstd(used, 0), atol=1e-10)


def test_levels_are_those_of_the_matrix(study):
    design = study[0]
    levels, x = find_levels(design), np.pad(design.matrix.toarray(), ((0, 0), (0, 1)))
    for row, columns in zip(levels.column[:, levels.pattern], levels.of_family, strict=True):
        there = x[:, columns].any(1)
        assert (row[~there] == len(design.columns)).all() and (x[np.flatnonzero(there), row[there]] == 1).all()
    np.testing.assert_array_equal(levels.fixed[levels.pattern], x[:, levels.fixed_columns])
    assert levels.column.shape[1] <= design.n_scans
