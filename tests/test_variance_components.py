"""Variance components against the draws of a made-up posterior."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from posteriors import make_posterior
from typer.testing import CliRunner

from bayesharm.analysis.family_sizes import JointErrors
from bayesharm.analysis.variance_components import variance_components
from bayesharm.cli.app import app
from bayesharm.errors import InputError, RunFolderError
from bayesharm.results.posterior import load_posterior

NAMES = tuple(f"f{k}" for k in range(6))
NODES = pd.DataFrame({"feature": NAMES, "node_a": list("AAABBC"), "node_b": list("BCDCDD")})
NETWORKS = pd.DataFrame({"region": list("ABCD"), "network": ["visual", "visual", "motor", "motor"]})
N_DRAWS = 4000


@pytest.fixture(scope="module")
def draws():
    """Sizes of the families of `traveling`, (draw, family, feature); the two largest go together in each feature."""
    rng = np.random.default_rng(1)
    common = rng.normal(size=(N_DRAWS, 1, len(NAMES)))
    own = rng.normal(size=(N_DRAWS, 3, len(NAMES)))
    size = np.array([1.0, 0.60, 0.57])[:, None] * np.linspace(0.8, 1.2, len(NAMES))
    return size + 0.05 * own * np.array([1, 0.3, 0.3])[:, None] + 0.05 * common * np.array([0, 1, 1])[:, None]


@pytest.fixture
def posterior(draws):
    found = make_posterior(features=NAMES)
    scales = found.tree["scales"].to_dataset()
    assert scales.sizes["family"] == 3
    statistics = np.concatenate([draws.mean(0)[None], draws.std(0)[None], np.quantile(draws, [0.05, 0.5, 0.95], axis=0)])
    away = draws - draws.mean(0)
    dims, pair = ("statistic", "family", "feature"), ("family", "other", "feature")
    found.tree["finite_population"] = xr.DataTree(xr.Dataset({
        "finite_sd": (dims, 2 * statistics),  # every feature has an sd of 2 over the scans
        "contribution": (dims, statistics / 10),
        "finite_covariance": (pair, 4 * np.einsum("dif,djf->ijf", away, away) / (N_DRAWS - 1)),
        "covariance_with_log_scale": (("size", "family", "feature"), np.zeros((3, 3, len(NAMES)))),
        "probability_larger": (pair, (draws[:, :, None] > draws[:, None]).mean(0)),
        "family": scales["family"].values,
    }))  # fmt: skip
    return found


def test_means_over_features_have_the_intervals_of_their_draws(posterior, draws):
    found = variance_components(posterior).families
    assert set(found.index) == {"noise", "measurement", "participant"}
    mean = 2 * draws.mean(2)
    np.testing.assert_allclose(found["finite_sd"], mean.mean(0))
    for name, share in (("finite_sd_q05", 0.05), ("finite_sd_q95", 0.95)):
        limit = np.quantile(mean, share, axis=0)
        np.testing.assert_allclose(found[name], limit, atol=0.15 * mean.std(0).max())  # 4.3 standard errors of a quantile
    np.testing.assert_allclose(found["contribution"], draws.mean((0, 2)) / 10)


def test_probabilities_know_that_families_of_a_feature_go_together(posterior, draws):
    """Their difference is known far better than each of them."""
    found = variance_components(posterior).larger.to_numpy()
    mean = draws.mean(2)
    expected = (mean[:, :, None] > mean[:, None]).mean(0)
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(found[off], expected[off], atol=4.3 * 0.5 / np.sqrt(N_DRAWS))
    assert found[1, 2] > 0.95 and np.isnan(np.diagonal(found)).all()


def test_what_features_share_widens_their_means(posterior):
    """By a posterior sd of eta every feature moves to the same side, as much as it goes with its log-scale."""
    before = variance_components(posterior).families
    posterior.tree["finite_population"]["covariance_with_log_scale"][1] = 0.04
    found = variance_components(posterior).families
    hyper = posterior.tree["hyper"].to_dataset()
    eta, omega = (hyper[name].values.reshape(-1, 3) for name in ("eta", "omega"))
    common = np.cov(eta.T)[np.triu_indices(3, 1)].mean()  # left to the amplitude, which each feature has for itself
    assert common < 0.1 * eta.var(0).min()
    moves = 0.04 * eta.std(0) / ((omega**2).mean(0) + eta.var(0))
    half = [np.log(table["finite_sd_q95"] / table["finite_sd_q05"]).to_numpy() / 2 / 1.645 for table in (before, found)]
    own, both = (np.sqrt(np.expm1(part**2)) * found["finite_sd"] for part in half)
    np.testing.assert_allclose(np.sqrt(both**2 - own**2), moves, rtol=0.1)  # twice what the amplitude takes of eta
    np.testing.assert_allclose(found["tau"], before["tau"])


def test_noise_is_known_no_better_than_the_noise_ratios_of_all_scans(posterior):
    before = variance_components(posterior).families
    posterior.tree["design"]["n_scans"][:] = [50, 5, 5]
    found = variance_components(posterior).families
    ratio = np.log(posterior.tree["hyper"]["noise_ratio"].values)
    expected = 0.5 * (ratio @ np.array([50, 5, 5]) / 60).std()
    half = [np.log(table.tau_q95 / table.tau_q05) / 2 / 1.645 for table in (before, found)]
    added = np.sqrt(half[1]["noise"] ** 2 - half[0]["noise"] ** 2)
    np.testing.assert_allclose(added, expected, rtol=0.1)  # logarithms of wide intervals: squares add up nearly
    np.testing.assert_allclose(half[1].drop("noise"), half[0].drop("noise"))


@pytest.fixture
def joint(posterior, draws):
    """The same with draws of all features together, which share half of the variance of their logarithms."""
    rng = np.random.default_rng(3)
    sizes = np.exp(0.1 * (rng.normal(size=(N_DRAWS, 3, 1)) + rng.normal(size=draws.shape))) * draws.mean(0)
    names = {name: scale * sizes for name, scale in (("tau", 2), ("finite_sd", 2), ("contribution", 0.1))}
    posterior.tree["size_draws"] = xr.DataTree(
        xr.Dataset({name: (("draw", "family", "feature"), values) for name, values in names.items()})
    )
    return posterior, sizes


def test_draws_of_all_features_together_have_means_of_their_own(joint):
    posterior, sizes = joint
    found = variance_components(posterior, NODES)
    mean = 2 * sizes.mean(2)
    limits = np.quantile(mean, [0.05, 0.95], axis=0)
    np.testing.assert_allclose(found.families[["finite_sd_q05", "finite_sd_q95"]].T, limits)
    np.testing.assert_allclose(found.families[["contribution_q05", "contribution_q95"]].T, limits / 20)
    share = ((mean[:, :, None] > mean[:, None]).sum(0) + 0.5) / (N_DRAWS + 1)
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(found.larger.to_numpy()[off], share[off])
    region = 2 * sizes[..., :3].mean(2)
    np.testing.assert_allclose(found.regions.loc["A", "finite_sd_q95"], np.quantile(region, 0.95, axis=0))


def test_levels_have_the_intervals_of_their_joint_draws(posterior):
    effect = posterior.tree["effects/measurement"].to_dataset()
    squares = np.random.default_rng(4).chisquare(5, (N_DRAWS, effect.sizes["scanner"]))
    posterior.tree["effects/measurement"] = xr.DataTree(
        effect.assign(mean_square=(("draw", "scanner"), squares), square_variance=("scanner", len(NAMES) * squares.var(0)))
    )
    found = variance_components(posterior).levels.loc["measurement"]
    limits = np.sqrt(np.quantile(squares, [0.05, 0.95], axis=0))
    np.testing.assert_allclose(found[["rms_q05", "rms_q95"]].T, limits)
    np.testing.assert_allclose(found.rms, np.sqrt(squares.mean(0)))
    patterns = posterior.tree["error_patterns"]["error_pattern"]
    patterns[:] = len(patterns) ** -0.5  # all features are one
    wider = variance_components(posterior).levels.loc["measurement"]
    assert ((wider.rms_q95 > found.rms_q95) & (wider.rms_q05 < found.rms_q05)).all()
    np.testing.assert_allclose(wider.rms, found.rms)


def test_errors_that_features_share_widen_means_of_joint_draws(joint):
    """If all features are one, a mean is known no better than one of them."""
    posterior, sizes = joint
    patterns = posterior.tree["error_patterns"]["error_pattern"]
    patterns[:] = len(patterns) ** -0.5
    found = variance_components(posterior).families
    spread = np.log(found.finite_sd_q95 / found.finite_sd_q05).to_numpy()
    limits = np.quantile(np.log(sizes), [0.05, 0.95], axis=0)
    np.testing.assert_allclose(spread, (limits[1] - limits[0]).mean(1), rtol=0.05)
    assert (found.finite_sd_q05 < found.finite_sd).all() and (found.finite_sd < found.finite_sd_q95).all()


@pytest.mark.parametrize("power", [1, 2])
def test_errors_that_features_share_leave_the_mean_as_it_is(joint, power):
    """Each feature has the posterior that it had; draws of their mean have the variance of six features that are one."""
    _, sizes = joint
    errors, everything = JointErrors({"finite_sd": sizes}), np.ones(len(NAMES), bool)
    found = errors.draw_means("finite_sd", everything, len(NAMES), power)
    np.testing.assert_allclose(found.mean(0), (sizes**power).mean((0, 2)))
    np.testing.assert_allclose(found.std(0), (sizes**power).std(0).mean(1), rtol=0.1)  # sds differ over features
    np.testing.assert_array_equal(errors.draw_means("finite_sd", everything, 1.0, power), (sizes**power).mean(2))


def test_regions_and_networks_are_means_over_their_edges(posterior, draws):
    found = variance_components(posterior, NODES, NETWORKS)
    families = [str(name) for name in posterior.tree["scales"]["family"].values]
    mean = 2 * draws.mean(0)
    for region, edges in {"A": [0, 1, 2], "B": [0, 3, 4], "C": [1, 3, 5], "D": [2, 4, 5]}.items():
        np.testing.assert_allclose(found.regions.loc[region].loc[families, "finite_sd"], mean[:, edges].mean(1))
    pairs = {("visual", "visual"): [0], ("motor", "visual"): [1, 2, 3, 4], ("motor", "motor"): [5]}
    assert found.networks.index.droplevel("family").nunique() == 3
    for pair, edges in pairs.items():
        np.testing.assert_allclose(found.networks.loc[pair].loc[families, "finite_sd"], mean[:, edges].mean(1))
    whole, part = (table["finite_sd_q95"] - table["finite_sd_q05"] for table in (found.families, found.networks))
    assert (part.loc[("motor", "motor")] > 1.5 * whole).all()  # fewer features, wider intervals


def test_levels_have_the_size_of_their_effects(posterior):
    posterior.tree["effects/measurement"]["contraction"][:] = 1  # all from the data
    found = variance_components(posterior).levels.loc["measurement"]
    effect = posterior.effect("measurement")
    expected = np.sqrt((effect["mean"].values ** 2 + effect["sd"].values ** 2).mean(1))
    np.testing.assert_allclose(found["rms"], expected)
    rng = np.random.default_rng(2)
    many = rng.normal(effect["mean"].values, effect["sd"].values, (N_DRAWS, *effect["mean"].shape))
    limits = np.quantile((many**2).mean(2), [0.05, 0.95], axis=0)
    error = (found[["rms_q05", "rms_q95"]].T.to_numpy() ** 2 - limits) / (many**2).mean(2).std(0)
    assert np.abs(error).max() < 0.3  # sds: few features, and so a skew distribution


def test_levels_from_the_prior_are_as_uncertain_as_its_scale(posterior):
    """The posterior is the prior: effects of mean 0 whose sd is the scale, in each feature."""
    effect = posterior.tree["effects/measurement"]
    effect["mean"][:] *= 0
    effect["contraction"][:] = 0
    hyper = posterior.hyper
    eta = hyper["eta"].sel(family="measurement").values
    bias_ratio = np.log(hyper["bias_ratio"].values).std((0, 1))
    expected = np.hypot(eta.std(), 0.5 * bias_ratio)
    found = variance_components(posterior).levels.loc["measurement"]
    spread = np.log(found.rms_q95 / found.rms_q05) / 2 / 1.645
    own = 2**-0.5 / np.sqrt(len(NAMES)) * 1.3  # of the mean square of six features, whose sds differ somewhat
    assert (spread > 0.9 * expected).all() and (spread < 1.1 * np.hypot(expected, own)).all()


def test_features_have_all_three_sizes(posterior, draws):
    found = variance_components(posterior).features
    assert list(found.index) == list(NAMES) and found.notna().to_numpy().all()
    np.testing.assert_allclose(found["finite_sd_measurement"], 2 * draws.mean(0)[_place(posterior, "measurement")])


def _place(posterior, family: str) -> int:
    return [str(name) for name in posterior.tree["scales"]["family"].values].index(family)


@pytest.mark.parametrize(("nodes", "networks", "message"), [
    (NODES.drop(columns="node_b"), None, r"edge table lacks 'node_b'"),
    (NODES.iloc[1:], None, r"no row for 'f0'"),
    (pd.concat([NODES, NODES]), None, r"several rows for 'f0'"),
    (NODES, NETWORKS.iloc[1:], r"no network[\s\S]*'A'"),
    (NODES, NETWORKS.rename(columns={"region": "node"}), r"network table lacks 'region'"),
    (None, NETWORKS, r"not which regions"),
])  # fmt: skip
def test_tables_that_do_not_fit_are_refused(posterior, nodes, networks, message):
    with pytest.raises(InputError, match=message):
        variance_components(posterior, nodes, networks)


def test_a_preview_has_no_variance_components():
    with pytest.raises(RunFolderError, match=r"a preview[\s\S]*fit without --preview"):
        variance_components(make_posterior(settings={"preview": True}))


def test_the_command_prints_and_writes_tables(small_run, tmp_path):
    names = load_posterior(small_run).features
    nodes, networks = tmp_path / "nodes.csv", tmp_path / "networks.csv"
    pd.DataFrame({"feature": names, "node_a": ["a", "b"] * (len(names) // 2), "node_b": "c"}).to_csv(nodes, index=False)
    pd.DataFrame({"region": list("abc"), "network": ["x", "y", "x"]}).to_csv(networks, index=False)
    options = {"--edge-table": nodes, "--networks": networks, "--out": tmp_path / "tables"}
    result = CliRunner().invoke(app, ["sources", str(small_run), *(str(part) for pair in options.items() for part in pair)])
    assert result.exit_code == 0, result.output
    assert "Which is larger" in result.output and "sampling_HC" in result.output
    found = {path.stem: pd.read_csv(path) for path in (tmp_path / "tables").glob("*.csv")}
    assert found.keys() == {"families", "larger", "levels", "features", "regions", "networks"}
    families = found["families"].set_index("family")
    told = families.dropna()
    assert len(told) >= 4  # a single site recruits its patients
    assert ((told.finite_sd_q05 < told.finite_sd) & (told.finite_sd < told.finite_sd_q95)).all()
    assert ((told.contribution > 0) & (told.contribution < 1)).all()
    assert set(found["levels"].family) == {"measurement", "sampling", "disorder"}
