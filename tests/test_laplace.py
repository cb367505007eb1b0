"""Mode and curvature in every lane: exact where they are known, honest where there is no mode."""

from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.linalg import cholesky, pack, solve
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.likelihood.collapsed import CollapsedLikelihood, WeightedStatistics
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

LANES = 6


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def covariances(fit: Laplace) -> np.ndarray:
    """(lane, dimension, dimension)"""
    factor = np.moveaxis(np.asarray(fit.factor), -1, 0)
    assert (np.triu(factor, 1) == 0).all()
    return factor @ factor.transpose(0, 2, 1)


def gaussian(dimension: int, seed: int = 0):
    """A log density of its own in each lane, with means and covariances."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 3, (dimension, LANES))
    half = rng.normal(size=(LANES, dimension, 2 * dimension)) * 10 ** rng.uniform(-1, 1, (LANES, 1, 1))
    covariance = half @ half.transpose(0, 2, 1)
    precision = jnp.asarray(np.linalg.inv(covariance).transpose(1, 2, 0))

    def log_density(x):
        return -0.5 * jnp.einsum("il,ijl,jl->l", x - mean, precision, x - mean)

    return log_density, mean, covariance


def fit(log_density, start, sd: float = 1.0, **options) -> Laplace:
    return jax.jit(lambda x: fit_laplace(log_density, x, jnp.full_like(x, sd), **options))(start)


def one_dimension(log_density, start) -> Laplace:
    return fit(lambda x: log_density(x[0]), jnp.asarray(start, float)[None])


@pytest.mark.parametrize("dimension", [1, 3, 7])
def test_a_gaussian_is_found_exactly(dimension):
    log_density, mean, covariance = gaussian(dimension)
    found = fit(log_density, jnp.zeros((dimension, LANES)))
    assert found.converged.all()
    np.testing.assert_allclose(found.mode, mean, atol=1e-6)
    np.testing.assert_allclose(covariances(found), covariance, rtol=1e-8)


def test_modes_known_in_closed_form():
    """log of a Gamma(a, b) variable: a·x − b·eˣ has mode log(a/b) and curvature −a."""
    a, b = jnp.array([0.5, 3.0, 40.0, 1e4]), jnp.array([2.0, 0.1, 7.0, 1.0])
    found = one_dimension(lambda x: a * x - b * jnp.exp(x), [3.0, -5.0, 0.0, 12.0])
    assert found.converged.all()
    assert (np.abs(found.mode[0] - np.log(a / b)) * np.sqrt(a) < 1e-4).all()  # in sds
    np.testing.assert_allclose(covariances(found)[:, 0, 0], 1 / a, rtol=1e-4)


def test_a_start_where_the_curvature_has_the_wrong_sign():
    """Beyond one sd a Student-t is convex; between its modes so is −(x² − 1)²."""
    student = one_dimension(lambda x: -2.5 * jnp.log1p((x - 2) ** 2 / 4), [-6.0, 1.9, 30.0])
    assert student.converged.all()
    np.testing.assert_allclose(student.mode, 2, atol=1e-4)
    double = one_dimension(lambda x: -((x**2 - 1) ** 2), [0.1, -0.1])
    assert double.converged.all()
    np.testing.assert_allclose(double.mode[0], [1, -1], atol=1e-4)


def test_a_step_out_of_the_support_is_taken_back():
    found = one_dimension(lambda x: jnp.log(x) - x, [0.01, 1.9, 2.0, 3.0, 9.0])  # NaN below zero, −∞ at it
    assert found.converged.all()
    np.testing.assert_allclose(found.mode, 1, atol=1e-4)


@pytest.mark.parametrize(
    ("log_density", "start"),
    [
        (lambda x: 0 * x, 0.0),  # flat
        (lambda x: x, 0.0),  # no end
        (lambda x: x**2, 0.0),  # a minimum
        (lambda x: jnp.nan * x, 1.0),
        (lambda x: jnp.where(jnp.abs(x) > 0.5, -(x**2), jnp.nan), 0.0),  # nothing to start from
    ],
    ids=["flat", "linear", "minimum", "NaN", "NaN at the start"],
)
def test_without_a_mode_a_lane_is_flagged_and_gets_the_fallback(log_density, start):
    def both(x):
        return jnp.stack([log_density(x[0, 0]), -0.5 * (x[0, 1] - 3) ** 2])

    found = fit(both, jnp.full((1, 2), start), sd=0.7)
    assert found.converged.tolist() == [False, True]
    np.testing.assert_allclose(found.factor[0, 0], [0.7, 1], atol=1e-6)
    np.testing.assert_allclose(found.mode[0, 1], 3, atol=1e-6)


def test_too_few_iterations_are_flagged():
    mean = jnp.array([50.5, 0.0])
    found = fit(lambda x: -0.5 * ((x - mean) ** 2)[0], jnp.full((1, 2), 50.0), n_iterations=3)
    assert found.converged.tolist() == [True, False]


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nothing_leaks_from_one_lane_into_another(poison):
    log_density, start = gaussian(3)[0], jnp.zeros((3, LANES))

    @jax.jit
    def weighted(weight):
        return fit_laplace(lambda x: weight * log_density(x), start, jnp.ones_like(start))

    clean, poisoned = weighted(jnp.ones(LANES)), weighted(jnp.ones(LANES).at[2].set(poison))
    others = np.arange(LANES) != 2
    assert not poisoned.converged[2] and poisoned.converged[others].all()
    np.testing.assert_array_equal(poisoned.factor[:, :, 2], np.eye(3))
    np.testing.assert_array_equal(poisoned.mode[:, others], clean.mode[:, others])
    np.testing.assert_array_equal(poisoned.factor[:, :, others], clean.factor[:, :, others])


def test_a_lane_does_not_depend_on_how_long_others_take():
    a = jnp.array([3.0, 3.0, 3.0])
    together = one_dimension(lambda x: a * x - jnp.exp(x), [1.0, -30.0, 25.0])
    alone = one_dimension(lambda x: 3 * x - jnp.exp(x), [1.0])
    assert together.converged.all()
    np.testing.assert_array_equal(together.mode[:, 0], alone.mode[:, 0])
    np.testing.assert_array_equal(together.factor[:, :, 0], alone.factor[:, :, 0])


class FitContext:
    """The real likelihood of some features, with a Normal prior on the log-scales."""

    def __init__(self, n_features: int):
        simulated = simulate_srpbs(n_features, seed=2)
        self.design = build_design(simulated.scans, load_model("traveling_and_cohort"))
        self.likelihood = CollapsedLikelihood(self.design)
        self.moments, _ = compute_moments(self.design, simulated.features)
        self.n_features = n_features

        self.center = np.log(self.design.scale_medians)[:, None]
        self.fit_condensed = jax.jit(self._fit_condensed)

    def condensed(self, dtype, features):
        """Constants, and moments of some features in some order."""
        moments = jax.tree.map(lambda leaf: leaf[..., features], self.moments)
        ratios = VarianceRatios.of_variances(*[jnp.zeros(len(self.design.scanners), dtype)] * 2)
        return jax.jit(self.likelihood.weighted)(ratios, moments)

    def log_density(self, constants, moments, x):
        prior = -0.5 * ((x - jnp.asarray(self.center, x.dtype)) ** 2).sum(0)
        return self.likelihood.log_likelihood(WeightedStatistics(constants, moments), x) + prior

    def _fit_condensed(self, constants, moments) -> Laplace:
        dtype, n = moments.squares.dtype, moments.squares.shape[1]
        start = jnp.broadcast_to(jnp.asarray(self.center, dtype), (len(self.center), n))
        return fit_laplace(lambda x: self.log_density(constants, moments, x), start, jnp.ones_like(start))

    def fit(self, dtype, features=slice(None)) -> Laplace:
        return self.fit_condensed(*self.condensed(dtype, features))


@pytest.fixture(scope="module")
def study() -> FitContext:
    return FitContext(24)


@pytest.fixture(scope="module")
def fitted(study) -> Laplace:
    with jax.enable_x64(True):
        return study.fit(jnp.float64)


def test_the_real_likelihood_has_the_mode_that_scipy_finds(study, fitted):
    assert fitted.converged.all()
    data = study.condensed(jnp.float64, slice(3))
    minus = jax.jit(jax.value_and_grad(lambda x: -study.log_density(*data, x.reshape(7, 3)).sum()))
    start = np.repeat(study.center, 3)
    found = optimize.minimize(minus, start, jac=True, method="BFGS", options={"gtol": 1e-8})
    mode, h = np.asarray(fitted.mode[:, :3]), 1e-5
    np.testing.assert_allclose(mode, found.x.reshape(7, 3), atol=1e-4)
    steps = h * np.eye(7)[:, :, None]
    hessian = np.array([minus(mode + step)[1] - minus(mode - step)[1] for step in steps]) / (2 * h)
    for k in range(3):
        expected = np.linalg.inv(hessian[:, :, k])
        np.testing.assert_allclose(covariances(fitted)[k], expected, rtol=1e-4, atol=1e-7)


def test_real_lanes_do_not_depend_on_what_is_beside_them(study, fitted):
    features = np.r_[5:8, np.zeros(21, int)]
    others = study.fit(jnp.float64, features)
    np.testing.assert_allclose(others.mode, fitted.mode[:, features], atol=1e-8)
    np.testing.assert_allclose(others.factor, fitted.factor[:, :, features], atol=1e-8)


def test_float32_serves_as_a_preconditioner(study, fitted):
    """All lanes converge; the modes are within a hundredth of a posterior sd, the sds within 1%."""
    single = study.fit(jnp.float32)
    sd = np.sqrt(np.einsum("ijl,ijl->il", fitted.factor, fitted.factor))
    single_sd = np.sqrt(np.einsum("ijl,ijl->il", single.factor, single.factor))
    assert single.mode.dtype == jnp.float32 and single.converged.all()
    assert (np.abs(single.mode - fitted.mode) / sd).max() < 0.01
    np.testing.assert_allclose(single_sd, sd, rtol=0.01)


def test_cholesky_is_that_of_numpy_and_nan_where_there_is_none():
    x = np.random.default_rng(0).normal(size=(4, 5, 9))
    matrix = x @ x.transpose(0, 2, 1)
    matrix[2, 0, 0] = -1
    factor = cholesky(jnp.asarray(matrix.transpose(1, 2, 0)))
    for k in (0, 1, 3):
        np.testing.assert_allclose(factor[:, :, k], np.linalg.cholesky(matrix[k]), atol=1e-12)
    assert np.isnan(factor[:, :, 2]).any()


def test_the_time_of_second_derivatives_does_not_jump_with_the_size():
    """XLA once merged two products of matrices and vectors at n = 15: eleven times the time of n = 14 and 16."""

    def seconds(n: int) -> float:
        packed = jnp.broadcast_to(pack(jnp.eye(n, dtype=jnp.float32))[:, None], (n * (n + 1) // 2, 64))
        rhs = jnp.ones((n, 64), jnp.float32)

        def gradient(packed, rhs):
            return jax.grad(lambda *of: (solve(*of).log_det + solve(*of).quadratic).sum(), (0, 1))(packed, rhs)

        derivative = jax.jit(lambda: jax.jvp(gradient, (packed, rhs), (packed, rhs)))
        times = []
        for _ in range(20):
            start = perf_counter()
            jax.block_until_ready(derivative())
            times.append(perf_counter() - start)
        return min(times)

    times = [seconds(n) for n in (14, 15, 16)]
    assert max(times) < 4 * min(times)
