"""Prior sensitivity against conjugate posteriors, whose change with the prior is known, and on a real fit."""

from dataclasses import replace

import arviz as az
import numpy as np
import pytest
import xarray as xr
from posteriors import SCANNERS, add_sources, make_posterior

import bayesharm
from bayesharm.analysis.headline_draws import headline_draws
from bayesharm.analysis.prior_sensitivity import CONFLICT, THRESHOLD, WEAK, prior_sensitivity
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.sections.sources import describe_scales
from bayesharm.results.posterior import Posterior, load_posterior

SHAPE = (4, 1000)


def with_ratios(information: float, estimate: tuple[float, float, float]) -> tuple[Posterior, np.ndarray, float]:
    """A posterior whose log noise ratios are those of a Gaussian likelihood; with its precision and that of the prior."""
    found, rng = make_posterior(), np.random.default_rng(2)
    centered, prior = np.eye(3) - 1 / 3, 1 / found.spec.priors.noise_ratio_sd**2
    mean = information * centered @ np.array(estimate) / (information + prior)
    logs = mean + (rng.standard_normal((*SHAPE, 3)) @ centered) / np.sqrt(information + prior)
    hyper = found.hyper.isel(chain=[0] * 4, draw=np.zeros(SHAPE[1], int)).copy()
    hyper = hyper.assign_coords(chain=np.arange(4), draw=np.arange(SHAPE[1]))
    families = hyper.sizes["family"]
    eta = rng.normal(
        np.log([found.spec.noise_scale, *(f.prior_median for f in found.spec.families)]), 0.05, (*SHAPE, families)
    )
    hyper["eta"] = (("chain", "draw", "family"), eta)
    hyper["omega"] = (("chain", "draw", "family"), rng.uniform(0.25, 0.3, (*SHAPE, families)))
    hyper["noise_ratio"] = (("chain", "draw", "scanner"), np.exp(logs))
    hyper["bias_ratio"] = (("chain", "draw", "scanner"), np.ones_like(logs))
    hyper["gain"] = (("chain", "draw", "scanner"), np.ones_like(logs))
    tree = found.tree.copy()
    tree["hyper"] = xr.DataTree(hyper)
    return replace(found, tree=tree), mean, prior


@pytest.mark.parametrize("information", [4.0, 40.0])
def test_wider_and_narrower_priors_move_a_conjugate_posterior_as_they_should(information):
    """6 comparisons of log-normal means, with an error of 4.3 standard errors at the least effective size of the weights."""
    estimate = (0.8, -0.5, -0.3)
    posterior, _, prior = with_ratios(information, estimate)
    rows = prior_sensitivity(posterior).numbers.loc["noise variance ratio"]
    for column, power in (("weaker", 0.5), ("stronger", 2.0)):
        precision = information + power * prior
        mean, variance = information * np.array(estimate) / precision, (2 / 3) / precision
        expected = np.exp(mean + variance / 2)
        error = 4.3 * expected * np.sqrt(np.expm1(variance) / (0.4 * np.prod(SHAPE)))
        assert (np.abs(rows[column].to_numpy() - expected) < error).all()
    assert (rows["khat"] < 0.7).all()


def test_a_number_without_data_is_said_to_rest_on_the_prior():
    posterior, *_ = with_ratios(0.01, (0.0, 0.0, 0.0))
    found = prior_sensitivity(posterior)
    rows = found.numbers.loc["noise variance ratio"]
    assert (rows["prior"] > THRESHOLD).all() and (rows["likelihood"] < THRESHOLD).all() and (rows["diagnosis"] == WEAK).all()
    assert any(sentence.startswith("Noise variance ratio: 3 of 3 depend") for sentence in found.conclusions())
    assert set(found.flagged.index.get_level_values("name")) == set(SCANNERS)


def test_a_disagreement_of_prior_and_data_is_found():
    posterior, *_ = with_ratios(20.0, (3.0, -1.5, -1.5))
    rows = prior_sensitivity(posterior).numbers.loc["noise variance ratio"]
    assert (rows["diagnosis"] == CONFLICT).all() and (rows["hyperprior"] == "noise ratios of scanners").all()


def test_a_number_that_the_data_determine_is_not_flagged():
    posterior, *_ = with_ratios(4000.0, (0.3, -0.2, -0.1))
    found = prior_sensitivity(posterior)
    assert (found.numbers.loc["noise variance ratio"]["prior"] < THRESHOLD / 2).all()
    assert not len(found.flagged) and "No number depends" in found.conclusions()[0]
    assert "No number depends" in str(found) and "numbers" in repr(found)


def test_sensitivities_are_those_of_arviz():
    posterior, *_ = with_ratios(4.0, (0.8, -0.5, -0.3))
    theirs = az.psense(posterior.to_arviz(), group="prior", group_var_names=["noise_ratio"], var_names=["noise_ratio"])
    ours = prior_sensitivity(posterior).numbers.loc["noise variance ratio"]["prior"]
    np.testing.assert_allclose(ours.to_numpy(), theirs["noise_ratio"].values, rtol=1e-6)


def test_headline_numbers_are_those_of_the_other_results():
    posterior = add_sources(make_posterior())
    numbers = {(each.kind, each.name): each.draws for each in headline_draws(posterior)}
    sources = bayesharm.variance_components(posterior)
    for family, row in sources.families.iterrows():
        assert numbers["scale", family].mean() == pytest.approx(row.tau, rel=1e-6)
    shares = sum(draws for (kind, _), draws in numbers.items() if kind == "share of variance")
    np.testing.assert_allclose(shares, 1)
    for scanner, row in sources.levels.loc["measurement"].iterrows():
        assert np.sqrt((numbers["bias of the scanner", scanner] ** 2).mean()) == pytest.approx(row.rms, rel=1e-6)
    assert "gain" not in {kind for kind, _ in numbers}  # fixed in this model


def test_a_common_shift_of_all_typical_scales_changes_nothing():
    """The offsets of features take up the shift. The weight of the prior in scales is estimated from draws with it."""
    posterior = make_posterior()
    shift = np.random.default_rng(0).normal(0, 0.5, (4, 250, 1))
    moved = posterior.tree.copy()
    hyper = posterior.hyper.copy()
    moved["hyper"] = xr.DataTree(hyper.assign(eta=hyper["eta"] + shift - shift.mean()))
    for kind, tolerance in (("share of variance", 1e-9), ("scale", 1e-2)):
        one, other = (
            np.stack([each.draws for each in headline_draws(found) if each.kind == kind])
            for found in (posterior, replace(posterior, tree=moved))
        )
        np.testing.assert_allclose(one, other, rtol=tolerance)


def test_a_real_fit_has_a_table_and_the_command_prints_it(small_run, tmp_path):
    from typer.testing import CliRunner

    from bayesharm.cli.app import app

    found = prior_sensitivity(load_posterior(small_run))
    kinds = set(found.numbers.index.get_level_values("kind"))
    assert kinds == {
        "scale", "share of variance", "scale over that of measurement", "bias of the scanner", "noise variance ratio",
        "bias variance ratio",
    }  # fmt: skip
    assert np.isfinite(found.numbers[["value", "weaker", "stronger", "prior", "likelihood"]]).all(axis=None)
    few = found.numbers.loc["bias variance ratio"]  # five scanners determine their ratios hardly, 100 features well
    assert found.numbers.loc[("scale", "noise"), "prior"] < THRESHOLD < few["prior"].max()
    result = CliRunner().invoke(app, ["sensitivity", str(small_run), "--out", str(tmp_path / "tables")])
    assert result.exit_code == 0 and "Conclusions" in result.output
    assert (tmp_path / "tables" / "numbers.csv").is_file()


def test_the_report_says_how_closely_a_common_offset_leaves_typical_scales_known(small_run):
    """Of 100 features with offsets of sd 2, and the priors of the scales: nearly the whole interval of the noise is that."""
    view = RunView(load_posterior(small_run))
    (sentence,) = (each for each in describe_scales(view).sentences if "divided by its own sd" in each)
    factor, noise = float(sentence.split("about ")[1].split(";")[0]), view.summary.hyper.loc["noise"]
    assert np.log(noise.scale_q95 / noise.scale_q05) == pytest.approx(np.log(factor), rel=0.2)
