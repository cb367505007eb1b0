"""The labelled tree and its folder: what is written is read back, and what is not whole is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from posteriors import SCANNERS, make_posterior

from bayesharm.analysis.summary import summarize
from bayesharm.errors import RunFolderError
from bayesharm.results import posterior
from bayesharm.results.posterior import FORMAT, load_posterior
from bayesharm.results.run_folder import check_output

MEAN = "posterior.zarr/effects/measurement/mean"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return make_posterior().save(tmp_path_factory.mktemp("posterior") / "run")


@pytest.fixture
def run(saved, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(saved, tmp_path / "run")


def test_what_is_saved_is_loaded(saved):
    before, after = make_posterior(), load_posterior(saved)
    assert after.run.items() >= json.loads(json.dumps(before.run)).items()
    assert after.spec == before.spec
    assert after.features == before.features == ["f0", "f1", "f2", "f3"]
    assert after.scanners == list(SCANNERS)
    for node in ("hyper", "scales", "design", "effects/measurement"):
        xr.testing.assert_equal(after.tree[node].to_dataset(), before.tree[node].to_dataset())


def test_the_effect_of_a_family_is_labelled(saved):
    effect = load_posterior(saved).effect("measurement")
    assert effect["mean"].dims == ("scanner", "feature")
    assert float(effect["mean"].sel(scanner="C", feature="f2")) == pytest.approx(10.0)
    assert float(effect["sd"].sel(scanner="C", feature="f2")) == pytest.approx(3.2)


def test_a_family_that_is_not_there_is_refused_and_the_others_are_named(saved):
    with pytest.raises(RunFolderError, match=r"no 'sampling' effects[\s\S]*'measurement'[\s\S]*do this"):
        load_posterior(saved).effect("sampling")


def test_xarray_opens_the_folder_without_us(saved):
    tree = xr.open_datatree(saved / "posterior.zarr", engine="zarr", consolidated=False)
    assert set(tree.children) == {"hyper", "scales", "effects", "error_patterns", "design"}


def test_there_is_no_pickle_in_a_run(saved):
    for file in saved.rglob("*"):
        assert not file.is_file() or not file.read_bytes().startswith(b"\x80\x04"), file


def test_the_same_posterior_gives_the_same_bytes(saved, tmp_path):
    again = make_posterior().save(tmp_path / "again")
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (saved / file).read_bytes() == (again / file).read_bytes(), file


def test_what_was_loaded_is_saved_as_it_was(saved, tmp_path):
    again = load_posterior(load_posterior(saved).save(tmp_path / "again"))
    assert again.run == load_posterior(saved).run


def test_a_new_or_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    make_posterior().save(tmp_path / "empty")
    make_posterior().save(tmp_path / "deep" / "new")
    assert load_posterior(tmp_path / "empty").features == load_posterior(tmp_path / "deep" / "new").features


@pytest.mark.parametrize(
    "fill, found",
    [
        (lambda folder: (folder / "notes.txt").write_text("mine"), "other files"),
        (lambda folder: (folder / "run.json").write_text("{}"), "a finished run"),
    ],
)
def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path, fill, found):
    fill(tmp_path)
    before = sorted(tmp_path.iterdir())
    for refuse in (check_output, make_posterior().save):
        with pytest.raises(RunFolderError, match=rf"already holds {found}[\s\S]*expected[\s\S]*do this"):
            refuse(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be written[\s\S]*do this"):
        make_posterior().save(tmp_path / "file" / "run")


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(xr.DataTree, "to_zarr", fail)
    with pytest.raises(RunFolderError, match=r"could not be written[\s\S]*No space left"):
        make_posterior().save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [(posterior, "write_whole"), (os, "fsync")], ids=["before", "within"])
def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch, where):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(*where, stop)
    with pytest.raises(KeyboardInterrupt):
        make_posterior().save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match=r"not a run folder[\s\S]*expected[\s\S]*do this"):
            load_posterior(folder)


def test_a_half_written_run_is_refused(run):
    (run / "run.json").unlink()
    with pytest.raises(RunFolderError, match=r"half-written[\s\S]*do this: fit again"):
        load_posterior(run)


def test_a_run_of_another_version_is_refused(run):
    content = json.loads((run / "run.json").read_text())
    other = content | {"format": FORMAT + 1, "versions": {"bayesharm": "9.1"}}
    (run / "run.json").write_text(json.dumps(other))
    message = rf"got: format {FORMAT + 1}\n  expected: format {FORMAT}\n.*bayesharm 9.1"
    with pytest.raises(RunFolderError, match=message):
        load_posterior(run)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "null"])
def test_a_damaged_run_json_is_refused(run, text):
    (run / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"run\.json is damaged[\s\S]*do this"):
        load_posterior(run)


@pytest.mark.filterwarnings("ignore:Object at")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda run: shutil.rmtree(run / "posterior.zarr"), id="no tree"),
        pytest.param(lambda run: (run / "posterior.zarr" / "zarr.json").unlink(), id="no root"),
        pytest.param(lambda run: (run / "posterior.zarr/effects/zarr.json").unlink(), id="no group"),
        pytest.param(lambda run: (run / MEAN / "zarr.json").write_text("{"), id="damaged metadata"),
        pytest.param(lambda run: (run / MEAN / "zarr.json").unlink(), id="no metadata"),
        pytest.param(lambda run: (run / MEAN / "c/0/0").unlink(), id="no chunk"),
        pytest.param(lambda run: (run / MEAN / "c/0/0").write_bytes(b"short"), id="cut chunk"),
        pytest.param(lambda run: _flip(run / MEAN / "c/0/0"), id="changed chunk"),
    ],
)
def test_a_damaged_tree_is_refused(run, damage):
    damage(run)
    with pytest.raises(RunFolderError, match="do this: .* --repair"):
        load_posterior(run)


@pytest.mark.parametrize("other", [lambda text: text.replace('"seed": ', '"seed": 1'), lambda _: f'{{"format": {FORMAT}}}'])
def test_a_changed_run_json_is_refused(run, other):
    (run / "run.json").write_text(other((run / "run.json").read_text()))
    with pytest.raises(RunFolderError, match="do this: compute it again: .* --overwrite"):
        load_posterior(run)


def test_damaged_files_are_named(run):
    _flip(run / MEAN / "c/0/0")
    (run / MEAN / "c/0/1").write_text("new")
    name = MEAN.removeprefix("posterior.zarr/")
    with pytest.raises(RunFolderError, match=f"got: '{name}/c/0/0', '{name}/c/0/1': missing, changed or not of the run"):
        load_posterior(run)


def _flip(file: Path) -> None:
    content = np.frombuffer(file.read_bytes(), np.uint8).copy()
    content[-3] ^= 0xFF
    file.write_bytes(content.tobytes())


def test_a_loaded_posterior_has_labels_that_xarray_can_work_with(tmp_path):
    loaded = load_posterior(make_posterior().save(tmp_path / "run"))
    bias = loaded.effect("measurement")["mean"]
    assert abs(bias).mean("feature").idxmax("scanner").item() == "A"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunFolderError, match="cannot be written"):
        check_output(tmp_path / "file" / "run")
    check_output(tmp_path / "new" / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_tables_of_a_summary_replace_no_file(tmp_path):
    (tmp_path / "features.csv").write_text("mine")
    with pytest.raises(RunFolderError, match="already holds tables"):
        summarize(make_posterior()).write(tmp_path)
    assert (tmp_path / "features.csv").read_text() == "mine"


def test_a_summary_says_why_features_are_marked_and_whether_they_waited_for_one_another():
    diagnostics = summarize(make_posterior(not_converged=("f1", "f3"))).diagnostics
    assert diagnostics[0].startswith("2 of 4 features have NOT converged") and "(R-hat: 2)" in diagnostics[0]
    assert not any("waited" in sentence for sentence in diagnostics)
    slow = summarize(make_posterior(leapfrog={"mean": 3.0, "max_over_mean": 1.8})).diagnostics
    assert any("the slowest of a block took 1.8 times the mean of 3.0 leapfrog steps" in sentence for sentence in slow)
    assert summarize(make_posterior(not_converged=("f1",))).features["reason"].tolist()[:2] == ["converged", "R-hat"]
