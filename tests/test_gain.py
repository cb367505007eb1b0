"""Gains of scanners: matched in harmonized data and with noise, simulated, recovered; and refused where there are none."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from posteriors import make_learned
from studies import extend, random_study
from typer.testing import CliRunner

from bayesharm.analysis.summary import summarize
from bayesharm.cli.app import app
from bayesharm.data.dataset import load_dataset
from bayesharm.datasets.oracle import gaussian_oracle
from bayesharm.datasets.simulate import scan_levels, simulate_srpbs
from bayesharm.errors import InputError
from bayesharm.evaluation.bayesharm_method import BayesFitted
from bayesharm.harmonization.adaptation import adapt
from bayesharm.harmonization.harmonize import Harmonized, harmonize
from bayesharm.harmonization.mean_level import find_mean_level
from bayesharm.harmonization.noise_scaling import Expectation, noise_factors
from bayesharm.harmonization.options import CorrectionOptions
from bayesharm.harmonization.scanner_ratios import ScannerRatios, read_ratios
from bayesharm.likelihood.definition import condition, gain_of_scanners, log_likelihood
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.contrasts import removable_together
from bayesharm.model.design import Design, build_design
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.sections.scanners import describe_scanners
from bayesharm.results.nodes import label_effects
from bayesharm.results.posterior import Posterior, load_posterior
from bayesharm.results.schema import SCANNER_RATIOS

SPEC = replace(load_model("traveling_and_cohort"), gain="scanner")
SCALES = {"noise": 0.8, "measurement": 0.4, "sampling_HC": 0.3, "sampling_MDD": 0.3, "sampling_SCZ": 0.3,
          "disorder": 0.3, "participant": 0.9}  # fmt: skip
BOTH = ("measurement", "sampling")


def quietly(*args, **options) -> Harmonized:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return harmonize(*args, **options)


class Study:
    """A study of three features, and a posterior that knows the scales and ratios; its effects are those of dense matrices.

    All features have the same scales in sds, so that correlations of a typical feature are those of each. Lone, the last
    scanner, has one scan of somebody who did not travel: its gain is not known.
    """

    def __init__(self, **choices) -> None:
        scans, rng, spec = random_study(0), np.random.default_rng(0), replace(SPEC, **choices)
        self.design = build_design(scans, spec)
        self.values = rng.normal(3, 2, (len(scans), 3))
        self.dataset = load_dataset(scans, self.values, check="apply")
        self.unit, center = self.values.std(0), self.values.mean(0)
        sizes = [SCALES[name] for name in self.design.scale_labels]
        learned = make_learned(
            self.dataset, spec, dict(zip(self.design.scale_labels, np.outer(sizes, self.unit), strict=True))
        )
        self.ratios = learned.variance_ratios()
        y = ((self.values - center) / self.unit)[self.design.rows]
        given = [condition(self.design, column, np.log(sizes), self.ratios) for column in y.T]
        self.mean, self.covariance = np.stack([mean for mean, _ in given], axis=1), given[0][1]
        groups, effects = self.design.effects, {}
        for group in groups:
            sd = np.sqrt(np.diag(group.contrasts @ self.covariance @ group.contrasts.T))
            effects[group.name] = group.contrasts @ self.mean * self.unit, np.outer(sd, self.unit)
        together = np.concatenate([group.contrasts for group in removable_together(groups, spec)])
        covariance = together @ self.covariance @ together.T
        correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        ones = {group.name: np.ones(len(group.levels)) for group in groups}
        names = np.array(self.dataset.features.names, object)
        tree = learned.tree.copy()
        for name, node in label_effects(self.design, effects, ones, ones, correlation, names).items():
            tree[f"effects/{name}"] = xr.DataTree(node)
        self.posterior = Posterior(tree, learned.run)
        scanner = np.eye(len(self.design.columns))[self.design.of_scanner[:, 0]]
        self.level = np.eye(len(self.design.columns))[0] + scanner.mean(0)
        self.level_of_scans = self.level @ self.mean * self.unit + center
        self.bias = dict(zip(self.design.scanners, scanner - scanner.mean(0), strict=True))
        self.gain = dict(zip(self.design.scanners, gain_of_scanners(self.design, self.ratios), strict=True))
        ratios = read_ratios(self.posterior, self.design.scanners, 0)
        self.log_gain = dict(zip(self.design.scanners, ratios.log_gain.T, strict=True))

    def expect(self, form: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of a combination of the effects, (feature,) each, in the features' units."""
        return form @ self.mean * self.unit, np.sqrt(form @ self.covariance @ form) * self.unit

    def form_of(self, population: str) -> np.ndarray:
        group = next(each for each in self.design.effects if each.name == "sampling")
        return group.contrasts[group.levels.index(population)]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study()


def check_scan(
    study: Study, result: Harmonized, scan: int, target: str | None = None, remove_sampling: bool = False
) -> None:
    """Compare one harmonized scan with its posterior by dense matrices; the gain enters to first order."""
    scans, y = study.dataset.scans, study.values[scan]
    name = scans.scanner[scan]
    g, to = study.gain[name], 1.0 if target is None else study.gain[target]
    known = study.level_of_scans - study.expect(study.level)[0]  # what standardization subtracted
    form = (1 - to / g) * study.level - to / g * study.bias[name]
    if target is not None:
        form = form + study.bias[target]
    if remove_sampling:
        form = form - to * study.form_of(f"{scans.site[scan]}/{scans.diagnosis[scan]}")
    mean, sd = study.expect(form)
    np.testing.assert_allclose(result.mean[scan], to / g * (y - known) + known + mean, rtol=1e-9)
    away = y - study.expect(study.bias[name])[0] - study.level_of_scans
    log_factor = (0 if target is None else study.log_gain[target]) - study.log_gain[name]
    np.testing.assert_allclose(result.sd[scan], np.hypot(sd, to / g * away * log_factor.std()), rtol=1e-7)


@pytest.mark.parametrize("target", [None, "s1"])
def test_a_persons_level_is_what_its_posterior_says(study, target):
    result = quietly(study.posterior, study.dataset, match_gain=True, target=target)
    assert study.gain["lone"] == 1 and all(abs(study.gain[name] - 1) > 0.02 for name in ("s0", "s1", "s2"))
    for scan in range(len(study.values)):
        if study.dataset.scans.scanner[scan] != target:
            check_scan(study, result, scan, target)


def test_scans_of_the_target_stay_as_they_are_to_the_last_bit(study):
    for dtype in ("float16", "float64"):
        dataset = load_dataset(study.dataset.scans, study.values.astype(dtype), check="apply")
        result = quietly(study.posterior, dataset, match_gain=True, match_noise=True, target="s1", draws=2)
        own = (study.dataset.scans.scanner == "s1").to_numpy()
        for same in (result.mean, *result.draws):
            assert same.dtype == dtype
            np.testing.assert_array_equal(same[own], study.values[own].astype(dtype))
            assert (same[~own] != study.values[~own].astype(dtype)).mean() > 0.8
        np.testing.assert_array_equal(result.sd[own], 0)


def test_of_sampling_bias_goes_as_much_as_the_scanner_shows(study):
    """With gains matched or not: a scanner of gain 1.2 shows 1.2 times the sampling bias."""
    plain, removed = (quietly(study.posterior, study.dataset, remove=remove).mean for remove in (None, BOTH))
    matched = quietly(study.posterior, study.dataset, remove=BOTH, match_gain=True)
    scans, travelers = study.dataset.scans, study.posterior.tree["design"].attrs["site_travelers"]
    checked = 0
    for scan in np.flatnonzero(~scans.participant_id.isin(travelers) & (scans.diagnosis == "HC")):
        shown = study.gain[scans.scanner[scan]] * study.expect(study.form_of(f"{scans.site[scan]}/HC"))[0]
        np.testing.assert_allclose(plain[scan] - removed[scan], shown, rtol=1e-9)
        check_scan(study, matched, scan, remove_sampling=True)
        checked += 1
    assert checked > 3


@pytest.mark.parametrize("options", [{}, {"target": "s1"}, {"match_noise": True}, {"remove": BOTH, "target": "s2"}])
def test_what_was_matched_can_be_undone(study, options):
    values = study.values.copy()
    values[3, 1] = np.nan
    dataset = load_dataset(study.dataset.scans, values, check="apply")
    there = quietly(study.posterior, dataset, match_gain=True, **options)
    np.testing.assert_array_equal(np.isnan(there.mean), np.isnan(values))
    np.testing.assert_array_equal(np.isnan(there.sd), np.isnan(values))
    back = load_dataset(study.dataset.scans, there.mean, check="apply")
    again = quietly(study.posterior, back, match_gain=True, inverse=True, **options)
    np.testing.assert_allclose(again.mean, values, atol=1e-12)
    for name in set(study.design.scanners) - {options.get("target")}:
        own = (study.dataset.scans.scanner == name).to_numpy() & ~np.isnan(values).any(1)
        factor = there.sd[own] / again.sd[own]  # that of the gain, and of the noise: the same for all scans of a scanner
        np.testing.assert_allclose(factor, np.broadcast_to(factor[0], factor.shape), rtol=1e-9)


def test_draws_are_spread_as_the_sds_say(study):
    """Each of 33 × 3 numbers within Monte-Carlo error, at a rate of 2e-5; gains enter to first order only."""
    n = 4000
    result = quietly(study.posterior, study.dataset, match_gain=True, draws=n, seed=2)
    assert (np.abs(result.draws.mean(0) - result.mean) < 5 * result.sd / np.sqrt(n) + 0.01 * np.abs(result.mean)).all()
    np.testing.assert_allclose(result.draws.std(0), result.sd, rtol=5 / np.sqrt(2 * n) + 0.03)
    few = quietly(study.posterior, study.dataset, match_gain=True, draws=3, seed=2)
    np.testing.assert_array_equal(result.draws[:3], few.draws)


def test_nothing_depends_on_how_many_scans_and_features_are_corrected_together(study, monkeypatch):
    options = {"match_gain": True, "match_noise": True, "draws": 2}
    whole = quietly(study.posterior, study.dataset, **options)
    monkeypatch.setattr("bayesharm.data.features.BLOCK_VALUES", len(study.values))
    monkeypatch.setattr("bayesharm.harmonization.blockwise.DRAWN_BYTES", 8 * len(study.values))
    monkeypatch.setattr("bayesharm.harmonization.blockwise.STRIP_VALUES", 5)
    parts = quietly(study.posterior, study.dataset, **options)
    for name in ("mean", "sd", "draws"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-13)


def test_gains_are_matched_in_the_units_of_the_fit(study):
    """With Fisher z: the level, the gain and the sd are those of z."""
    shift = study.level_of_scans.mean()
    tree = study.posterior.tree.copy()
    tree["scales"]["center"] = tree["scales"]["center"] - shift  # about 0, so that correlations are not near 1
    posterior = Posterior(tree, {**study.posterior.run, "transform": "fisher-z"})
    z = study.values - shift
    dataset = load_dataset(study.dataset.scans, np.tanh(z), check="apply", transform="fisher-z")
    result, plain = (
        quietly(each, d, match_gain=True) for each, d in ((posterior, dataset), (study.posterior, study.dataset))
    )
    np.testing.assert_allclose(np.arctanh(result.mean), plain.mean - shift, rtol=1e-6, atol=1e-8)
    small = np.abs(z) < 0.5
    assert small.any() and (result.sd[small] < plain.sd[small]).all()  # tanh flattens


# ---- what is not known


def test_the_mean_level_goes_with_the_units_of_features():
    """Noise ratios of features have no unit."""
    scans, spec = random_study(2), replace(SPEC, noise_ratio="scanner-feature")
    values, labels = np.random.default_rng(0).normal(3, 1, (len(scans), 3)), build_design(scans, spec).scale_labels
    levels = []
    for unit in (1.0, 0.1, 100.0):
        size = {name: np.full(3, 1.3 if name.startswith("noise_ratio") else 0.5 * unit) for name in labels}
        posterior = make_learned(load_dataset(scans, unit * values, check="apply"), spec, size)
        levels.append(find_mean_level(posterior, "measurement", np.arange(3)))
        np.testing.assert_allclose(levels[-1].value, unit * levels[0].value, rtol=1e-9)
        for found, first in zip(levels[-1][1:], levels[0][1:], strict=True):
            np.testing.assert_allclose(found, first, rtol=1e-9)


def test_unknown_gains_are_1_and_said(study):
    with pytest.warns(
        UserWarning, match=r"Gains are not known for 'lone', which no traveler with several scans had visited when .* as 1"
    ):
        result = harmonize(study.posterior, study.dataset, match_gain=True)
    lone = (study.dataset.scans.scanner == "lone").to_numpy()
    np.testing.assert_array_equal(result.mean[lone], quietly(study.posterior, study.dataset).mean[lone])
    new = study.dataset.scans.assign(scanner=study.dataset.scans.scanner.replace({"s0": "new"}))
    dataset = load_dataset(new, study.values, check="apply")
    result = quietly(study.posterior, dataset, match_gain=True, new_scanners="prior")
    assert any("Gains are not known for 'lone', 'new'" in note for note in result.notes)
    own = (new.scanner == "new").to_numpy()
    np.testing.assert_array_equal(result.mean[own], study.values[own])


def covariance_of_ratios(
    study: Study, design: Design, values: np.ndarray, ratios: VarianceRatios, scanner: str
) -> np.ndarray:
    """Inverse curvature of the posterior of log lambda, log kappa and log g of a scanner, by dense matrices."""
    y = ((values - study.values.mean(0)) / study.unit)[design.rows]
    log_sizes, priors = np.log([SCALES[name] for name in design.scale_labels]), SPEC.priors
    is_scanner = np.array(design.scanners) == scanner
    sd = np.array([priors.noise_ratio_sd, priors.bias_ratio_sd, priors.gain_sd])

    def log_density(away: np.ndarray) -> float:
        parts = [part + is_scanner * step for part, step in zip(ratios[:3], away, strict=True)]
        moved = VarianceRatios(*parts, ratios.correlation)
        log_prior = -0.5 * sum(((part[is_scanner] / each) ** 2).sum() for part, each in zip(parts, sd, strict=True))
        return log_prior + sum(log_likelihood(design, column, log_sizes, moved) for column in y.T)

    step = 0.01 * np.eye(3)
    differences = [
        [log_density(a + b) - log_density(a - b) - log_density(b - a) + log_density(-a - b) for a in step] for b in step
    ]
    return -np.linalg.inv(np.array(differences) / (4 * 0.01**2))


def test_a_scanner_that_is_learned_later_has_a_gain(study):
    """Its level is that of dense matrices of all scans; a known scanner with its first traveler keeps its unknown gain."""
    people = ["t0", "t0", "t1", "t2", "x", "y", "t1"]
    places = ["s0", *["new"] * 5, "lone"]
    later = pd.DataFrame({"participant_id": people, "scanner": places, "diagnosis": "HC", "site": "s0"})
    later.insert(0, "scan_id", [f"later{k}" for k in range(len(later))])
    values = np.random.default_rng(1).normal(3, 2, (len(later), 3))
    dataset, tree = load_dataset(later, values, check="apply"), study.posterior.tree.copy()
    tree["hyper"] = xr.DataTree(study.posterior.hyper.isel(draw=np.tile(np.arange(5), 400)))
    adapted = adapt(Posterior(tree, study.posterior.run), dataset)
    together = pd.concat([study.dataset.scans, later], ignore_index=True).assign(traveling=False)
    design = build_design(together, study.posterior.spec, study.design.standards)
    ratios = adapted.variance_ratios(design.scanners)
    gain = dict(zip(design.scanners, gain_of_scanners(design, ratios), strict=True))
    assert abs(np.log(gain["new"])) > 0.01 and design.gain_is_known.all()
    assert (adapted.hyper["gain"].sel(scanner="lone") == 1).all()
    stacked = np.concatenate([study.values, values])
    drawn = np.log([adapted.hyper[name].sel(scanner="new").values.reshape(-1) for name in SCANNER_RATIOS])
    covariance = covariance_of_ratios(study, design, stacked, ratios, "new")
    assert 0.5 < np.sqrt(covariance[2, 2]) / SPEC.priors.gain_sd < 1
    np.testing.assert_allclose(np.cov(drawn), covariance, atol=0.06 * covariance.max())
    y = (stacked - study.values.mean(0)) / study.unit
    sizes = [SCALES[name] for name in design.scale_labels]
    mean = np.stack([condition(design, column, np.log(sizes), ratios)[0] for column in y[design.rows].T], axis=1)
    scanner = mean[design.of_scanner[:, 0]]
    in_fit = scanner[[name != "new" for name in design.scanners]].mean(0)
    bias = dict(zip(design.scanners, (scanner - in_fit) * study.unit, strict=True))
    level = (mean[0] + in_fit) * study.unit + study.values.mean(0)
    for target in (None, "new"):
        found = quietly(adapted, dataset, match_gain=True, target=target)
        notes = [note for note in found.notes if "Gains are not known" in note]
        assert len(notes) == 1 and "for 'lone', which no traveler with several scans had visited when" in notes[0]
        to, shift = (1.0, 0.0) if target is None else (gain[target], bias[target])
        for scan, name in enumerate(later.scanner):
            expected = level + shift + to / gain[name] * (values[scan] - bias[name] - level)
            np.testing.assert_allclose(found.mean[scan], expected, rtol=1e-8)
            if name == "new" and target is None:
                assert (found.sd[scan] > np.abs(found.mean[scan] - level) * np.sqrt(0.9 * covariance[2, 2])).all()


def test_one_scan_of_somebody_marked_as_traveling_shows_no_gain():
    scans = random_study(2)
    marked = scans.scanner.eq("s0") & ~scans.participant_id.duplicated(keep=False)
    design = build_design(scans[(scans.scanner != "s0") | marked].assign(traveling=lambda t: t.scanner.eq("s0")), SPEC)
    assert dict(zip(design.scanners, design.gain_is_known, strict=True)) == {"s0": False, "s1": True, "s2": True}


def test_a_run_without_gains_is_refused():
    study = Study(gain="none")
    with pytest.raises(InputError, match=r"has no gains[\s\S]*gain='scanner' \(--gain scanner"):
        harmonize(study.posterior, study.dataset, match_gain=True)
    with pytest.raises(InputError, match=r"match_gain must be True or False"):
        harmonize(study.posterior, study.dataset, match_gain="yes")
    for gain in ("both", 1):
        with pytest.raises(InputError, match=r"Unknown gain[\s\S]*none, scanner"):
            configure_model("traveling", study.dataset, gain=gain)


# ---- noise


def test_noise_is_matched_as_the_model_says(study):
    """Single scans have variance g² tau² + sigma² lambda; what matching the gain has left is matched by the rest."""
    ratios = ScannerRatios(np.log([0.5, 2.0, 1.0]), np.log([0.8, 1.25, 1.0]))
    tau, sigma = 0.9 * study.unit, 0.8 * study.unit
    variance = np.exp(2 * ratios.log_gain)[:, None] * tau**2 + np.exp(ratios.log_noise)[:, None] * sigma**2
    at = np.arange(3)
    for target, wanted in ((-1, tau**2 + sigma**2), (1, variance[1])):
        found = noise_factors(study.posterior, ratios, target, at)
        np.testing.assert_allclose(found, np.sqrt(wanted / variance), rtol=1e-12)
    assert (noise_factors(study.posterior, ratios, 1, at)[1] == 1).all()
    both, noise = (quietly(study.posterior, study.dataset, match_noise=True, match_gain=gain) for gain in (True, False))
    pairs = [
        rows[:2] for rows in study.dataset.scans.groupby(["participant_id", "scanner"]).indices.values() if len(rows) > 1
    ]
    one, other = np.transpose(pairs)  # of one expected value: their difference shows the factor of both steps together
    np.testing.assert_allclose(both.mean[one] - both.mean[other], noise.mean[one] - noise.mean[other], rtol=1e-9)


def test_all_that_people_differ_by_counts_in_the_factors():
    """Siblings share a part of it: with tau² = .3 + .3, sigma² = .4 and lambda = 4 the variance is 2.2, and 1 after it."""
    scans, at = random_study(0), np.arange(2)
    spec = extend("families")
    labels = build_design(scans, spec).scale_labels
    size = {name: np.full(2, 0.5) for name in labels}
    size |= {"participant": np.full(2, 0.3**0.5), "sibling": np.full(2, 0.3**0.5), "noise": np.full(2, 0.4**0.5)}
    values = np.random.default_rng(0).normal(size=(len(scans), 2))
    posterior = make_learned(load_dataset(scans, values, check="apply"), spec, size)
    ratios = ScannerRatios(np.log([4.0, 1.0]), np.zeros(2))
    np.testing.assert_allclose(noise_factors(posterior, ratios, -1, at) ** 2, np.outer([1 / 2.2, 1], [1, 1]), rtol=1e-12)


def test_known_precision_of_scans_does_not_change_the_factors():
    """Relative noise variances belong to scans; the factors belong to scanners."""
    at, factors = np.arange(3), []
    for choices in ({}, {"noise_weight": "relative_noise"}):
        posterior = Study(**choices).posterior
        factors.append(noise_factors(posterior, read_ratios(posterior, ("s0", "s1"), 0).mean, -1, at))
    np.testing.assert_allclose(*factors, rtol=1e-12)


@pytest.mark.parametrize("match_gain", [True, False])
def test_expected_values_show_what_the_scanner_shows(match_gain):
    """Over the scans of the fit, what is left of them sums to the effects of participants, as their scanners show them."""
    study = Study(covariates=("age", "sex"))
    scans = study.dataset.scans
    shown = scans.scanner.map(study.gain).to_numpy()
    gain = np.ones(len(scans)) if match_gain else shown
    expectation = Expectation(study.posterior, scans, ("measurement",), np.arange(3), None, gain)
    expected = expectation(slice(None), slice(None))
    effects = (expected - expectation.mean) / gain[:, None]  # of covariates, diagnosis and population
    rest = quietly(study.posterior, study.dataset).mean - expectation.mean - shown[:, None] * effects
    person = study.posterior.effect("participant")["mean"].to_pandas().reindex(scans.participant_id).fillna(0.0)
    np.testing.assert_allclose(rest.sum(0), (shown[:, None] * person.to_numpy()).sum(0), atol=1e-9)


def test_an_evaluation_matches_gains_and_knows_the_factors(study):
    options = CorrectionOptions(match_gain=True)
    scans = study.dataset.scans
    applied, plain = (BayesFitted(study.posterior, each).apply(study.dataset) for each in (options, CorrectionOptions()))
    np.testing.assert_array_equal(applied.values, quietly(study.posterior, study.dataset, match_gain=True).mean)
    factor = 1 / scans.scanner.map(study.gain).to_numpy()
    np.testing.assert_allclose(applied.factor, np.broadcast_to(factor[:, None], plain.values.shape), rtol=1e-9)
    rescaled = study.level_of_scans + factor[:, None] * (plain.values - study.level_of_scans)
    np.testing.assert_allclose(applied.values, rescaled, rtol=1e-9)


# ---- simulated


def test_simulated_scanners_show_people_by_their_gains():
    study, plain = (simulate_srpbs(300, 3, gain_log_sd=sd, dtype="float64") for sd in (0.3, 0.0))
    gain = study.truth.gain
    assert np.log(gain).mean() == pytest.approx(0, abs=1e-12) and 0.15 < np.log(gain).std() < 0.5
    assert (plain.truth.gain == 1).all()
    scans, g = study.scans, gain.loc[study.scans.scanner].to_numpy()[:, None]
    effects = {
        group: table.reindex(scan_levels(scans, group)).fillna(0).to_numpy() for group, table in plain.truth.effects.items()
    }
    once = ~scans.participant_id.isin(plain.truth.effects["participant"].index)
    shared = sum(effects[group] for group in ("sampling", "disorder", "participant"))
    change = study.features - plain.features - (g - 1) * shared  # of people scanned once: their own effect
    np.testing.assert_allclose(change[~once], 0, atol=1e-9)
    own = change[once] / (g[once] - 1) / plain.truth.scales["participant"]
    assert own.std() == pytest.approx(1, abs=4.3 / np.sqrt(2 * own.size))
    with pytest.raises(InputError, match=r"value of 'gain_log_sd' is not possible"):
        simulate_srpbs(3, gain_log_sd=-1)


def test_the_oracle_knows_the_gains():
    study = simulate_srpbs(40, 3, gain_log_sd=0.4, dtype="float64")
    true = study.truth.effects["measurement"]
    true = (true - true.mean()).to_numpy()
    knows, ignores = (
        gaussian_oracle(study),
        gaussian_oracle(replace(study, truth=replace(study.truth, gain=study.truth.gain * 0 + 1))),
    )
    error, other = (np.sqrt(((oracle.mean.to_numpy() - true) ** 2).mean()) for oracle in (knows, ignores))
    assert error < other
    z = (knows.mean.to_numpy() - true) / knows.sd.to_numpy()
    assert z.std() == pytest.approx(1, abs=0.12)


# ---- fitted


@pytest.fixture(scope="module")
def fitted(make_once):
    """A run of twelve travelers on five scanners, made by a command; the true gains, and scans without bias and gain."""
    rng = np.random.default_rng(5)
    gain = pd.Series(dict(zip("ABCDE", np.exp([0.35, -0.3, 0.1, -0.15, 0.0]), strict=True)))
    rows = [(f"t{i:02d}", name) for i in range(12) for name in gain.index for _ in range(2)]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner"])
    scans.insert(0, "scan_id", [f"scan{k:03d}" for k in range(len(scans))])
    person, bias = rng.normal(size=(12, 60)), rng.normal(0, 0.5, (5, 60))
    k, g = scans.scanner.map("ABCDE".index), gain[scans.scanner].to_numpy()[:, None]
    away, noise = person[scans.participant_id.str[1:].astype(int)], rng.normal(0, 0.4, (len(scans), 60))
    values, wanted = 10 + (bias - bias.mean(0))[k] + g * away + noise, 10 + away + noise / g

    def make(folder):
        folder.mkdir()
        scans.to_csv(folder / "scans.csv", index=False)
        np.save(folder / "features.npy", values)
        run(["fit", folder / "scans.csv", folder / "features.npy", "--model", "traveling", "--gain", "scanner", "--preview",
             "--out", folder / "run"])  # fmt: skip

    return make_once("gain", make), gain, wanted


def run(arguments: list) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_gains_are_recovered_and_shown(fitted):
    folder, gain, _ = fitted
    summary = summarize(load_posterior(folder / "run"))
    found = summary.scanners.loc[gain.index]
    sd = np.log(found.gain_q95 / found.gain_q05) / (2 * 1.645)
    assert (np.abs(np.log(found.gain / gain)) < 4.3 * sd).all() and (sd < 0.06).all()
    assert "Gain: factor on differences between people" in " ".join(str(summary).split())
    assert all(len(line) <= 80 for line in str(summary).splitlines())
    section = describe_scanners(RunView(load_posterior(folder / "run")))
    assert re.search(r"Differences between people are larger .*A \(gain 1\.\d\d\)", " ".join(section.sentences))
    assert [chart.caption.split()[0] for chart in section.figures] == ["Bias", "Noise", "Gain"]


def test_matched_gains_give_what_a_scanner_without_gain_would_show(fitted, tmp_path):
    """Coverage of 7,200 intervals; scans of a scanner share the errors of a feature, so that about 300 count."""
    folder, _, wanted = fitted
    files = [tmp_path / "matched.npy", tmp_path / "sd.npy", tmp_path / "plain.npy"]
    data = [folder / "run", folder / "scans.csv", folder / "features.npy"]
    run(["harmonize", *data, "--match-gain", "--out", files[0], "--sd", files[1]])
    run(["harmonize", *data, "--out", files[2]])
    matched, sd, plain = (np.load(file) for file in files)
    error, other = matched - wanted, plain - wanted
    assert np.sqrt((error**2).mean()) < 0.6 * np.sqrt((other**2).mean())
    assert (np.abs(error) < 1.645 * sd).mean() == pytest.approx(0.9, abs=4.3 * np.sqrt(0.09 / 300))
    assert (error / sd).std() == pytest.approx(1, abs=4.3 / np.sqrt(600))
