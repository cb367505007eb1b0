"""Harmonization subtracts the effect of each scan's scanner and changes nothing else about the input."""

import errno
import hashlib
import os
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from posteriors import make_posterior

from bayesharm.analysis.summary import summarize
from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.data.features import Features
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.errors import BayesharmError, InputError
from bayesharm.harmonization.feature_matching import compare_units, match_features, root_mean_square
from bayesharm.harmonization.harmonize import harmonize, harmonize_to_files
from bayesharm.io.tables import read_table
from bayesharm.io.writers import WRITTEN_FORMATS
from bayesharm.results.posterior import Posterior, load_posterior

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
    with pytest.warns(
        UserWarning, match=r"not in the fit are left out \(2\): 'x', 'y'\. The fit itself dropped 1 of them.*constant"
    ):
        result = harmonize(posterior, make_dataset(names=["f0", "x", "f1", "f2", "y", "f3"]))
    assert result.names.tolist() == NAMES
    np.testing.assert_allclose(result.mean[1], [6, 8, 9, 11])


def test_features_without_names_must_be_as_many_as_in_the_fit():
    names = ("feature_0000", "feature_0002")
    posterior = make_posterior(features=names, dropped={"feature_0001": "constant"})
    scans = make_dataset("AB").scans
    with pytest.warns(UserWarning, match=r"not in the fit are left out \(1\)"):
        result = harmonize(posterior, load_dataset(scans, np.ones((2, 3)), check="apply"))
    assert tuple(result.names) == names
    with pytest.raises(InputError, match=r"no names[\s\S]*got: 4 features[\s\S]*expected: 3"):
        harmonize(posterior, load_dataset(scans, np.ones((2, 4)), check="apply"))


def test_features_without_names_are_refused_where_those_of_the_fit_have_names():
    scans = make_dataset("AB").scans
    with pytest.raises(
        InputError, match=r"have no names, but those of the fit have[\s\S]*'f0', 'f1'[\s\S]*table whose columns"
    ):
        harmonize(make_posterior(), load_dataset(scans, np.ones((2, 4)), check="apply"))


def test_what_has_not_converged_is_said():
    with pytest.warns(UserWarning, match=r"not converged \(1 of 4\).*'f2'"):
        result = harmonize(make_posterior(not_converged=("f2",)), make_dataset())
    assert "f2" in result.notes[0]


def test_without_travelers_it_is_said_that_sampling_bias_goes_too():
    with pytest.warns(UserWarning, match="site effects.*measurement and sampling bias together: removing them also removes"):
        assert harmonize(make_posterior("cohort"), make_dataset()).removed == "site"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        harmonize(make_posterior("traveling_and_cohort"), make_dataset())


def test_only_effects_of_scanners_can_be_removed():
    result = harmonize(make_posterior(), make_dataset(), remove="measurement")
    assert result.removed == "measurement"
    with pytest.raises(InputError, match=r"remove='participant'[\s\S]*measurement"):
        harmonize(make_posterior(), make_dataset(), remove="participant")


def written(path, names: list[str], n_draws: int = 0) -> np.ndarray:
    """What a file holds, whose labels are checked: (scan, feature), or (draw, scan, feature)."""
    ids = [f"s{i}" for i in range(4)]
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".zarr":
        found = xr.open_zarr(path, consolidated=False)
        assert found["names"].values.tolist() == names and found["scan_id"].values.tolist() == ids
        values = found["draws" if n_draws else "features"]
        assert values.dims == ("draw", "scan", "feature")[-values.ndim :]
        return values.values
    table = read_table(path, text=["scan_id"])
    assert table.columns.tolist() == [*(["draw"] if n_draws else []), "scan_id", *names]
    assert table.scan_id.tolist() == ids * max(n_draws, 1)
    if n_draws:
        assert table.draw.tolist() == np.repeat(range(n_draws), 4).tolist()
    return table[names].to_numpy().reshape(*([n_draws] if n_draws else []), 4, len(names))


@pytest.mark.parametrize("suffix", WRITTEN_FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_files_hold_what_the_arrays_hold(tmp_path, suffix, dtype):
    dataset, posterior = make_dataset(dtype=dtype), make_posterior()
    expected = harmonize(posterior, dataset, draws=3, seed=5)
    mean, sd, draws = (tmp_path / f"{name}{suffix}" for name in ("mean", "sd", "draws"))
    told: list[tuple] = []
    for _ in range(2):  # the second time in place of the first
        told.clear()
        report = lambda *event: told.append(event)  # noqa: E731
        assert harmonize_to_files(posterior, dataset, mean, sd, draws, draws=3, seed=5, progress=report) == ()
        stages = [("harmonizing", 4, 4, ""), *(("drawing", k, 3, "") for k in (1, 2, 3))]
        if suffix not in (".npy", ".zarr"):
            stages += [(f"writing {path.name}", n, n, "") for path, n in ((mean, 4), (sd, 4), (draws, 12))]
        assert [event for event in told if event[0][:7] != "writing" or event[1] == event[2]] == stages
        assert sorted(tmp_path.iterdir()) == sorted([mean, sd, draws])
    for path, values in ((mean, expected.mean), (sd, expected.sd), (draws, expected.draws)):
        found = written(path, NAMES, 3 if path == draws else 0)
        if suffix in (".npy", ".zarr", ".parquet"):
            assert found.dtype == values.dtype
        np.testing.assert_array_equal(found.astype(values.dtype), values)


def test_a_zarr_can_be_harmonized_again(tmp_path):
    dataset = make_dataset()
    harmonize_to_files(make_posterior(), dataset, tmp_path / "mean.zarr")
    there = load_dataset(dataset.scans.iloc[::-1], tmp_path / "mean.zarr", check="apply")
    back = harmonize(make_posterior(), there, inverse=True)
    np.testing.assert_array_equal(back.mean, dataset.features.read(0, 4)[::-1])


def test_blocks_of_features_are_joined(monkeypatch, tmp_path):
    whole = harmonize(make_posterior(), make_dataset(), draws=2)
    monkeypatch.setattr("bayesharm.data.features.BLOCK_VALUES", 4)
    monkeypatch.setattr("bayesharm.harmonization.blockwise.DRAWN_BYTES", 12 * 8)
    monkeypatch.setattr("bayesharm.harmonization.blockwise.STRIP_VALUES", 2)
    paths, told = [tmp_path / f"{name}.npy" for name in ("mean", "sd", "draws")], []
    harmonize_to_files(make_posterior(), make_dataset(), *paths, draws=2, progress=lambda *event: told.append(event))
    assert told[:4] == [("harmonizing", k, 4, "") for k in (1, 2, 3, 4)]
    assert told[4:] == [("drawing", k + 1, 4, f"part {k // 2 + 1} of 2") for k in range(4)]
    for path, values in zip(paths, (whole.mean, whole.sd, whole.draws), strict=True):
        np.testing.assert_allclose(np.load(path), values, atol=1e-13)


def test_nothing_is_left_behind_when_it_is_refused(tmp_path):
    refused = [
        (make_dataset("D"), "mean.npy", "sd.npy"),
        (make_dataset(), "mean.npy", "sd.txt"),
        (make_dataset(), "nowhere/mean.npy", "sd.npy"),
        (make_dataset(), "same.npy", "same.npy"),
        (make_dataset(names=["f0", "f2"]), "mean.npy", "sd.npy"),
    ]
    for dataset, mean, sd in refused:
        with pytest.raises(InputError, match="do this"):
            harmonize_to_files(make_posterior(), dataset, tmp_path / mean, tmp_path / sd)
    for options in ({"draws": 2}, {"draws_file": tmp_path / "draws.npy"}, {"target": "D"}, {"seed": 0.5}):
        with pytest.raises(InputError, match="do this"):
            harmonize_to_files(make_posterior(), make_dataset(), tmp_path / "mean.npy", **options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mean.zarr").mkdir()
    with pytest.raises(InputError, match="would replace a folder"):
        harmonize_to_files(make_posterior(), make_dataset(), tmp_path / "mean.zarr")
    assert list((tmp_path / "mean.zarr").iterdir()) == []
    with pytest.raises(InputError, match="more than once"):
        load_dataset(make_dataset().scans.assign(scan_id="s"), np.ones((3, 4)), check="apply")


def test_an_output_never_replaces_an_input_or_another_output(tmp_path):
    """By whatever path."""
    dataset, link = make_dataset(), tmp_path / "link.csv"
    table = pd.DataFrame(dataset.features.read(0, 4), columns=NAMES).assign(scan_id=dataset.scans.scan_id)
    table.to_csv(tmp_path / "features.csv", index=False)
    dataset.scans.to_csv(tmp_path / "scans.csv", index=False)
    link.symlink_to(tmp_path / "scans.csv")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    features = ["features.csv", f"../{tmp_path.name}/features.csv"]
    for scans, names in ((dataset.scans, features), (tmp_path / "scans.csv", [*features, "scans.csv", "link.csv"])):
        study = load_dataset(scans, tmp_path / "features.csv", check="apply").take(np.arange(3))
        for path in (tmp_path / name for name in names):
            for outputs in ((path,), (tmp_path / "x.csv", path), (tmp_path / "x.csv", None, path)):
                with pytest.raises(InputError, match="overwrite an input"):
                    harmonize_to_files(make_posterior(), study, *outputs, draws=len(outputs) // 3)
    with pytest.raises(InputError, match="same name"):
        same = tmp_path / ".." / tmp_path.name / "x.npy"
        harmonize_to_files(make_posterior(), dataset, tmp_path / "x.npy", draws_file=same, draws=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", [".npy", ".zarr", ".csv"])
def test_what_does_not_fit_on_the_disk_is_refused_first(tmp_path, suffix):
    with pytest.raises(BayesharmError, match=r"draws\S* needs 3,200,000\.0 GB|needs 6,400,000\.0 GB"):
        harmonize_to_files(
            make_posterior(), make_dataset(), tmp_path / "x.npy", draws_file=tmp_path / f"draws{suffix}", draws=5 * 10**13
        )
    assert not list(tmp_path.iterdir())


def test_an_output_never_replaces_what_is_not_an_earlier_output(tmp_path):
    """Nor the run that it is made with."""
    run = make_posterior().save(tmp_path / "run")
    zarr.open_group(tmp_path / "mine.zarr", mode="w").create_array("raw", data=np.ones(3))
    (tmp_path / "file.zarr").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, message in (
        ("run/posterior.zarr", "is a run folder"), ("run/posterior.zarr/scales/x.csv", "is a run folder"),
        ("mine.zarr", "replace a folder"), ("mine.zarr/x.npy", "inside a Zarr store"), ("file.zarr", "or a file"),
    ):  # fmt: skip
        with pytest.raises(BayesharmError, match=message):
            harmonize_to_files(load_posterior(run), make_dataset(), tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for _ in range(2):  # an earlier output is replaced
        harmonize_to_files(load_posterior(run), make_dataset(), tmp_path / "mean.zarr")


def test_what_is_no_posterior_or_no_dataset_is_said_to_be_none():
    for arguments in (("run", make_dataset()), (make_posterior(), "scans.csv"), (make_posterior(), np.ones((3, 4)))):
        with pytest.raises(InputError, match=r"harmonize needs a (Posterior|Dataset)[\s\S]*do this: call bayesharm.load_"):
            harmonize(*arguments)
    with pytest.raises(InputError, match="cannot be removed"):
        harmonize(make_posterior(), make_dataset(), remove=5)
    assert repr(make_posterior()).startswith("<Posterior of ")


@pytest.mark.parametrize("full", ["table", "array", "half way"])
def test_nothing_is_left_behind_when_the_disk_is_full(tmp_path, monkeypatch, full):
    """Not of the files that were finished before either; earlier ones stay as they were."""

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if full == "table":
        monkeypatch.setattr("bayesharm.io.writers._append", fail)
    elif full == "array":
        monkeypatch.setattr(os, "posix_fallocate", fail)
    paths = [tmp_path / name for name in ("mean.csv", "sd.npy", "draws.zarr")]
    paths[0].write_text("as it was")
    options = {"progress": fail} if full == "half way" else {}
    posterior = make_posterior(settings={"preview": True})
    with pytest.raises(BayesharmError, match="No space left"):
        harmonize_to_files(posterior, make_dataset(), *paths, draws=2, **options)
    assert list(tmp_path.iterdir()) == paths[:1] and paths[0].read_text() == "as it was"


def test_files_that_a_killed_process_has_left_do_no_harm(tmp_path):
    (tmp_path / ".mean.csv.unfinished.csv").write_text("scan_id,f0\nold,1\n")
    (tmp_path / ".mean.csv.unfinished").write_text("old")
    harmonize_to_files(make_posterior(), make_dataset(), tmp_path / "mean.csv")
    np.testing.assert_array_equal(written(tmp_path / "mean.csv", NAMES), harmonize(make_posterior(), make_dataset()).mean)
    assert list(tmp_path.iterdir()) == [tmp_path / "mean.csv"]


def test_the_room_that_is_needed_is_taken_first(tmp_path, monkeypatch):
    """Where a disk is full, writing to a map of a file ends the process, and nothing could be cleaned up."""
    taken = []
    monkeypatch.setattr(os, "posix_fallocate", lambda file, start, size: taken.append((start, size)), raising=False)
    paths = [tmp_path / name for name in ("mean.npy", "sd.csv", "draws.npy")]
    harmonize_to_files(make_posterior(), make_dataset(), *paths, draws=7)
    header = 128  # of a .npy file
    assert taken == [(0, header + 16 * 8), (0, header + 16 * 8), (0, header + 7 * 16 * 8)]


def test_draws_leave_memory_while_they_are_written(tmp_path, monkeypatch):
    """And what goes wrong then is not lost."""
    monkeypatch.setattr("bayesharm.io.writers.SYNC_BYTES", 1)
    put_down = []

    def advise(*args):
        put_down.append(args)
        raise OSError(errno.ENOSYS, "Function not implemented")

    for name, value in (("posix_fadvise", advise), ("fdatasync", os.fsync), ("POSIX_FADV_DONTNEED", 4)):
        monkeypatch.setattr(os, name, value, raising=False)
    mean, draws = tmp_path / "mean.npy", tmp_path / "draws.npy"
    harmonize_to_files(make_posterior(), make_dataset(), mean, None, draws, draws=5)
    assert len(put_down) > 5
    np.testing.assert_array_equal(np.load(draws), harmonize(make_posterior(), make_dataset(), draws=5).draws)
    before = draws.read_bytes()

    def fail_later(file):
        calls.append(file)
        if len(calls) > 1:  # the first one is of the means
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail_later)
    for n_draws in (1, 5):
        calls = []
        with pytest.raises(BayesharmError, match="Input/output error"):
            harmonize_to_files(make_posterior(), make_dataset(), mean, None, draws, draws=n_draws)
        assert draws.read_bytes() == before and sorted(tmp_path.iterdir()) == [draws, mean]


# ---- the input


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def test_the_input_is_never_modified(tmp_path):
    scans, values = make_dataset().scans, np.arange(16.0).reshape(4, 4)
    table = pd.DataFrame(values, columns=NAMES).assign(scan_id=scans.scan_id)
    array = np.asfortranarray(values)
    np.save(tmp_path / "features.npy", values)
    before = digest(array), pd.util.hash_pandas_object(table).tolist(), (tmp_path / "features.npy").read_bytes()
    scans_before = pd.util.hash_pandas_object(scans).tolist()
    posterior = make_posterior(features=("feature_0000", "feature_0001", "feature_0002", "feature_0003"))
    tree = posterior.tree.copy(deep=True)
    array.flags.writeable = False
    for features in (array, tmp_path / "features.npy"):
        dataset = load_dataset(scans, features, check="apply")
        harmonize(posterior, dataset, target="B", draws=2)
        harmonize_to_files(posterior, dataset, tmp_path / "mean.npy", tmp_path / "sd.npy")
    harmonize(make_posterior(), load_dataset(scans, table, check="apply"), inverse=True)
    after = digest(array), pd.util.hash_pandas_object(table).tolist(), (tmp_path / "features.npy").read_bytes()
    assert before == after and scans_before == pd.util.hash_pandas_object(scans).tolist()
    assert posterior.tree.identical(tree)


def test_nothing_but_what_is_missing_is_touched_by_missing_values():
    dataset = make_dataset(dtype="float32")
    values = dataset.features.read(0, 4).astype("float32")
    values[1, 2] = values[3, 0] = np.nan
    there = np.isfinite(values)
    table = pd.DataFrame(values, columns=NAMES).assign(scan_id=dataset.scans.scan_id)
    some = load_dataset(dataset.scans, table, check="apply")
    for options in ({}, {"target": "C"}, {"inverse": True}):
        whole = harmonize(make_posterior(), dataset, draws=3, **options)
        result = harmonize(make_posterior(), some, draws=3, **options)
        for name in ("mean", "sd", "draws"):
            one, other = getattr(result, name), getattr(whole, name)
            np.testing.assert_array_equal(np.isnan(one), np.broadcast_to(~there, one.shape))
            np.testing.assert_array_equal(one[..., there], other[..., there])


def test_one_scan_is_enough():
    whole = harmonize(make_posterior(), make_dataset("CAB"), draws=2, target="B")
    one = make_dataset("CAB")
    one = replace(one, scans=one.scans.iloc[[1]].reset_index(drop=True), features=one.features.align(np.array([1])))
    alone = harmonize(make_posterior(), one, draws=2, target="B")
    for name in ("mean", "sd", "draws"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name)[..., [1], :])


def test_a_scans_table_of_another_length_is_refused():
    dataset = make_dataset()
    with pytest.raises(InputError, match="do not align"):
        load_dataset(dataset.scans.iloc[:3], dataset.features.read(0, 4), check="apply")


# ---- units


def edges(n_scans: int, size: float = 1.0, n_features: int = 400) -> tuple[Posterior, Dataset]:
    """Edges of sd 2 about 0 in the fit, and ordinary scans of new people but for their unit."""
    names = [f"e{k}" for k in range(n_features)]
    dataset = make_dataset("ABC"[:n_scans] if n_scans < 4 else "A" * n_scans, names)
    values = size * np.random.default_rng(n_scans).normal(0, 2, (n_scans, n_features))
    table = pd.DataFrame(values, columns=names).assign(scan_id=dataset.scans.scan_id)
    return make_posterior(features=tuple(names)), load_dataset(dataset.scans, table, check="apply")


@pytest.mark.parametrize("n_scans", [1, 3, 30])
def test_other_units_are_doubted_and_ordinary_scans_are_not(tmp_path, n_scans):
    for size in (1.0, 0.1):  # a scan of weak edges is no scan in another unit
        posterior, dataset = edges(n_scans, size)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            harmonize(posterior, dataset)
        assert harmonize_to_files(posterior, dataset, tmp_path / "mean.npy") == ()
    for size, words in ((1000.0, r"\d{3}"), (0.001, r"0\.000\d+")):
        posterior, dataset = edges(n_scans, size)
        with pytest.warns(UserWarning, match=rf"of 400 features are about {words} times as large.*other units"):
            harmonize(posterior, dataset)
        assert "other units" in harmonize_to_files(posterior, dataset, tmp_path / "mean.npy")[0]


def test_a_feature_in_another_unit_is_named():
    """One of many, whose center is far from 0 in the fit: 2.5 mm written as 0.0025."""
    posterior = make_posterior()
    posterior.tree["scales"]["center"][:] = [50.0, 50.0, 0.0, 0.0]
    at, names = np.arange(4), np.array(NAMES)
    said = compare_units(posterior, at, np.array([[50.0, 0.05, 2.0, 0.001]]), names, "A")
    assert "1 of 4" in said[0] and "'f1'" in said[0] and "about 0.000999 times" in said[0]
    assert compare_units(posterior, at, np.array([[50.0, 50.0, 2.0, 0.001]]), names, "A") == []
    assert compare_units(posterior, at, root_mean_square(np.full((3, 4), np.nan)), names, "A") == []


def test_one_scanner_in_another_unit_is_named():
    posterior, dataset = edges(30)
    scans = dataset.scans.assign(scanner=["A", "B", "C"] * 10)
    for factor, told in ((1000.0, r"\d{3,4}"), (0.001, r"0\.00\d+")):
        values = dataset.features.read(0, 400) * np.where(scans.scanner == "B", factor, 1.0)[:, None]
        table = pd.DataFrame(values, columns=dataset.features.names).assign(scan_id=scans.scan_id)
        with pytest.warns(UserWarning, match=rf"about {told} times as large as in the fit in the scans of 'B':"):
            harmonize(posterior, load_dataset(scans, table, check="apply"))


# ---- draws


def test_draws_are_spread_as_the_posterior_says():
    """Means, variances and covariances within Monte-Carlo error; each of 4 × 3 and 4 × 6 numbers at a rate of 2e-5 / 36."""
    n, dataset, posterior = 6000, make_dataset("ABC"), make_posterior()
    result = harmonize(posterior, dataset, draws=n, seed=1)
    sd = posterior.effect("measurement")["sd"].values
    covariance = sd[:, None] * posterior.effect("measurement")["correlation"].values[..., None] * sd
    away = result.draws - result.mean
    limit = 4.95
    assert (np.abs(away.mean(0)) < limit * sd / np.sqrt(n)).all()
    found = np.einsum("daf,dbf->abf", away, away) / n
    variance = sd**2
    error = np.sqrt((variance[:, None] * variance + covariance**2) / n)
    assert (np.abs(found - covariance) < limit * error).all()
    features = np.corrcoef(away[:, 0].T)[np.triu_indices(4, 1)]  # known apart
    assert (np.abs(features) < limit / np.sqrt(n)).all()


def test_scans_of_a_scanner_lose_the_same_in_a_draw():
    dataset = make_dataset("ABABCA")
    shift = dataset.features.read(0, 4) - harmonize(make_posterior(), dataset, draws=4).draws
    for name in "ABC":
        own = shift[:, dataset.scans.scanner == name]
        np.testing.assert_allclose(own, np.broadcast_to(own[:, :1], own.shape), atol=1e-13)
    assert np.abs(shift[:, 0] - shift[:, 1]).min() > 1e-3
    part = make_dataset("CB")
    np.testing.assert_allclose(
        part.features.read(0, 4) - harmonize(make_posterior(), part, draws=4).draws, shift[:, [4, 1]], atol=1e-13
    )


def test_draws_depend_on_the_seed_and_the_feature_only(monkeypatch):
    names = [f"e{k}" for k in range(542)]
    posterior, dataset = make_posterior(features=tuple(names)), make_dataset("ABC", names)
    posterior.tree["scales"]["center"][:] = 500.0
    few, many = (harmonize(posterior, dataset, draws=n, seed=3).draws for n in (2, 9))
    np.testing.assert_array_equal(many[:2], few)
    assert (harmonize(posterior, dataset, draws=2, seed=4).draws != few).all()
    turned = np.random.default_rng(0).permutation(names)
    order = [names.index(name) for name in turned]
    table = pd.DataFrame(dataset.features.read(0, len(names)), columns=names)[turned]
    again = load_dataset(dataset.scans, table.assign(scan_id=dataset.scans.scan_id), check="apply")
    monkeypatch.setattr("bayesharm.data.features.BLOCK_VALUES", 100)
    monkeypatch.setattr("bayesharm.harmonization.blockwise.DRAWN_BYTES", 300 * 8)
    np.testing.assert_allclose(harmonize(posterior, again, draws=2, seed=3).draws, few[..., order], atol=1e-12)


def test_draws_of_equal_noise_depend_on_the_seed_only(small_study, small_run):
    posterior = load_posterior(small_run)
    dataset = load_dataset(small_study / "scans.csv", small_study / "features.npy", check="apply")
    few, many = (harmonize(posterior, dataset, draws=n, match_noise=True).draws for n in (2, 5))
    np.testing.assert_array_equal(many[:2], few)
    plain = harmonize(posterior, dataset, draws=2).draws
    assert (few != plain).mean() > 0.9 and np.abs(few - plain).max() < 5


def test_removing_the_true_bias_leaves_only_the_rest():
    """On a simulated study a posterior that knows the truth gives what no scanner has touched."""
    study = simulate_srpbs(6, seed=3)
    true = study.truth.effects["measurement"]
    posterior = make_posterior(features=tuple(study.feature_names))
    tree = posterior.tree.copy()
    effect = tree["effects/measurement"].to_dataset()
    centered = true - true.mean()
    known = {"mean": (("scanner", "feature"), centered.to_numpy()), "sd": (("scanner", "feature"), np.zeros(true.shape))}
    effect = effect.drop_dims("scanner").assign(known)
    tree["effects/measurement"] = effect.assign_coords(scanner=list(true.index))
    design = posterior.design.isel(scanner=np.zeros(len(true), int))
    tree["design"] = xr.DataTree(design.assign_coords(scanner=list(true.index)))
    posterior = Posterior(tree, posterior.run)
    table = pd.DataFrame(study.features, columns=study.feature_names).assign(scan_id=study.scans.scan_id)
    result = harmonize(posterior, load_dataset(study.scans, table, check="apply"))
    by_scanner = (study.features - result.mean) - centered.loc[study.scans.scanner].to_numpy()
    np.testing.assert_allclose(by_scanner, 0, atol=1e-6)


def test_a_summary_counts_and_names_what_has_not_converged():
    posterior = make_posterior(not_converged=("f1", "f3"), dropped={"g": "constant (1 in every scan)"})
    summary = summarize(posterior)
    text = " ".join(str(summary).split())
    assert "2 of 4 features have NOT converged" in text and "'f1', 'f3'" in text
    assert "Features left out before the fit (1): 'g'. Reason for the first: constant (1 in every scan)" in text
    assert "C: one scan only." in text
    assert summary.features["converged"].tolist() == [True, False, True, False]


def test_a_summary_says_if_shared_parameters_are_rough():
    posterior = make_posterior()
    posterior.tree["hyper"].attrs["ratio_rhat"] = 1.2  # variance ratios whose chains do not agree
    assert "NOT converged (R-hat at most 1.200" in summarize(posterior).diagnostics[1]
    assert "are rough" not in " ".join(summarize(posterior).diagnostics)
    posterior.tree["hyper"].attrs["reliable"] = 0  # in a full run, of the tails of the noise
    assert "degrees of freedom of heavy tails are rough" in " ".join(summarize(posterior).diagnostics)
    preview = make_posterior(settings={"preview": True})
    assert "are rough" not in " ".join(summarize(preview).diagnostics)
    preview.tree["hyper"].attrs["reliable"] = 0
    assert "The hyperparameters of this preview are rough" in " ".join(summarize(preview).diagnostics)


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
    assert summary.effect_sizes.loc["measurement", "rms"] == pytest.approx(rms)
    assert summary.effect_sizes.loc["measurement", "rms_in_sd"] == pytest.approx(rms / 2)  # sd of every feature: 2
    hyper = summary.hyper.loc["measurement"]
    assert hyper.scale == pytest.approx(np.exp(-1), rel=0.02)
    assert hyper.scale_q05 < hyper.scale < hyper.scale_q95
    assert summary.scanners.loc["C", "from_data"] == 0.2
    assert summary.scanners.loc["A", "bias"] == pytest.approx(5.0)
    assert "All 4 features have converged." in summary.diagnostics
    assert "hyperparameters have converged (R-hat" in summary.diagnostics[1]
    assert (
        "hardly correlated: the 4 features from which the hyperparameters are learned carry the information of about 4"
        in summary.diagnostics[2]
    )
    posterior.tree["hyper"].attrs["n_independent_features"] = 2.2
    assert (
        "are correlated: the 4 features from which the hyperparameters are learned carry the information of about 2"
        in summarize(posterior).diagnostics[2]
    )
    posterior.tree["hyper"]["omega"][2] = 0.3  # a chain that does not move
    assert "hyperparameters have NOT converged" in summarize(posterior).diagnostics[1]
    names = [path.name for path in summary.write(tmp_path / "tables")]
    assert names == ["effect_sizes.csv", "hyper.csv", "scanners.csv", "features.csv"]
    assert pd.read_csv(tmp_path / "tables" / "features.csv").feature.tolist() == NAMES
    assert all(len(line) <= 80 for line in str(summary).splitlines())


def test_edges_are_matched_in_either_order_of_their_regions():
    posterior = make_posterior(features=("edge_V_1_MT", "edge_M_1_V_1", "thickness"))
    given = Features.from_array(np.arange(6.0).reshape(2, 3), ["thickness", "edge_MT_V_1", "edge_V_1_M_1"])
    features, indices, notes = match_features(posterior, given)
    assert indices.tolist() == [2, 0, 1] and notes == []
    assert features.names.tolist() == ["thickness", "edge_MT_V_1", "edge_V_1_M_1"]
