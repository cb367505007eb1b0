"""ArviZ works on posteriors: its statistics and plots take what all features share, and text is ordinary strings."""

import warnings

import arviz as az
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from posteriors import make_posterior
from scipy import stats

from bayesharm.model.labels import NOISE_RATIO
from bayesharm.model.spec import Priors
from bayesharm.results.arviz_groups import draw_prior, log_priors
from bayesharm.results.labels import for_disk, for_memory
from bayesharm.results.posterior import Posterior, load_posterior

mpl.use("Agg")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Posterior:
    return load_posterior(make_posterior().save(tmp_path_factory.mktemp("arviz") / "run"))


@pytest.fixture(scope="module")
def groups(loaded) -> xr.DataTree:
    return loaded.to_arviz()


def test_chains_and_draws_are_numbered_in_memory_and_on_disk(loaded, tmp_path):
    for node in (loaded.hyper, loaded.to_arviz()["posterior"]):
        assert node["chain"].values.tolist() == list(range(4)) and node["draw"].values.tolist() == list(range(250))
    old = xr.Dataset({"x": (("chain", "draw"), np.zeros((2, 3)))})
    assert for_memory(old)["draw"].values.tolist() == [0, 1, 2]


def test_text_is_ordinary_strings_for_xarray_alone_and_for_us(tmp_path):
    posterior = make_posterior(features=("f0", "שלום", "x" * 300, ""))
    folder = posterior.save(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xr.open_datatree(folder / "posterior.zarr", engine="zarr", consolidated=False)
    labels = plain["scales"]["feature"]
    assert labels.dtype.kind == "U" and labels.astype(str).values.tolist() == posterior.features
    for node in plain.subtree:
        assert all(each.dtype.kind in "fiubU" for each in node.variables.values())
    assert load_posterior(folder).scales["feature"].dtype == object and load_posterior(folder).features == posterior.features


def test_runs_with_variable_strings_open_too():
    written = xr.Dataset({"x": ("a", np.array(["u", "vw"], dtype=np.dtypes.StringDType()))}, {"a": ["k", "lm"]})
    read = for_memory(written)
    assert read["x"].dtype == read["a"].dtype == object and read["x"].values.tolist() == ["u", "vw"]
    assert for_disk(read)["x"].dtype == "<U2"


def test_statistics_of_arviz_take_the_groups_and_the_tree(loaded, groups):
    table = az.summary(groups, var_names=["eta", "omega"], round_to=None)
    assert len(table) == 2 * loaded.hyper.sizes["family"]
    eta = loaded.hyper["eta"].sel(family="noise")
    assert float(table.loc["eta[noise]", "mean"]) == pytest.approx(float(eta.mean()), abs=0.02)
    assert len(az.summary(loaded.tree, group="hyper", var_names=["eta"])) == loaded.hyper.sizes["family"]
    interval = az.hdi(groups, var_names=["eta"])
    assert interval is not None


@pytest.mark.parametrize("plot", ["plot_forest", "plot_trace_dist", "plot_dist", "plot_rank", "plot_prior_posterior"])
def test_plots_of_arviz_take_the_groups(groups, plot):
    assert getattr(az, plot)(groups, var_names=["eta"], backend="matplotlib") is not None


@pytest.mark.parametrize("plot", ["plot_forest", "plot_trace_dist"])
def test_plots_of_arviz_take_the_tree(loaded, plot):
    assert getattr(az, plot)(loaded.tree, group="hyper", var_names=["eta"], backend="matplotlib") is not None


def test_quantities_that_the_model_fixes_are_left_out(groups):
    assert set(groups["posterior"].data_vars) == {"eta", "omega", "noise_ratio"} == set(groups["prior"].data_vars)
    assert set(groups["log_prior"].data_vars) == {"eta", "omega", "noise_ratio"}


def test_power_scaling_of_arviz_takes_the_groups(groups):
    found = az.psense(groups, group="prior", var_names=["eta"])
    assert np.isfinite(found["eta"].values).all()


def all_quantities(n: int = 50_000) -> tuple[xr.Dataset, object]:
    """Draws of every quantity, whatever their values; the gain of one scanner and the bias ratio of another are fixed."""
    spec = make_posterior().spec
    families = ["noise", "participant", "measurement", NOISE_RATIO]
    rng, scanners = np.random.default_rng(1), ["A", "B", "C", "D"]
    ratio = np.exp(rng.normal(0, 0.1, (2, n // 2, 4)))
    fixed = np.where(np.arange(4) == 1, 1.0, ratio)
    hyper = xr.Dataset(
        {
            "eta": (("chain", "draw", "family"), rng.normal(size=(2, n // 2, 4)) * [1, 1, 1, 0]),
            "omega": (("chain", "draw", "family"), rng.uniform(0.1, 1, (2, n // 2, 4))),
            "noise_ratio": (("chain", "draw", "scanner"), ratio),
            "bias_ratio": (("chain", "draw", "scanner"), fixed),
            "gain": (("chain", "draw", "scanner"), fixed),
            "slope_correlation": (("chain", "draw", "slope_family"), rng.uniform(-0.5, 0.5, (2, n // 2, 1))),
            "tail_share": (("chain", "draw"), rng.uniform(0.1, 0.5, (2, n // 2))),
            "tail_df": (("chain", "draw"), rng.uniform(2, 5, (2, n // 2))),
        },
        coords={"family": families, "term": ("family", families), "scanner": scanners},
    )
    return hyper, spec


def test_log_priors_are_those_of_the_stated_priors():
    hyper, spec = all_quantities(200)
    found, priors = log_priors(hyper, spec), Priors()

    def against(name: str, expected: np.ndarray) -> None:
        difference = found[name].values - expected
        assert np.ptp(difference) < 1e-8, name

    medians = np.log([spec.noise_scale, *(family.prior_median for family in spec.families), 1.0])
    order = ["noise", *(family.name for family in spec.families), NOISE_RATIO]
    eta = hyper["eta"].sel(family=order).values
    against("eta", stats.norm(medians, priors.eta_sd).logpdf(eta).sum(-1))
    excess = np.sqrt(hyper["omega"].values ** 2 - priors.omega_floor**2)
    against("omega", stats.halfnorm(scale=priors.omega_sd).logpdf(excess).sum(-1))
    share = hyper["tail_share"].values
    against("tail_share", stats.beta(1, 1 / priors.tail_share - 1).logpdf(share))
    rho = np.arctanh(hyper["slope_correlation"].values)
    against("slope_correlation", stats.norm(0, priors.correlation_sd).logpdf(rho).sum(-1))
    # ratios: Normal before centering over all four scanners; where one is fixed, the others have a proper density
    covariance = np.eye(4) - 0.25
    logs = np.log(hyper["gain"].values)[..., [0, 2, 3]]
    against("gain", stats.multivariate_normal(np.zeros(3), priors.gain_sd**2 * covariance[:3, :3]).logpdf(logs))
    logs = np.log(hyper["noise_ratio"].values)
    logs -= logs.mean(-1, keepdims=True)
    centered = hyper.assign(noise_ratio=(hyper["noise_ratio"].dims, np.exp(logs)))
    singular = stats.multivariate_normal(np.zeros(4), priors.noise_ratio_sd**2 * covariance, allow_singular=True)
    difference = log_priors(centered, spec)["noise_ratio"].values - singular.logpdf(logs)
    assert np.ptp(difference) < 1e-8


def test_prior_draws_have_the_moments_of_the_priors():
    """20 comparisons, each with a false-alarm rate of 2e-5."""
    hyper, spec = all_quantities()
    drawn, priors = draw_prior(hyper, spec), spec.priors
    n, z = hyper["eta"].values[..., 0].size, 4.3
    assert set(drawn.data_vars) == set(hyper.data_vars)
    eta = drawn["eta"].sel(family=["noise", "participant", "measurement"]).values.reshape(-1, 3)
    assert (drawn["eta"].sel(family=NOISE_RATIO) == 0).all()
    np.testing.assert_allclose(eta.std(0), priors.eta_sd, rtol=z / np.sqrt(2 * n))
    assert np.abs(eta.mean(0) - np.log([spec.noise_scale, *(f.prior_median for f in spec.families)])).max() < z / np.sqrt(n)
    for name, sd in (("noise_ratio", priors.noise_ratio_sd), ("gain", priors.gain_sd)):
        logs = np.log(drawn[name].values).reshape(-1, 4)
        varies = logs.std(0) > 0
        np.testing.assert_allclose(logs.std(0)[varies], sd * np.sqrt(0.75), rtol=z / np.sqrt(2 * n))
    assert (drawn["gain"].isel(scanner=1) == 1).all() and (drawn["omega"] >= priors.omega_floor).all()
    assert float(drawn["tail_share"].mean()) == pytest.approx(priors.tail_share, abs=z * 0.1 / np.sqrt(n))
    assert float(drawn["tail_df"].min()) >= 1
