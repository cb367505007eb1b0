"""Harmonizing: the effect of each scan's scanner is subtracted, and nothing else about the input changes."""

import warnings

import numpy as np
import pandas as pd
import pytest
from posteriors import make_posterior

from bayesharm.dataset import Dataset, load_dataset
from bayesharm.errors import BayesharmError, InputError
from bayesharm.harmonize import harmonize, harmonize_to_files
from bayesharm.posterior import Posterior
from bayesharm.simulate import simulate_srpbs
from bayesharm.summary import summarize

NAMES = ["f0", "f1", "f2", "f3"]
BIAS = {"A": -10.0, "B": 0.0, "C": 10.0}  # of the posterior made by hand, in every feature


def make_dataset(scanners: str = "ABCA", names: list[str] = NAMES, dtype="float64") -> Dataset:
    """People that no fit has seen, one on each of the scanners; features of 0, 1, 2 … labelled by name."""
    scans = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(len(scanners))],
            "scanner": list(scanners),
            "participant_id": [f"new{i}" for i in range(len(scanners))],
        }
    )
    values = np.arange(len(scanners) * len(names)).reshape(len(scanners), len(names)).astype(dtype)
    table = pd.DataFrame(values, columns=names).assign(scan_id=scans.scan_id)
    return load_dataset(scans, table, check="apply")


def test_the_effect_of_the_scanner_is_subtracted():
    dataset = make_dataset()
    given = dataset.features.read(0, 4)
    result = harmonize(make_posterior(), dataset)
    bias = np.array([BIAS[name] for name in "ABCA"])
    np.testing.assert_allclose(result.mean, given - bias[:, None], rtol=1e-15)
    sd = 1 + np.array([0, 1, 2, 0])[:, None] + np.arange(4) / 10
    np.testing.assert_allclose(result.sd, sd, rtol=1e-15)
    assert result.removed == "measurement" and result.notes == ()
    np.testing.assert_array_equal(dataset.features.read(0, 4), given)


def test_order_and_labels_are_those_of_the_input():
    dataset = make_dataset("CAB", ["f2", "f0", "f3", "f1"])
    result = harmonize(make_posterior(), dataset)
    assert result.scan_id.tolist() == ["s0", "s1", "s2"]
    assert result.names.tolist() == ["f2", "f0", "f3", "f1"]
    np.testing.assert_allclose(result.sd[0], [3.2, 3.0, 3.3, 3.1])
    frame = result.to_frame()
    assert frame.index.name == "scan_id" and frame.loc["s1", "f3"] == result.mean[1, 2]


@pytest.mark.parametrize(
    "given, kept, of_sd",
    [
        ("float16", "float16", "float32"),
        ("float32", "float32", "float32"),
        ("float64", "float64", "float64"),
        ("int32", "float64", "float64"),
        ("uint8", "float64", "float64"),
    ],
)
def test_precision_is_kept_and_whole_numbers_become_decimal(given, kept, of_sd):
    result = harmonize(make_posterior(), make_dataset(dtype=given))
    assert (result.mean.dtype, result.sd.dtype) == (kept, of_sd)
    np.testing.assert_allclose(result.mean[2], np.arange(8, 12) - 10)


def test_what_is_missing_stays_missing():
    dataset = make_dataset()
    values = dataset.features.read(0, 4)
    values[1, 2] = np.nan
    scans = dataset.scans
    result = harmonize(
        make_posterior(),
        load_dataset(scans, pd.DataFrame(values, columns=NAMES).assign(scan_id=scans.scan_id), check="apply"),
    )
    missing = np.zeros((4, 4), bool)
    missing[1, 2] = True
    np.testing.assert_array_equal(np.isnan(result.mean), missing)
    np.testing.assert_array_equal(np.isnan(result.sd), missing)


def test_a_subset_of_the_scanners_is_enough():
    whole, part = (harmonize(make_posterior(), make_dataset(scanners)) for scanners in ("ABB", "A"))
    np.testing.assert_array_equal(whole.mean[:1], part.mean)


def test_a_scanner_that_the_fit_has_not_seen_is_refused():
    with pytest.raises(InputError, match=r"2 scans from 'D'[\s\S]*'A', 'B', 'C'[\s\S]*do this"):
        harmonize(make_posterior(), make_dataset("ADBD"))


def test_features_of_the_fit_must_be_there():
    with pytest.raises(InputError, match=r"absent[\s\S]*2 are absent: 'f1', 'f3'"):
        harmonize(make_posterior(), make_dataset(names=["f0", "f2"]))


def test_other_features_are_left_out_with_a_note():
    posterior = make_posterior(dropped={"x": "constant (0 in every scan)"})
    with pytest.warns(UserWarning, match=r"not part of the fit are left out \(2\): 'x', 'y'; unfit there: 1"):
        result = harmonize(posterior, make_dataset(names=["f0", "x", "f1", "f2", "y", "f3"]))
    assert result.names.tolist() == NAMES
    np.testing.assert_allclose(result.mean[1], [6, 8, 9, 11])


def test_features_without_names_must_be_as_many_as_in_the_fit():
    names = ("feature_0000", "feature_0002")
    posterior = make_posterior(features=names, dropped={"feature_0001": "constant"})
    scans = make_dataset("AB").scans
    with pytest.warns(UserWarning, match=r"not part of the fit are left out \(1\)"):
        result = harmonize(posterior, load_dataset(scans, np.ones((2, 3)), check="apply"))
    assert tuple(result.names) == names
    with pytest.raises(InputError, match=r"no names[\s\S]*got: 4 features[\s\S]*expected: 3"):
        harmonize(posterior, load_dataset(scans, np.ones((2, 4)), check="apply"))


def test_what_has_not_converged_is_said():
    with pytest.warns(UserWarning, match=r"not converged \(1 of 4\).*'f2'"):
        result = harmonize(make_posterior(not_converged=("f2",)), make_dataset())
    assert "f2" in result.notes[0]


def test_without_travelers_it_is_said_that_sampling_bias_goes_too():
    with pytest.warns(UserWarning, match="site effects.*measurement and sampling bias together.*removed"):
        assert harmonize(make_posterior("cohort"), make_dataset()).removed == "site"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        harmonize(make_posterior("traveling_and_cohort"), make_dataset())


def test_only_effects_of_scanners_can_be_removed():
    result = harmonize(make_posterior(), make_dataset(), remove="measurement")
    assert result.removed == "measurement"
    with pytest.raises(InputError, match=r"remove='participant'[\s\S]*measurement"):
        harmonize(make_posterior(), make_dataset(), remove="participant")


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".tsv", ".parquet"])
def test_files_hold_what_the_arrays_hold(tmp_path, suffix):
    dataset, posterior, done = make_dataset(dtype="float32"), make_posterior(), []
    expected = harmonize(posterior, dataset)
    mean, sd = tmp_path / f"mean{suffix}", tmp_path / f"sd{suffix}"
    assert harmonize_to_files(posterior, dataset, mean, sd, report=lambda *event: done.append(event)) == ()
    assert done[-1] == (4, 4)
    assert sorted(tmp_path.iterdir()) == [mean, sd]
    for path, values in ((mean, expected.mean), (sd, expected.sd)):
        if suffix == ".npy":
            written = np.load(path)
            assert written.dtype == "float32"
        else:
            separator = {".csv": ",", ".tsv": "\t"}.get(suffix)
            table = pd.read_csv(path, sep=separator) if separator else pd.read_parquet(path)
            assert table.columns.tolist() == ["scan_id", *NAMES]
            assert table.scan_id.tolist() == expected.scan_id.tolist()
            written = table[NAMES].to_numpy()
        np.testing.assert_allclose(written, values, rtol=1e-6)


def test_blocks_of_features_are_joined(monkeypatch, tmp_path):
    whole = harmonize(make_posterior(), make_dataset())
    monkeypatch.setattr("bayesharm.features.BLOCK_VALUES", 4)
    harmonize_to_files(make_posterior(), make_dataset(), tmp_path / "mean.npy", tmp_path / "sd.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "mean.npy"), whole.mean)
    np.testing.assert_array_equal(np.load(tmp_path / "sd.npy"), whole.sd)


def test_nothing_is_left_behind_when_it_is_refused(tmp_path):
    refused = [
        (make_dataset("D"), "mean.npy", "sd.npy"),
        (make_dataset(), "mean.npy", "sd.txt"),
        (make_dataset(), "nowhere/mean.npy", "sd.npy"),
    ]
    for dataset, mean, sd in refused:
        with pytest.raises(InputError, match="do this"):
            harmonize_to_files(make_posterior(), dataset, tmp_path / mean, tmp_path / sd)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_when_the_disk_is_full(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("bayesharm.io.writing._append", fail)
    with pytest.raises(BayesharmError, match="No space left"):
        harmonize_to_files(make_posterior(), make_dataset(), tmp_path / "mean.npy", tmp_path / "sd.csv")
    assert list(tmp_path.iterdir()) == []


def test_removing_the_true_bias_leaves_only_the_rest():
    """On a simulated study a posterior that knows the truth gives what no scanner has touched."""
    study = simulate_srpbs(6, seed=3)
    true = study.truth.effects["measurement"]
    posterior = make_posterior(features=tuple(study.feature_names))
    tree = posterior.tree.copy()
    effect = tree["effects/measurement"].to_dataset()
    centred = true - true.mean()
    known = {"mean": (("scanner", "feature"), centred.to_numpy()), "sd": (("scanner", "feature"), np.zeros(true.shape))}
    effect = effect.drop_dims("scanner").assign(known)
    tree["effects/measurement"] = effect.assign_coords(scanner=list(true.index))
    posterior = Posterior(tree, posterior.run)
    table = pd.DataFrame(study.features, columns=study.feature_names).assign(scan_id=study.scans.scan_id)
    result = harmonize(posterior, load_dataset(study.scans, table, check="apply"))
    by_scanner = (study.features - result.mean) - centred.loc[study.scans.scanner].to_numpy()
    np.testing.assert_allclose(by_scanner, 0, atol=1e-6)


def test_a_summary_counts_and_names_what_has_not_converged():
    posterior = make_posterior(not_converged=("f1", "f3"), dropped={"g": "constant (1 in every scan)"})
    summary = summarize(posterior)
    text = " ".join(str(summary).split())
    assert "2 of 4 features have NOT converged" in text and "'f1', 'f3'" in text
    assert "Features left out before the fit (1): 'g'; the first is constant (1 in every scan)" in text
    assert "C: one scan only." in text
    assert summary.features["converged"].tolist() == [True, False, True, False]


def test_a_summary_says_if_few_features_have_taught_the_others():
    posterior = make_posterior(settings={"hyper_features": 4})
    posterior.tree["hyper"].attrs["features"] = 4
    assert "What features share" not in str(summarize(posterior))
    posterior.tree["hyper"].attrs["features"] = 2
    assert "What features share comes from 2 of them and not from 4" in " ".join(str(summarize(posterior)).split())


def test_tables_of_a_preview_say_so(tmp_path):
    summary = summarize(make_posterior(settings={"preview": True}))
    assert summary.hyper[["rhat", "ess"]].isna().to_numpy().all()
    for path in summary.write(tmp_path / "tables"):
        assert pd.read_csv(path)["preview"].all()


def test_harmonized_files_of_a_preview_are_labelled(tmp_path):
    scans = pd.DataFrame({"scan_id": ["a", "b"], "participant_id": ["p", "q"], "scanner": ["A", "B"]})
    table = pd.DataFrame(np.ones((2, 4)), columns=["f0", "f1", "f2", "f3"]).assign(scan_id=scans.scan_id)
    dataset = load_dataset(scans, table, check="apply")
    mean, sd = tmp_path / "mean.npy", tmp_path / "sd.npy"
    harmonize_to_files(make_posterior(settings={"preview": True}), dataset, mean, sd)
    labels = [path.with_name(f"{path.name}.PREVIEW.txt") for path in (mean, sd)]
    assert all("PREVIEW" in label.read_text() for label in labels)
    harmonize_to_files(make_posterior(), dataset, mean, sd)
    assert sorted(tmp_path.iterdir()) == [mean, sd]


def test_a_summary_measures_the_sources(tmp_path):
    posterior = make_posterior()
    summary = summarize(posterior)
    effect = posterior.effect("measurement")
    rms = np.sqrt((effect["mean"].values ** 2 + effect["sd"].values ** 2).mean())
    assert summary.sources.loc["measurement", "rms"] == pytest.approx(rms)
    assert summary.sources.loc["measurement", "rms_in_sd"] == pytest.approx(rms / 2)  # sd of every feature: 2
    hyper = summary.hyper.loc["measurement"]
    assert hyper.scale == pytest.approx(np.exp(-1), rel=0.02)
    assert hyper.scale_q05 < hyper.scale < hyper.scale_q95
    assert summary.scanners.loc["C", "from_data"] == 0.2
    assert summary.scanners.loc["A", "bias"] == pytest.approx(5.0)
    assert "All 4 features have converged." in summary.verdicts
    assert "hyperparameters have converged (R-hat" in summary.verdicts[1]
    posterior.tree["hyper"]["omega"][2] = 0.3  # a chain that does not move
    assert "hyperparameters have NOT converged" in summarize(posterior).verdicts[1]
    posterior.tree["hyper"].attrs |= {"importance_khat": 0.321, "importance_ess": 2345.6}  # no chains then
    assert "converged (importance sampling: Pareto k 0.32, 2,346 effective points)" in summarize(posterior).verdicts[1]
    names = [path.name for path in summary.write(tmp_path / "tables")]
    assert names == ["sources.csv", "hyper.csv", "scanners.csv", "features.csv"]
    assert pd.read_csv(tmp_path / "tables" / "features.csv").feature.tolist() == NAMES
    assert all(len(line) <= 80 for line in str(summary).splitlines())
