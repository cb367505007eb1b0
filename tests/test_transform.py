"""Correlations declared with transform="fisher-z" are analyzed in Fisher z, and come back as correlations."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from posteriors import make_posterior
from scipy import stats
from typer.testing import CliRunner

import bayesharm
from bayesharm.analysis.units import common_units
from bayesharm.cli.app import app
from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.data.transforms import correlation_moments, fisher_z
from bayesharm.errors import InputError
from bayesharm.harmonization.harmonize import harmonize, harmonize_to_files
from bayesharm.results.posterior import Posterior

NAMES = [f"edge_{i}_0" for i in range(1, 7)]
SCANNERS = ("A", "B", "C")
GRID = np.linspace(-9, 9, 2001)


def make_study() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six travelers on three scanners; correlations with a bias of about 0.2 in z."""
    rng = np.random.default_rng(3)
    scans = pd.DataFrame([(f"p{i}", name) for i in range(6) for name in SCANNERS], columns=["participant_id", "scanner"])
    scans.insert(0, "scan_id", [f"s{k:02d}" for k in range(len(scans))])
    person, bias = rng.normal(0, 0.3, (6, 6)), rng.normal(0, 0.2, (3, 6))
    z = 0.4 + person[np.repeat(range(6), 3)] + bias[np.tile(range(3), 6)] + rng.normal(0, 0.1, (18, 6))
    return scans, pd.DataFrame(np.tanh(z), columns=NAMES).assign(scan_id=scans["scan_id"])


def in_z(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: np.arctanh(table[name]) for name in NAMES})


@pytest.fixture(scope="module")
def fits(tmp_path_factory) -> tuple[Posterior, Posterior]:
    """The same study fitted as r with the transform, by the command, and as z."""
    folder = tmp_path_factory.mktemp("fits")
    scans, table = make_study()
    scans.to_csv(folder / "scans.csv", index=False)
    table.to_parquet(folder / "r.parquet")
    arguments = [
        "fit",
        "scans.csv",
        "r.parquet",
        "--out",
        "run",
        "--model",
        "traveling",
        "--preview",
        "--transform",
        "fisher-z",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    in_memory = bayesharm.fit(load_dataset(scans, in_z(table)), "traveling", preview=True)
    return bayesharm.load_posterior(folder / "run"), in_memory


def test_a_fit_with_the_transform_is_a_fit_to_z(fits):
    given, of_z = fits
    assert given.run["transform"] == "fisher-z" and of_z.run["transform"] is None
    assert given.run["data"]["transform"] == "fisher-z"
    assert given.run["fingerprint"] == of_z.run["fingerprint"]
    for node in ("hyper", "scales", "effects/measurement"):
        xr.testing.assert_equal(given.tree[node].to_dataset(), of_z.tree[node].to_dataset())


def test_results_say_their_units(fits):
    given, of_z = fits
    assert common_units(given) == "Fisher z" and common_units(of_z) == "the features' own units"
    assert "Units: Fisher z." in " ".join(str(bayesharm.summarize(given)).split())
    assert "Units: the features' own units." in " ".join(str(bayesharm.summarize(of_z)).split())
    assert bayesharm.scanner_similarity(given).about["units"] == "Fisher z"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", [{}, {"target": "B"}, {"match_noise": True}])
def test_harmonized_values_are_tanh_of_the_harmonized_z(fits, options):
    given, of_z = fits
    scans, table = make_study()
    of_r = harmonize(given, load_dataset(scans, table, check="apply"), draws=3, **options)
    expected = harmonize(of_z, load_dataset(scans, in_z(table), check="apply"), draws=3, **options)
    np.testing.assert_allclose(of_r.mean, np.tanh(expected.mean), rtol=1e-14)
    np.testing.assert_allclose(of_r.draws, np.tanh(expected.draws), rtol=1e-14)
    np.testing.assert_allclose(of_r.sd, correlation_moments(np.tanh(expected.mean), expected.sd)[1], rtol=1e-14)
    back = harmonize(given, load_dataset(scans, of_r.to_frame(), check="apply"), inverse=True, **options)
    np.testing.assert_allclose(back.mean, table[NAMES], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_transform_of_the_run_is_applied_to_new_scans_whether_declared_or_not(fits, tmp_path):
    given, of_z = fits
    scans, table = make_study()
    table.loc[2, NAMES[1]] = np.nan
    plain, declared = (load_dataset(scans, table, check="apply", transform=name) for name in (None, "fisher-z"))
    expected = harmonize(given, plain)
    assert np.isnan(expected.mean[2, 1]) and np.isnan(expected.sd[2, 1]) and np.isnan(expected.mean).sum() == 1
    np.testing.assert_array_equal(harmonize(given, declared).mean, expected.mean)
    harmonize_to_files(given, plain, tmp_path / "r.npy", tmp_path / "sd.npy", tmp_path / "draws.npy", draws=2)
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), expected.mean)
    np.testing.assert_array_equal(np.load(tmp_path / "sd.npy"), expected.sd)
    assert np.nanmax(np.abs(np.load(tmp_path / "draws.npy"))) < 1
    with pytest.raises(InputError, match="different transforms"):
        harmonize(of_z, declared)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scans_of_the_target_do_not_change_and_float32_stays(fits):
    scans, table = make_study()
    values = table[NAMES].to_numpy("float32")
    result = harmonize(
        fits[0], load_dataset(scans, table.astype(dict.fromkeys(NAMES, "float32")), check="apply"), target="C"
    )
    assert result.mean.dtype == result.sd.dtype == "float32"
    np.testing.assert_array_equal(result.mean[2::3], values[2::3])
    assert (result.sd[2::3] == 0).all() and (result.sd[:2] > 0).all()


def test_predictions_are_correlations(fits):
    given, of_z = fits
    scans = load_dataset(*make_study()).scans
    of_r, expected = bayesharm.predict(given, scans), bayesharm.predict(of_z, scans)
    z = stats.norm(expected.mean, expected.sd).rvs((20_000, *expected.mean.shape), random_state=1)
    error = of_r.sd / np.sqrt(20_000)
    assert (np.abs(np.tanh(z).mean(0) - of_r.mean) < 5 * error).all()
    np.testing.assert_allclose(np.tanh(z).std(0), of_r.sd, rtol=0.03)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_posterior_adapts_in_z(fits):
    given, of_z = fits
    scans, table = make_study()
    new = scans.assign(scanner=scans.scanner.replace("C", "new"), scan_id="x" + scans.scan_id)
    new = new[new.scanner == "new"]
    values = table.set_axis(table.scan_id.radd("x"))[NAMES].loc[new.scan_id].rename_axis("scan_id")
    of_r = bayesharm.adapt(given, load_dataset(new, values, check="apply"))
    expected = bayesharm.adapt(of_z, load_dataset(new, np.arctanh(values), check="apply"))
    np.testing.assert_array_equal(of_r.effect("measurement")["mean"], expected.effect("measurement")["mean"])
    assert of_r.run["transform"] == "fisher-z"
    assert np.abs(harmonize(of_r, load_dataset(new, values, check="apply")).mean).max() < 1


def test_methods_are_compared_in_z():
    scans, table = make_study()
    options = {"methods": ["none", "glm"], "repeats": 1, "visit_folds": 2}
    of_r = bayesharm.cross_validate(load_dataset(scans, table, transform="fisher-z"), **options)
    of_z = bayesharm.cross_validate(load_dataset(scans, in_z(table)), **options)
    pd.testing.assert_frame_equal(of_r.measures, of_z.measures)


@pytest.mark.parametrize(
    "value, message",
    [
        (1.0, "1 exactly 1 or -1 of 108 values .1 to 1.*edge_3_0.*s04.*identical time series"),
        (-1.0, "1 exactly 1 or -1"),
        (1.2, "1 beyond -1 and 1.*1.2.*Fisher z already"),
        (-np.inf, "1 beyond -1 and 1 of 107 values"),
    ],
)
def test_values_outside_of_the_range_are_refused(value, message):
    scans, table = make_study()
    table.loc[4, NAMES[2]] = value
    for check in ("fit", "apply"):
        with pytest.raises(InputError, match=f"(?s)have no Fisher z.*{message}"):
            load_dataset(scans, table, transform="fisher-z", check=check)
    with pytest.raises(InputError, match="have no Fisher z"):
        harmonize(as_correlations(make_posterior(features=tuple(NAMES))), load_dataset(scans, table, check="apply"))


def as_correlations(posterior: Posterior) -> Posterior:
    return replace(posterior, run={**posterior.run, "transform": "fisher-z"})


def test_an_unknown_transform_is_refused():
    with pytest.raises(InputError, match="(?s)does not exist.*'logit'.*'fisher-z'"):
        load_dataset(*make_study(), transform="logit")


def test_values_are_transformed_as_they_are_read_in_any_order_and_selection():
    scans, table = make_study()
    dataset = load_dataset(scans, table, transform="fisher-z", select=[NAMES[4], NAMES[1]])
    taken = dataset.take(np.array([5, 2])).features
    np.testing.assert_array_equal(taken.read(0, 2), np.arctanh(table.loc[[5, 2], [NAMES[1], NAMES[4]]]))
    assert taken.transform == "fisher-z"
    assert isinstance(dataset.sorted(), Dataset) and dataset.sorted().features.transform == "fisher-z"


@given(r=st.floats(-0.999, 0.999), sd=st.floats(1e-4, 0.4))
def test_moments_of_correlations_agree_with_integrals(r, sd):
    mean, sd_r = correlation_moments(np.array(r), np.array(sd))
    center = np.arctanh(r)
    y, weight = np.tanh(center + sd * GRID), stats.norm.pdf(GRID) / stats.norm.pdf(GRID).sum()  # exact for smooth functions
    assert mean == pytest.approx(weight @ y, abs=1e-6)
    assert sd_r == pytest.approx(np.sqrt(weight @ (y - weight @ y) ** 2), rel=1e-5, abs=1e-12)
    assert abs(mean - r) <= 0.385 * sd**2 + 1e-15  # documented: the median and the mean are this close


def test_moments_agree_with_draws_and_lose_no_precision_for_tiny_sds():
    rng = np.random.default_rng(0)
    draws = np.tanh(np.arctanh(0.6) + 0.3 * rng.standard_normal(1_000_000))
    mean, sd = correlation_moments(np.array(0.6), np.array(0.3))
    assert mean == pytest.approx(draws.mean(), abs=5 * sd / 1000) and sd == pytest.approx(draws.std(), rel=0.005)
    np.testing.assert_allclose(correlation_moments(np.array(0.9), np.array(1e-12))[1], 0.19e-12, rtol=1e-10)


def test_fisher_z_keeps_holes_and_marks_what_it_cannot_transform():
    np.testing.assert_array_equal(
        fisher_z(np.array([0.0, np.nan, 1, -1, 2, -np.inf])), [0, np.nan, np.inf, -np.inf, np.inf, -np.inf]
    )
    np.testing.assert_array_equal(fisher_z(np.array([1, 0, -1], dtype=np.int8)), [np.inf, 0, -np.inf])
