"""Student-t noise: weights of scans, tails of the noise, and Gibbs sampling of both with scales and effects."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import stats
from studies import extend, random_study, with_protocol
from tiny_study import EQUAL, FALSE_ALARMS, SCANNERS, TinyStudy

import bayesharm
from bayesharm import load_dataset
from bayesharm.conditional.contrast_moments import contrast_moments
from bayesharm.conditional.finite_population import find_levels
from bayesharm.errors import InputError
from bayesharm.fitting.assembly import weight_notes
from bayesharm.fitting.gibbs import ChainState, sample_weighted_block
from bayesharm.fitting.gibbs_sweep import GibbsShape
from bayesharm.fitting.settings import Settings
from bayesharm.inference.predictive_prior import PredictivePrior
from bayesharm.inference.scales import start_chains
from bayesharm.inference.tails import Tails, draw_tails, draw_weights, expected_weight, scale_information
from bayesharm.likelihood import definition
from bayesharm.likelihood.counts import index_counts
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.likelihood.scan_weights import compute_weighted_moments, fitted_values, list_scan_terms, scan_variance
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model.spec import Priors


@pytest.fixture(scope="module", params=["traveling_and_cohort", "protocol", "everything"])
def weighted(request):
    """A study of each kind of column, features with holes, and random weights of their scans."""
    scans, rng = random_study(2), np.random.default_rng(0)
    specs = {"protocol": lambda: with_protocol(scans), "everything": lambda: extend("everything")}
    spec = specs.get(request.param, lambda: load_model(request.param))()
    design = build_design(scans, replace(spec, covariates=("age", "sex")))
    values = rng.normal(size=(design.n_scans, 3))
    values[rng.random(values.shape) < 0.1] = np.nan
    log_scales = np.log(design.scale_medians)[:, None] + rng.normal(0, 0.5, (len(design.scales), 3))
    noise, bias, gain = rng.normal(0, 0.4, (3, len(design.scanners)))
    ratios = VarianceRatios(noise, bias, gain, rng.normal(0, 0.5, len(design.correlations)))
    return design, values, rng.gamma(2, 0.5, values.shape), log_scales, ratios


def test_weights_of_1_give_the_moments_of_the_observed_scans(weighted):
    design, values, *_ = weighted
    rows = np.zeros((design.rows.max() + 1, values.shape[1]))
    rows[design.rows] = values
    plain, standard = compute_moments(design, rows)
    standardized = (values - standard.center) / standard.sd
    with jax.enable_x64(True):
        found = compute_weighted_moments(list_scan_terms(design), standardized, np.ones_like(values))
    first = np.arange(len(found.counts)) >= index_counts(design).first_pattern  # plain numbers are those of classes
    for name, expected in plain.to_arrays().items():
        if name == "counts":
            found, expected = found._replace(counts=found.counts[first]), expected[first]
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(np.asarray(found.class_counts).sum(0), (~np.isnan(values)).sum(0))


def test_weighted_likelihood_and_effects_are_those_of_the_definition(weighted):
    """The likelihood up to the sum of the log weights, which does not depend on the scales."""
    design, values, weight, log_scales, ratios = weighted

    @jax.jit
    def compute(ratios, moments, log_scales):
        statistics = problem.likelihood.weighted(ratios, moments)
        given = problem.likelihood.condition(statistics, log_scales)
        products = problem.likelihood.eliminated_products(ratios, moments)
        return problem.likelihood.log_likelihood(statistics, log_scales), contrast_moments(problem, given, products)

    with jax.enable_x64(True):
        problem = make_problem(design, has_missing=True)
        moments = compute_weighted_moments(list_scan_terms(design), values, weight)
        likelihood, effects = jax.tree.map(np.asarray, compute(ratios, moments, log_scales))
    contrasts = np.concatenate([group.contrasts for group in design.effects])
    for k, y in enumerate(values.T):
        seen = ~np.isnan(y)
        q = np.where(seen, weight[:, k], 1e-14)  # a scan without a value has no weight
        arguments = design, np.where(seen, y, 0.0), log_scales[:, k], ratios, q
        absent = 1 / definition.scan_precision(design, log_scales[:, k], ratios)[~seen]
        expected = definition.log_likelihood(*arguments) + 0.5 * np.log(2 * np.pi * absent / 1e-14).sum()
        constant = 0.5 * np.log(q * design.scan_weight)[seen].sum()
        assert likelihood[k] == pytest.approx(expected - constant, rel=1e-8)
        mean, covariance = definition.condition(*arguments)
        np.testing.assert_allclose(effects[0][:, k], contrasts @ mean, atol=1e-8)
        np.testing.assert_allclose(effects[1][:, k], np.einsum("ci,ij,cj->c", contrasts, covariance, contrasts), atol=1e-8)


def test_residuals_are_those_of_the_definition(weighted):
    design, _, _, log_scales, ratios = weighted
    effects = np.random.default_rng(1).normal(size=(len(design.columns), 3))
    with jax.enable_x64(True):
        problem = make_problem(design, has_missing=True)
        gain = problem.likelihood.gain(ratios)
        terms = list_scan_terms(design).with_gain(gain)
        fitted = fitted_values(terms, jnp.asarray(effects))
        variance = scan_variance(terms, ratios, gain, jnp.asarray(log_scales), problem.participant_scale)
    np.testing.assert_allclose(fitted, definition.design_matrix(design, ratios) @ effects, rtol=1e-12)
    expected = [1 / definition.scan_precision(design, log_scales[:, k], ratios) for k in range(3)]
    np.testing.assert_allclose(variance, np.transpose(expected), rtol=1e-12)


@pytest.mark.parametrize("tails", [Tails(0.1, 1.5), Tails(0.9, 5.0)])
@pytest.mark.parametrize("z", [0.5, 2.5])
def test_weights_are_drawn_from_their_posterior(tails, z):
    """Against the posterior written with SciPy: the atom at 1, and the Gamma distribution of the others."""
    n = 20_000
    share, df = tails
    squares, start = jnp.full((n, 1), z**2), jnp.full((n, 1), 0.123)
    weight = start
    for k in range(2):  # a rejected proposal leaves the weight before it
        weight = draw_weights(jax.random.split(jax.random.key(k), 1), squares, tails, weight)
    drawn = np.asarray(weight[:, 0], float)
    kept = np.isclose(drawn, 0.123)
    assert kept.mean() < 0.01
    drawn = drawn[~kept]
    gaussian, student = (1 - share) * stats.norm.pdf(z), share * stats.t.pdf(z, df)
    p_heavy = student / (gaussian + student)
    is_heavy = drawn != 1
    assert stats.binomtest(int(is_heavy.sum()), len(drawn), p_heavy).pvalue > FALSE_ALARMS
    gamma = stats.gamma((df + 1) / 2, scale=2 / (df + z**2))
    assert stats.kstest(drawn[is_heavy], gamma.cdf).pvalue > FALSE_ALARMS
    assert float(expected_weight(squares, tails)[0, 0]) == pytest.approx(1 - p_heavy + p_heavy * gamma.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("draw", "check"),
    [
        (lambda rng, n: rng.normal(size=n), lambda tails: tails.share / tails.df < 0.02),
        (lambda rng, n: rng.standard_t(4, n), lambda tails: tails.share > 0.8 and 3.4 < tails.df < 4.2),
        (
            lambda rng, n: rng.normal(size=n) + 8 * (rng.random(n) < 0.02),
            lambda tails: 0.08 < tails.share < 0.15 and tails.df < 1.5,
        ),
    ],
    ids=["Gaussian", "Student-t", "2% bad values"],
)
def test_tails_are_learned(draw, check):
    rng = np.random.default_rng(0)
    draws = draw_tails(draw(rng, 40_000) ** 2, 1.0, Priors(), (4, 100), rng)
    assert draws.share.shape == (4, 100) and ((draws.share > 0) & (draws.share < 1) & (draws.df > 1)).all()
    assert check(draws.typical), draws.typical
    assert draws.is_reliable


def test_tails_from_an_unreliable_importance_sample_are_reported():
    rng = np.random.default_rng(0)
    draws = draw_tails(rng.standard_t(4, 10_000) ** 2, 1e5, Priors(), (2, 50), rng)  # too narrow for the proposals
    assert not draws.is_reliable and not draws.resample((1, 5), rng).is_reliable


def test_information_on_the_scale():
    assert scale_information(Tails(1 - 1e-9, 5.0)) == pytest.approx(5 / 8, rel=1e-6)
    assert scale_information(Tails(1e-9, 5.0)) == pytest.approx(1.0, rel=1e-6)
    assert 0.6 < scale_information(Tails(0.2, 1.5)) < 0.8
    for df in (50.0, 1e4, 1e5):  # clean data: densities far out are 0
        assert scale_information(Tails(0.2, df)) == pytest.approx(1.0, abs=0.04)
        assert scale_information(Tails(1 - 1e-9, df)) == pytest.approx(df / (df + 3), rel=1e-5)


def test_without_values_tails_follow_their_prior():
    rng = np.random.default_rng(0)
    draws = draw_tails(np.ones(3), 1e-9, Priors(tail_share=0.3), (4, 250), rng)
    assert stats.kstest(draws.share.ravel(), stats.beta(1, 1 / 0.3 - 1).cdf).pvalue > 1e-3
    assert stats.kstest(1 / draws.df.ravel(), stats.uniform.cdf).pvalue > 1e-3


N_REPLICATES, SHAPE = 300, GibbsShape(n_chains=2, n_groups=60, n_proposed=2)


@pytest.fixture(scope="module")
def calibrated():
    """Features drawn from the model, each with scales, effects and tails of the prior, and their sampled posteriors."""
    tails, rng = Tails(0.3, 2.0), np.random.default_rng(0)
    design = TinyStudy(EQUAL, 0).design
    mean, sd = np.log([0.5, 0.6, 0.4]), np.array([0.3, 0.3, 0.3])
    log_scales = mean[:, None] + sd[:, None] * rng.normal(size=(3, N_REPLICATES))
    prior_sd = np.where(design.column_scale >= 0, np.exp(log_scales).T[:, design.column_scale], 0.5).T
    effects = prior_sd * rng.normal(size=prior_sd.shape)
    is_heavy = rng.random((design.n_scans, N_REPLICATES)) < tails.share
    weight = np.where(is_heavy, rng.gamma(tails.df / 2, 2 / tails.df, is_heavy.shape), 1.0)
    values = design.matrix @ effects + np.exp(log_scales[0]) * rng.normal(size=weight.shape) / np.sqrt(weight)
    values[rng.random(values.shape) < 0.05] = np.nan
    problem = make_problem(design, has_missing=True)
    hierarchy = problem.hierarchy
    problem = replace(problem, hierarchy=replace(hierarchy, priors=replace(hierarchy.priors, feature_offset_sd=0.0)))
    prior = PredictivePrior(mean[:, None], np.log(sd)[:, None], np.zeros((1, N_REPLICATES)))
    keys = jax.random.split(jax.random.key(1), N_REPLICATES)
    empty = np.zeros((SHAPE.n_chains, *values.shape), np.float32)
    state = ChainState(start_chains(keys, 3, SHAPE.n_chains), empty, empty)
    draws = sample_weighted_block(
        problem, list_scan_terms(design), find_levels(design), VarianceRatios.equal(len(SCANNERS)), tails,
        values.astype(np.float32), prior, keys, keys, state, 6, True, SHAPE,
    )  # fmt: skip
    contrasts = np.concatenate([group.contrasts for group in design.effects])
    return jax.tree.map(np.asarray, draws), log_scales, contrasts @ effects, values, weight


def test_sampled_scales_are_calibrated(calibrated):
    """Ranks of the true scales among the draws are uniform: simulation-based calibration (Talts et al. 2018)."""
    draws, log_scales, *_ = calibrated
    thinned = draws.log_scales[:, ::6].reshape(-1, *log_scales.shape)
    rank = (thinned < log_scales).mean(0)
    for family, ranks in enumerate(rank):
        assert stats.kstest(ranks + np.random.default_rng(0).uniform(0, 1 / len(thinned), len(ranks)) * (1 - ranks),
                            stats.uniform.cdf).pvalue > 1e-3, family  # fmt: skip
    assert draws.diverging.mean() < 1e-3
    assert np.isfinite(draws.log_weights).any()


def test_sampled_effects_are_calibrated(calibrated):
    draws, _, truth, *_ = calibrated
    z = (draws.effect_mean - truth) / np.sqrt(draws.effect_variance)
    by_feature = (np.abs(z) < stats.norm.isf(0.05)).mean(0)
    error = by_feature.std() / np.sqrt(len(by_feature))
    assert abs(by_feature.mean() - 0.9) < 0.01 + 4 * error  # mixtures of Gaussians are not Gaussian
    assert abs((z**2).mean() - 1) < 4 * (z**2).mean(0).std() / np.sqrt(len(by_feature))


def test_mean_weights_find_the_bad_values(calibrated):
    draws, *_, values, weight = calibrated
    seen = ~np.isnan(values)
    assert np.corrcoef(np.log(draws.weight[seen]), np.log(weight[seen]))[0, 1] > 0.5
    assert draws.weight[seen & (weight < 0.02)].mean() < 0.5 < draws.weight[seen & (weight > 0.5)].mean()
    assert np.isnan(draws.state.squares[:, ~seen]).all()


def test_settings_ask_for_fewer_draws():
    assert Settings.from_options({}).target_ess == 400
    with_tails = Settings.from_options({"target_ess": None}, has_tails=True)
    assert (with_tails.target_ess, with_tails.max_rhat, with_tails.n_draws) == (100, 1.05, 40)
    assert Settings.from_options({"target_ess": 400}, has_tails=True).n_draws == 160
    with pytest.raises(InputError, match="max_rhat"):
        Settings(max_rhat=1.0)


BAD = "scan7"


@pytest.fixture(scope="module")
def robust(tmp_path_factory):
    """A fit with Student-t noise of a study in which one scan went wrong, and the study."""
    study = TinyStudy(EQUAL, 3)
    features = study.features.copy()
    row = list(study.scans.scan_id).index(BAD)
    features[row] += np.where(np.arange(features.shape[1]) % 2, 16.0, -16.0)
    features[0, 0] = np.nan
    dataset = load_dataset(study.scans, features)
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = {"draws": 20, "target_ess": 8, "max_rhat": 5.0}
    posterior = bayesharm.fit(
        dataset, study.spec, likelihood="student-t", noise_ratio="scanner-feature", seed=1, accept=["all"], out=folder,
        **settings,
    )  # fmt: skip
    return posterior, dataset, folder, settings


def test_a_bad_scan_is_found(robust):
    posterior, *_ = robust
    summary = bayesharm.summarize(posterior)
    assert summary.scans.index[0] == BAD and summary.scans.iloc[0].mean_weight < 0.1 < summary.scans.iloc[1].mean_weight
    assert summary.scans.iloc[0].low_share == 1.0
    assert any(note.startswith("1 scan has a clearly smaller weight") and BAD in note for note in summary.notes)
    text = str(summary)
    assert "Scans with the smallest weights (10 of 18)" in text and "degrees of freedom" in text


def test_all_scans_with_clearly_smaller_weights_are_named():
    def notes(*mean):
        return weight_notes(xr.Dataset({"scan": [f"s{k:02d}" for k in range(len(mean))], "mean_weight": ("scan", [*mean])}))

    sound = [1.0, 1.05, 0.9] * 20
    assert notes(*sound, 0.87) == []
    (note,) = notes(0.72, 0.45, *sound)
    assert note.startswith("2 scans have clearly smaller weights") and "s01 (0.45) and s00 (0.72). Look" in note
    assert "scans.csv" in note
    assert "and 2 more. Look" in notes(*np.linspace(0.2, 0.6, 12), *sound)[0]
    assert notes(*np.linspace(0.4, 1.6, 60)) == []  # as with a feature or two


def test_a_bad_scan_hardly_moves_the_biases(robust):
    """As far from those without the scan as chance allows, and far less than it moves a mean."""
    posterior, *_ = robust
    effect = posterior.effect("measurement")
    assert np.abs(effect["mean"].values).max() < 2.0  # a mean of five scans would move by 16 / 5
    assert np.isfinite(effect["sd"].values).all() and (effect["sd"].values > 0).all()


def test_the_run_folder_keeps_tails_and_weights(robust):
    posterior, dataset, folder, _ = robust
    loaded = bayesharm.load_posterior(folder)
    assert loaded.spec.likelihood == "student-t"
    assert loaded.hyper["tail_share"].dims == ("chain", "draw") and (loaded.hyper["tail_df"].values > 1).all()
    node = loaded.tree["scan_weights"].to_dataset()
    assert set(node["scan"].values) == set(dataset.scans["scan_id"])
    assert "n_observed" in loaded.design and int(loaded.design["n_observed"].sum()) == dataset.scans.shape[0] * 12 - 1
    harmonized = bayesharm.harmonize(loaded, dataset, match_noise=True)
    assert np.isfinite(harmonized.mean).sum() == harmonized.mean.size - 1


def test_the_same_seed_gives_the_same_run(robust):
    """Block by block, and again."""
    posterior, dataset, folder, settings = robust
    again = bayesharm.fit(dataset, posterior.spec, seed=1, accept=["all"], **settings)
    for name in ("scales", "effects/measurement", "scan_weights", "hyper"):
        one, other = (tree[name].to_dataset() for tree in (posterior.tree, again.tree))
        for variable in one.data_vars:
            np.testing.assert_array_equal(one[variable].values, other[variable].values, err_msg=f"{name}/{variable}")


def test_damaged_weights_are_repaired(robust):
    posterior, dataset, folder, settings = robust
    file = next((folder / "posterior.zarr" / "scan_weights" / "mean_weight").rglob("c/0"))
    before = file.read_bytes()
    file.write_bytes(before[:-1])
    bayesharm.fit(dataset, posterior.spec, seed=1, accept=["all"], out=folder, repair=True, **settings)
    assert file.read_bytes() == before


def test_what_needs_gaussian_noise_is_refused(robust):
    posterior, dataset, *_ = robust
    for call in (
        lambda: bayesharm.adapt(posterior, dataset),
        lambda: bayesharm.predict(posterior, dataset),
        lambda: bayesharm.compare_models(posterior, posterior, dataset),
    ):
        with pytest.raises(InputError, match="(?s)student-t.*likelihood gaussian"):
            call()


def test_impossible_choices_are_refused():
    study = TinyStudy(EQUAL, 3)
    dataset = load_dataset(study.scans, study.features)
    with pytest.raises(InputError, match="(?s)Unknown likelihood.*gaussian, student-t"):
        bayesharm.fit(dataset, study.spec, likelihood="cauchy")
    with pytest.raises(InputError, match="(?s)preview.*student-t"):
        bayesharm.fit(dataset, study.spec, likelihood="student-t", preview=True)
