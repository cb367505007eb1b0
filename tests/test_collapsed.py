"""The collapsed likelihood against its definition, integration, finite differences and its symmetries.

In float64 nothing but rounding differs, and the tolerance is 1e-8. That of float32 is explained at its test.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from studies import covariance, log_normal, random_study, sized_scanners, two_ratios, with_protocol

from bayesharm.algorithms.linalg import MANY_ROWS, invert, matvec, pack, solve, unpack
from bayesharm.data import features as features_module
from bayesharm.data.features import Features
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.likelihood import layout as layout_module
from bayesharm.likelihood.collapsed import CollapsedLikelihood
from bayesharm.likelihood.grams import compute_grams
from bayesharm.likelihood.moments import MomentReader, compute_moments
from bayesharm.model.catalog import load_model
from bayesharm.model.design import Design, build_design
from bayesharm.model.spec import Family

MODELS = ["cohort", "traveling", "traveling_and_cohort"]
COVARIATES = ("age", "sex", "coil")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def design_of(scans: pd.DataFrame, model: str = "traveling_and_cohort", **changes) -> Design:
    spec = with_protocol(scans) if model == "protocol" else load_model(model)
    return build_design(scans, replace(spec, **changes))


def likelihood_of(design: Design, features: np.ndarray) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
    """log p of each feature as a function of log_scales (scale, feature) and log_ratio (2 × scanner,)."""
    likelihood = CollapsedLikelihood(design)
    moments, _ = compute_moments(design, features)

    @jax.jit
    def evaluate(log_scales, log_ratio):
        statistics = likelihood.weighted(two_ratios(log_ratio), moments)
        return likelihood.log_likelihood(statistics, log_scales)

    return evaluate


def random_point(design: Design, n_features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-scales and log noise ratios of a study whose scanners differ."""
    rng = np.random.default_rng(seed)
    log_scales = np.log(design.scale_medians)[:, None] + rng.normal(0, 0.7, (len(design.scales), n_features))
    return log_scales, rng.normal(0, 0.5, 2 * len(design.scanners))


def ratios_of(design: Design, scans: pd.DataFrame, log_ratio: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Lambda and kappa by scanner; the latter 1 where the model has none."""
    noise, bias = (dict(zip(design.scanners, part, strict=True)) for part in np.split(np.exp(log_ratio), 2))
    sized = sized_scanners(scans, design.spec)
    return noise, {name: size if name in sized else 1.0 for name, size in bias.items()}


@pytest.fixture(scope="module")
def study() -> tuple[Design, np.ndarray, np.ndarray, np.ndarray]:
    """Everything at once: covariates, repeated scans, a scanner with one scan, unequal noise."""
    scans = random_study(6)
    design = design_of(scans, covariates=COVARIATES)
    features = np.random.default_rng(6).normal(5, 2, (len(scans), 3))
    return design, features, *random_point(design, 3)


@pytest.mark.usefixtures("x64")
class TestOracles:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("model", [*MODELS, "protocol"])
    def test_equals_the_dense_multivariate_normal(self, model, seed):
        scans = random_study(seed)
        design = design_of(scans, model, covariates=COVARIATES[: seed % 4])
        features = np.random.default_rng(seed).normal(3, 2, (len(scans), 2))
        log_scales, log_ratio = random_point(design, 2, seed)
        found = likelihood_of(design, features)(log_scales, log_ratio)
        for k in range(2):
            scales = dict(zip(design.scale_labels, np.exp(log_scales[:, k]), strict=True))
            used, dense = covariance(scans, design.spec, scales, *ratios_of(design, scans, log_ratio))
            y = features[used, k]
            expected = log_normal((y - y.mean()) / y.std(), dense)
            assert abs(found[k] - expected) < 1e-8

    def test_equals_the_dense_multivariate_normal_on_the_srpbs_study(self):
        simulated = simulate_srpbs(2, seed=3, dtype="float64")
        design = design_of(simulated.scans)
        log_scales, log_ratio = random_point(design, 2)
        found = likelihood_of(design, simulated.features)(log_scales, log_ratio)
        for k in range(2):
            scales = dict(zip(design.scale_labels, np.exp(log_scales[:, k]), strict=True))
            y = simulated.features[:, k]
            dense = covariance(simulated.scans, design.spec, scales, *ratios_of(design, simulated.scans, log_ratio))[1]
            assert abs(found[k] - log_normal((y - y.mean()) / y.std(), dense)) < 1e-8

    @pytest.mark.parametrize("few", [0, 3])
    def test_products_made_beforehand_and_each_time_are_the_same(self, study, few, monkeypatch):
        design, features, log_scales, log_ratio = study
        expected = likelihood_of(design, features)(log_scales, log_ratio)
        monkeypatch.setattr(layout_module, "MAX_SMALL_GROUP", few)
        np.testing.assert_allclose(likelihood_of(design, features)(log_scales, log_ratio), expected, atol=1e-9)

    def test_equals_integration_over_two_effects(self):
        """The mean and one scanner, by adaptive quadrature."""
        scans = random_study(0).iloc[:5].assign(participant_id=list("abcde"), scanner="A", site="A")
        priors = replace(load_model("cohort").priors, mean_sd=2.0)
        spec = {"families": (Family("site", "scanner", 0.3),), "priors": priors}
        design = design_of(scans.reset_index(drop=True), "cohort", **spec)
        assert design.column_labels == ("mean:mean", "site:A")
        y = np.array([1.0, -0.5, 0.3, 2.0, -1.0])
        z = (y - y.mean()) / y.std()
        sigma, tau, ratio = 0.7, 0.6, 1.5
        variance = np.array([sigma**2 * ratio] * 5 + [2.0**2, tau**2])

        def joint(site: float, mean: float) -> float:
            deviation = np.array([*(z - mean - site), mean, site])
            return np.exp(-0.5 * (deviation**2 / variance + np.log(2 * np.pi * variance)).sum())

        expected, error = integrate.dblquad(joint, -9, 9, -6, 6, epsabs=1e-13, epsrel=1e-11)
        found = likelihood_of(design, y[:, None])(np.log([[sigma], [tau]]), np.log([ratio, 1.0]))
        assert error < 1e-9 * expected and abs(found[0] - np.log(expected)) < 1e-8

    def test_equals_integration_where_a_person_was_scanned_twice(self):
        """Two scanners, one person scanned twice and two once: mean, both scanners and that person on grids.

        The trapezoidal rule is exact to rounding for integrands so smooth.
        """
        scans = pd.DataFrame(
            {"scan_id": list("0123"), "participant_id": ["r", "r", "p", "q"], "scanner": list("AAAB"), "site": list("AAAB")}
        )
        priors = replace(load_model("cohort").priors, mean_sd=1.0)
        design = design_of(scans, "cohort", priors=priors)
        assert set(design.column_labels) == {"mean:mean", "site:A", "site:B", "participant:r"}
        scales = {"noise": 0.8, "participant": 0.5, "site": 0.6}
        ratio = {"A": 0.8, "B": 1.25}
        y = np.array([1.0, 0.2, -0.5, 0.9])
        z = (y - y.mean()) / y.std()

        grid = np.linspace(-8, 8, 161)
        mean, site = grid[:, None], grid[None, :]
        sd = {name: scales["noise"] * np.sqrt(value) for name, value in ratio.items()}
        once = {name: np.hypot(value, scales["participant"]) for name, value in sd.items()}
        prior_site, prior_person = (stats.norm.pdf(grid, 0, scales[name]) for name in ("site", "participant"))
        twice = prior_person * np.prod(
            [stats.norm.pdf(z[k], (mean + site)[..., None] + grid, sd["A"]) for k in (0, 1)], axis=0
        )
        at_a = integrate.trapezoid(twice, grid) * stats.norm.pdf(z[2], mean + site, once["A"]) * prior_site
        at_b = stats.norm.pdf(z[3], mean + site, once["B"]) * prior_site
        given_mean = integrate.trapezoid(at_a, grid) * integrate.trapezoid(at_b, grid)
        expected = np.log(integrate.trapezoid(given_mean * stats.norm.pdf(grid, 0, 1.0), grid))

        log_scales = np.log([[scales[name]] for name in design.scale_labels])
        log_ratio = np.log([ratio[name] for name in design.scanners] + [1.0] * len(design.scanners))
        found = likelihood_of(design, y[:, None])(log_scales, log_ratio)
        assert abs(found[0] - expected) < 1e-8


@pytest.fixture(scope="module")
def gradient(study) -> Callable[[np.ndarray, np.ndarray], tuple[jax.Array, jax.Array]]:
    likelihood = likelihood_of(*study[:2])
    return jax.jit(jax.grad(lambda *x: likelihood(*x).sum(), (0, 1)))


@pytest.mark.usefixtures("x64")
class TestDerivatives:
    def test_the_gradient_is_that_of_finite_differences(self, study, gradient):
        design, features, log_scales, log_ratio = study
        likelihood = likelihood_of(design, features)
        by_scale, by_ratio = gradient(log_scales, log_ratio)
        h = 1e-5
        for k in range(len(log_scales)):
            step = np.zeros_like(log_scales)
            step[k] = h
            above, below = (likelihood(log_scales + sign * step, log_ratio) for sign in (1, -1))
            np.testing.assert_allclose(by_scale[k], (above - below) / (2 * h), rtol=1e-6, atol=1e-7)
        for k in range(len(log_ratio)):
            step = np.zeros_like(log_ratio)
            step[k] = h
            above, below = (likelihood(log_scales, log_ratio + sign * step).sum() for sign in (1, -1))
            np.testing.assert_allclose(by_ratio[k], (above - below) / (2 * h), rtol=1e-6, atol=1e-7)

    def test_the_hessian_is_that_of_finite_differences_and_symmetric(self, study, gradient):
        design, features, log_scales, log_ratio = study
        likelihood = likelihood_of(design, features)
        hessian = jax.jit(jax.hessian(lambda x: likelihood(x, log_ratio).sum()))(log_scales)
        h = 1e-5
        for k in range(len(log_scales)):
            for f in range(log_scales.shape[1]):
                step = np.zeros_like(log_scales)
                step[k, f] = h
                above, below = (gradient(log_scales + sign * step, log_ratio)[0] for sign in (1, -1))
                numerical = (above - below) / (2 * h)
                np.testing.assert_allclose(hessian[k, f], numerical, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(hessian, hessian.transpose(2, 3, 0, 1), rtol=1e-10, atol=1e-10)
        assert not np.asarray(hessian[:, 0, :, 1]).any()  # features are independent


def test_float32_is_as_accurate_as_float32_can_be():
    """Value and gradient are sums over N = 1,216 scans.

    Every operation errs by up to 6e-8 of its result, some tens of them in a row by about 1e-6 of the largest
    sum that occurs: N or the result itself, whichever is larger. At the mode, where the result is about N,
    that is 0.002: nothing that a sampler notices.
    """
    simulated = simulate_srpbs(20, seed=1)
    design = design_of(simulated.scans)
    log_scales, log_ratio = random_point(design, 20)

    def value_and_gradient(dtype):
        likelihood, ratio = likelihood_of(design, simulated.features), jnp.asarray(log_ratio, dtype)

        @jax.jit
        def both(x):
            value, pull = jax.vjp(lambda x: likelihood(x, ratio), x)
            return value, pull(jnp.ones_like(value))[0]

        value, gradient = both(jnp.asarray(log_scales, dtype))
        assert value.dtype == gradient.dtype == dtype
        return np.asarray(value), np.asarray(gradient)

    single = value_and_gradient(jnp.float32)
    with jax.enable_x64(True):
        double = value_and_gradient(jnp.float64)
    for ours, exact in zip(single, double, strict=True):
        assert (np.abs(ours - exact) / (design.n_scans + np.abs(exact))).max() < 1e-6


def positive_definite(n: int, batch: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(batch, n, 2 * n))
    return (x @ x.transpose(0, 2, 1) / n).transpose(1, 2, 0)


@pytest.mark.usefixtures("x64")
class TestSmallMatrices:
    @pytest.mark.parametrize("n", [1, 2, 5, 17])
    def test_inverse_and_log_det_are_those_of_numpy(self, n):
        matrix = positive_definite(n, 7, seed=n)
        inverse, log_det = invert(pack(jnp.asarray(matrix)))
        batch_first = matrix.transpose(2, 0, 1)
        expected = np.linalg.inv(batch_first).transpose(1, 2, 0)
        np.testing.assert_allclose(unpack(inverse), expected, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(batch_first)[1], rtol=1e-10)
        rhs = np.random.default_rng(n).normal(size=(n, 7))
        solution = solve(pack(jnp.asarray(matrix)), jnp.asarray(rhs))
        np.testing.assert_allclose(unpack(solution.inverse), expected, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(solution.log_det, log_det, rtol=1e-10)
        np.testing.assert_allclose(matvec(matrix, solution.x), rhs, atol=1e-9)
        np.testing.assert_allclose(solution.quadratic, (rhs * solution.x).sum(0), rtol=1e-9)

    @pytest.mark.parametrize(
        "bad",
        [
            [[1.0, 2, 0], [2, 1, 0], [0, 0, 1]],
            [[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]],
            np.zeros((3, 3)),
            [[1.0, 0, 0], [0, 1, 0], [0, 0, 0]],
            np.full((3, 3), np.nan),
        ],
        ids=["indefinite", "two negative", "zero", "singular", "NaN"],
    )
    def test_not_positive_definite_is_nan_and_stays_in_its_lane(self, bad):
        matrix = positive_definite(3, 5, seed=0)
        expected = invert(pack(jnp.asarray(matrix)))
        matrix[:, :, 2] = bad
        inverse, log_det = invert(pack(jnp.asarray(matrix)))
        assert np.isnan(log_det[2]) and np.isnan(inverse[:, 2]).all()
        others = np.arange(5) != 2
        np.testing.assert_array_equal(inverse[:, others], expected[0][:, others])
        np.testing.assert_array_equal(log_det[others], expected[1][others])

    @pytest.mark.parametrize("n", [4, MANY_ROWS + 3])
    def test_derivatives_to_the_second_order_are_those_of_a_plain_implementation(self, n):
        batch = 3
        base, rhs = positive_definite(n, batch, seed=1), np.random.default_rng(2).normal(size=(n, batch))
        directions = np.random.default_rng(3).normal(size=(2, n, n, batch))
        directions = (directions + directions.transpose(0, 2, 1, 3)) * 4 / n

        def at(t):
            return base + t[0] * directions[0] + jnp.sin(t[1]) * directions[1], rhs * (1 + t[0] * t[1])

        def ours(t):
            matrix, r = at(t)
            inverse, x, log_det, quadratic = solve(pack(matrix), r)
            return jnp.stack([log_det, quadratic, jnp.cos(unpack(inverse)).sum((0, 1)), jnp.sin(x).sum(0)])

        def plain(t):
            matrix, r = at(t)
            batch_first = jnp.moveaxis(matrix, -1, 0)
            inverse, log_det = jnp.linalg.inv(batch_first), jnp.linalg.slogdet(batch_first)[1]
            x = jnp.einsum("bij,jb->ib", inverse, r)
            return jnp.stack([log_det, (x * r).sum(0), jnp.cos(inverse).sum((1, 2)), jnp.sin(x).sum(0)])

        t = jnp.array([0.05, -0.03])
        both = [jax.jacrev, jax.jacfwd]
        for modes in ([jax.jacrev], both, [jax.jacrev, jax.jacrev]) if n == 4 else (both,):
            found, expected = ours, plain
            for mode in modes:
                found, expected = mode(found), mode(expected)
            np.testing.assert_allclose(jax.jit(found)(t), jax.jit(expected)(t), rtol=1e-8, atol=1e-8)


@pytest.fixture(scope="module")
def expected(study) -> np.ndarray:
    design, features, log_scales, log_ratio = study
    with jax.enable_x64(True):
        return np.asarray(likelihood_of(design, features)(log_scales, log_ratio))


@pytest.mark.usefixtures("x64")
class TestSymmetries:
    """What must change nothing changes nothing but rounding."""

    @settings(max_examples=4)
    @given(seed=st.integers(0, 2**31))
    def test_permuting_scans(self, study, expected, seed):
        scans, (_, features, log_scales, log_ratio) = random_study(6), study
        order = np.random.default_rng(seed).permutation(len(scans))
        permuted = design_of(scans.iloc[order].reset_index(drop=True), covariates=COVARIATES)
        found = likelihood_of(permuted, features[order])(log_scales, log_ratio)
        np.testing.assert_allclose(found, expected, atol=1e-9)

    @settings(max_examples=4)
    @given(seed=st.integers(0, 2**31))
    def test_renaming_levels(self, study, expected, seed):
        """New names change the order of levels, so of columns and scales."""
        scans, (design, features, log_scales, log_ratio) = random_study(6), study
        rng, names = np.random.default_rng(seed), {}
        for column in ("participant_id", "scanner", "site", "diagnosis"):
            old = [level for level in scans[column].unique() if level != "HC"]
            new = [f"x{k}" for k in rng.permutation(len(old))]
            names[column] = {"HC": "HC"} | dict(zip(old, new, strict=True))
        renamed = design_of(scans.replace(names), covariates=COVARIATES)
        scale = {"sampling_" + old: "sampling_" + new for old, new in names["diagnosis"].items()}
        row = [renamed.scale_labels.index(scale.get(name, name)) for name in design.scale_labels]
        place = [renamed.scanners.index(names["scanner"][name]) for name in design.scanners]
        new_scales, new_ratio = np.empty_like(log_scales), np.empty_like(log_ratio)
        new_scales[row] = log_scales
        new_ratio[np.concatenate([place, len(place) + np.array(place)])] = log_ratio
        found = likelihood_of(renamed, features)(new_scales, new_ratio)
        np.testing.assert_allclose(found, expected, atol=1e-9)

    @pytest.mark.parametrize(("shift", "factor"), [(0.0, 1e-6), (0.0, -1e4), (100.0, 1.0), (-3.0, 7.0)])
    def test_shifting_and_scaling_a_feature(self, study, expected, shift, factor):
        design, features, log_scales, log_ratio = study
        found = likelihood_of(design, shift + factor * features)(log_scales, log_ratio)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_moments_are_sums_over_scans_and_the_units_come_back(study):
    design, features, _, _ = study
    grams = compute_grams(design)
    moments, standard = compute_moments(design, features)
    y = (features - standard.center) / standard.sd
    np.testing.assert_allclose(standard.center, features.mean(axis=0))
    np.testing.assert_allclose(standard.sd, features.std(axis=0))
    x = design.matrix.toarray()
    for entries, values, first in (
        (grams.dense, moments.dense, 0),
        (grams.eliminated, moments.eliminated, design.n_dense),
    ):
        for c, column, value in zip(entries.classes, entries.columns, values, strict=True):
            scans = design.scan_class == c
            np.testing.assert_allclose(value, x[scans, first + column] @ y[scans], atol=1e-10)
    np.testing.assert_allclose(moments.squares.sum(axis=0), len(features))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_are_read_in_windows(study, monkeypatch, dtype):
    """In any order, whatever the windows; a mean a million times the sd costs nothing but what storing it has."""
    design, _, _, _ = study
    values = np.random.default_rng(1).normal(size=(len(design.rows), 11)).astype(dtype)
    values[:, 3] = (1e6 + values[:, 3].astype(float)).astype(dtype)
    wanted = np.array([0, 1, 2, 2, 10, 3, 4, 9])
    everything, standard = compute_moments(design, values)
    for window in (1, 4, 100):
        monkeypatch.setattr(features_module, "BLOCK_VALUES", window * len(values))
        order = np.random.default_rng(2).permutation(len(values))
        features = Features.from_array(values[order]).align(np.argsort(order))
        moments, own = MomentReader(features, design)(wanted)
        assert moments.counts is None
        for found, expected in zip((*moments[:3], *own), (*everything[:3], *standard), strict=True):
            np.testing.assert_allclose(found, expected[..., wanted], rtol=1e-9, atol=1e-9)
    y = values.astype(float)
    np.testing.assert_allclose(standard.sd, y.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(everything.squares.sum(axis=0), len(y), rtol=1e-9)
    np.testing.assert_allclose(standard.center, y.mean(axis=0), rtol=1e-12, atol=1e-12)


MANY_LANES = """
import sys
sys.path[:0] = {path!r}
import jax, jax.numpy as jnp, numpy as np
from studies import random_study
from bayesharm.model.design import build_design
from bayesharm.likelihood.collapsed import CollapsedLikelihood
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.likelihood.moments import compute_moments
from bayesharm.model.catalog import load_model

design = build_design(random_study(0), load_model("traveling_and_cohort"))
likelihood = CollapsedLikelihood(design)
features = np.random.default_rng(0).normal(size=(design.n_scans, 4000))
moments, _ = compute_moments(design, features)
statistics = jax.jit(likelihood.weighted)(VarianceRatios.equal(len(design.scanners)), moments)
start = jnp.broadcast_to(jnp.log(jnp.asarray(design.scale_medians)), (4000, len(design.scales)))

def lane(x, by_feature):
    by_feature = jax.tree.map(lambda leaf: leaf[..., None], by_feature)
    return likelihood.log_likelihood(statistics._replace(by_feature=by_feature), x[:, None])[0]

hessian = jax.jit(jax.vmap(jax.hessian(lane), (0, -1)))(start, statistics.by_feature)
assert hessian.shape == (4000, len(design.scales), len(design.scales)) and bool(jnp.isfinite(hessian).all())
print("finished")
"""


def test_a_vmapped_hessian_of_4000_lanes_finishes():
    """Small LAPACK calls under vmap deadlock in some releases of JAX at this size; a process can be ended."""
    code = MANY_LANES.format(path=sys.path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "finished" in done.stdout, done.stderr


def test_programs_of_single_precision_leave_double_precision_as_it_is(study):
    """JAX keeps arrays that it met as constants as they were then, for as long as the program lives."""
    design, features, log_scales, log_ratio = study
    moments, _ = compute_moments(design, features)

    def log_likelihood(likelihood, ratio, scales):
        return likelihood.log_likelihood(likelihood.weighted(two_ratios(ratio), moments), scales)

    def evaluate(likelihood) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(log_likelihood(likelihood, jnp.asarray(log_ratio), jnp.asarray(log_scales)))

    one, other = (CollapsedLikelihood(design) for _ in range(2))
    program = jax.jit(lambda ratio, scales: log_likelihood(one, ratio, scales))
    assert program(np.float32(log_ratio), np.float32(log_scales)).dtype == np.float32
    np.testing.assert_array_equal(evaluate(one), evaluate(other))
