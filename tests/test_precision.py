"""Known precision of scans: relative noise variances, their rounding for people scanned once, and where they come from."""

from dataclasses import replace
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from posteriors import make_learned
from studies import log_normal
from typer.testing import CliRunner

import bayesharm
import bayesharm.model.noise_classes as noise_classes
from bayesharm.cli.app import app
from bayesharm.conditional.finite_population import find_levels
from bayesharm.data.dataset import load_dataset
from bayesharm.data.timeseries.computation import ScanResult
from bayesharm.data.timeseries.series import ScanSource, Series
from bayesharm.errors import InputError
from bayesharm.likelihood.definition import condition, log_likelihood
from bayesharm.likelihood.merging import append_scans
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model.noise_classes import MAX_ERROR, STEP
from bayesharm.results.nodes import keep_statistics, read_statistics

COHORT = replace(load_model("cohort"), noise_weight="relative_noise")
BOTH = replace(load_model("traveling_and_cohort"), noise_weight="relative_noise")
REGIONS = ["V1", "M1", "PCC", "insula"]


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def make_scans(n: int, seed: int = 0, travelers: int = 0) -> pd.DataFrame:
    """People scanned once on three scanners, with 100 to 600 volumes; and travelers, on all of them."""
    rng = np.random.default_rng(seed)
    people = [(f"p{k}", f"s{k % 3}") for k in range(n)] + [(f"t{k}", f"s{j}") for k in range(travelers) for j in range(3)]
    scans = pd.DataFrame(people, columns=["participant_id", "scanner"])
    scans.insert(0, "scan_id", [f"scan{k}" for k in range(len(scans))])
    scans["site"] = scans["scanner"]
    return scans.assign(volumes=rng.integers(100, 601, len(scans)), relative_noise=lambda table: 1 / table.volumes)


def test_weights_alone_separate_people_from_noise():
    """Where nobody was scanned twice: variance tau² + sigma² lambda v, with v rounded."""
    scans = make_scans(20)
    design = build_design(scans, COHORT)
    assert design.scale_labels == ("noise", "site", "participant") and design.class_single_scan.all()
    notes = " ".join(design.notes)
    assert "Only 'relative_noise' separates the size of participant effects from that of the noise." in notes
    assert "(relative_noise) are rounded to powers of 1.15: each is off by at most 7%." in notes
    rng = np.random.default_rng(1)
    y, log_scales = rng.normal(size=20), np.log([0.6, 0.4, 0.7])
    log_noise = np.array([0.3, -0.1, -0.2])
    v = scans.relative_noise.to_numpy() / np.exp(np.log(scans.relative_noise).mean())
    v = STEP ** np.round(np.log(v) / np.log(STEP))
    scanner = scans.scanner.str[1:].astype(int).to_numpy()
    covariance = np.diag(0.7**2 + 0.6**2 * np.exp(log_noise)[scanner] * v) + COHORT.priors.mean_sd**2
    covariance += 0.4**2 * (scanner[:, None] == scanner)
    ratios = VarianceRatios.of_variances(log_noise, np.zeros(3))
    np.testing.assert_allclose(log_likelihood(design, y, log_scales, ratios), log_normal(y, covariance), rtol=1e-10)

    problem, (moments, standard) = make_problem(design), compute_moments(design, y[:, None])
    statistics = problem.likelihood.weighted(ratios, moments)
    found = problem.likelihood.log_likelihood(statistics, jnp.asarray(log_scales)[:, None])
    standardized = (y - standard.center[0]) / standard.sd[0]
    np.testing.assert_allclose(found[0], log_likelihood(design, standardized, log_scales, ratios), rtol=1e-8)
    assert [len(columns) for columns in find_levels(design).of_family] == [3, 0]


def test_equal_weights_change_nothing():
    scans = make_scans(12).assign(relative_noise=0.25)
    design = build_design(scans, COHORT)
    assert design.scale_labels == ("noise", "site") and not any("relative_noise" in note for note in design.notes)


def test_old_and_new_scans_have_their_own_noise(tmp_path):
    """The sums of old scans keep what weights separate; new scans need the column."""
    scans, new = make_scans(20), make_scans(6, seed=5).assign(scan_id=lambda table: "new" + table.scan_id)
    design, y = build_design(scans, COHORT), np.random.default_rng(2).normal(size=(26, 2))
    moments, _ = compute_moments(design, y[:20])
    keep_statistics(scans, design, moments).to_zarr(tmp_path / "statistics.zarr", consolidated=False)  # as a run keeps them
    old = read_statistics(xr.open_zarr(tmp_path / "statistics.zarr", consolidated=False), COHORT)
    assert old.design.scales == design.scales
    both, _ = append_scans(old, load_dataset(new, y[20:], check="apply"), y[20:])
    assert both.size.sum() == 26 and both.design.scales == design.scales
    with pytest.raises(InputError, match="new scans have no 'relative_noise'"):
        append_scans(old, load_dataset(new.drop(columns="relative_noise"), y[20:], check="apply"), y[20:])


def test_weights_of_new_scans_do_not_split_people_from_noise():
    """Where the fit had one weight, and nobody scanned twice, its noise contains what people differ by."""
    scans = make_scans(12).assign(relative_noise=0.01)
    values = np.random.default_rng(2).normal(size=(12, 2))
    posterior = make_learned(load_dataset(scans, values), COHORT)
    assert list(posterior.scales["family"].values) == ["noise", "site"]
    new = scans.assign(
        scan_id=lambda table: "new" + table.scan_id, participant_id=lambda table: "new" + table.participant_id
    )
    new["relative_noise"] = np.where(np.arange(12) < 6, 0.01, 0.04)
    variance = bayesharm.predict(posterior, new).sd ** 2
    lam = np.exp(posterior.variance_ratios().log_noise)[new.scanner[:6].str[1:].astype(int)]
    noise = np.outer(lam, posterior.scales["q50"].sel(family="noise").values ** 2)
    np.testing.assert_allclose(variance[6:] - variance[:6], 3 * noise, rtol=1e-6)
    adapted = bayesharm.adapt(posterior, load_dataset(new, values + 1, check="apply"))
    assert read_statistics(adapted.sufficient_statistics, COHORT).size.sum() == 24
    assert np.isfinite(bayesharm.predict(adapted, new).sd).all()


def test_rounding_hardly_changes_the_posterior():
    """Means of the scanners' biases move by less than a thirtieth of their sd, and sds by less than 1%."""
    scans = make_scans(60, 3, travelers=4)
    y, found = np.random.default_rng(4).normal(size=len(scans)), []
    for step in (1.0001, STEP):
        with patch.object(noise_classes, "STEP", step):
            design = build_design(scans, BOTH)
        log_scales = np.log([{"noise": 0.7, "participant": 0.5}.get(name, 0.3) for name in design.scale_labels])
        mean, covariance = condition(design, y, log_scales, VarianceRatios.equal(3))
        columns = [design.column_labels.index(f"measurement:s{k}") for k in range(3)]
        center = np.eye(3) - 1 / 3
        found.append((center @ mean[columns], np.sqrt(np.diag(center @ covariance[np.ix_(columns, columns)] @ center))))
    (exact, sd), (rounded, sd_of_rounded) = found
    assert (np.abs(rounded - exact) < sd / 30).all() and np.abs(sd_of_rounded / sd - 1).max() < 0.01
    assert MAX_ERROR == pytest.approx(0.0724, abs=1e-4)


def test_unusable_weights_are_refused_together():
    scans = make_scans(6).assign(relative_noise=["0.01", "", "none", "-1", "0", "0.02"])
    with pytest.raises(InputError, match="(?s)not variances.*of scan1.*none of scan2.*-1 of scan3.*0 of scan4") as caught:
        build_design(scans, COHORT)
    assert "scan0" not in caught.value.got and "scan5" not in caught.value.got
    with pytest.raises(InputError, match=r"(?s)'volumes'.*seems to count volumes.*whole numbers from.*1 / volumes"):
        build_design(make_scans(6), replace(COHORT, noise_weight="volumes"))


@pytest.mark.parametrize(("measure", "dof"), [("correlation", 0), ("partial", 2)])
def test_connectivity_writes_the_relative_noise(tmp_path, measure, dof):
    rng = np.random.default_rng(0)
    study = {f"a{k}": pd.DataFrame(rng.normal(size=(60 + 20 * k, 4)), columns=REGIONS) for k in range(4)}
    study["a1"].iloc[:5] = np.nan  # censored
    study["a2"]["V1"] = 0.0  # of two regions conditioned on, one is left
    np.savez(tmp_path / "series.npz", regions=REGIONS, **{name: table.to_numpy() for name, table in study.items()})
    arguments = [str(tmp_path / "series.npz"), "--out", str(tmp_path / "fc.npz"), "--measure", measure]
    assert CliRunner().invoke(app, ["connectivity", *arguments]).exit_code == 0
    table = pd.read_csv(tmp_path / "fc_volumes.csv").set_index("scan_id")
    volumes = np.array([60, 75, 100, 120])
    np.testing.assert_allclose(table["relative_noise"], 1 / (volumes - 3 - np.minimum(dof, [2, 2, 1, 2])))

    # the table of volumes, joined to that of the scans
    scans = pd.DataFrame({"scan_id": list(study), "participant_id": list(study), "scanner": ["x", "x", "y", "y"]})
    scans.merge(table.reset_index(), on="scan_id").to_csv(tmp_path / "scans.csv", index=False)
    result = CliRunner().invoke(app, ["check", str(tmp_path / "scans.csv"), "--noise-weight", "relative_noise"])
    assert result.exit_code == 0 and "--noise-weight relative_noise" in " ".join(result.output.split()), result.output
    wrong = CliRunner().invoke(app, ["check", str(tmp_path / "scans.csv"), "--noise-weight", "n_volumes"])
    assert wrong.exit_code == 1 and "seems to count volumes" in " ".join(wrong.output.split())


def test_the_variance_of_fisher_z_is_that_of_independent_volumes():
    """Regressors that were removed take degrees of freedom."""
    rng, z = np.random.default_rng(6), []
    for _ in range(4000):
        x = rng.normal(size=(30, 2 + 4))
        q, _ = np.linalg.qr(x[:, 2:])  # four regressors
        rest = x[:, :2] - q @ (q.T @ x[:, :2])
        z.append(np.arctanh((rest[:, 0] @ rest[:, 1]) / np.sqrt((rest**2).sum(0).prod())))
    result = ScanResult(ScanSource("a", "", lambda: Series(np.ones((1, 1)), None)), 30, 0, (), dof=30 - 4)
    np.testing.assert_allclose(np.var(z), result.relative_noise, rtol=0.1)
    assert np.isnan(replace(result, dof=3).relative_noise)


def test_harmonizing_needs_no_weights_and_predicting_does():
    scans = make_scans(30, travelers=4)
    values = np.random.default_rng(3).normal(size=(len(scans), 2))
    dataset = load_dataset(scans, values)
    without = load_dataset(scans.drop(columns=["relative_noise", "volumes"]), values)
    posterior = make_learned(dataset, BOTH)
    found, expected = (bayesharm.harmonize(posterior, data).mean for data in (without, dataset))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="no 'relative_noise'"):
        bayesharm.predict(posterior, without)
    noisy = scans.loc[:1].assign(participant_id=["new", "newer"], scanner="s0", relative_noise=[1.0, 0.001])
    assert (np.diff(bayesharm.predict(posterior, noisy).sd, axis=0) < 0).all()
