"""A run that is interrupted goes on where it stopped, with the same bytes; what is damaged is never read."""

import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

import bayesharm
from bayesharm import checkpoints, posterior
from bayesharm.block import BlockSampler
from bayesharm.checkpoints import Checkpoints, keep_parts
from bayesharm.errors import RunFolderError
from bayesharm.inference.lanes import sample_block

SETTINGS = {"block_size": 2}  # so that 96 features are three parts
MODEL = "traveling"
FIT = """
import sys
import bayesharm
dataset = bayesharm.load_dataset(sys.argv[1] + "/scans.csv", sys.argv[1] + "/features.npy")
bayesharm.fit(dataset, "traveling", seed=1, out=sys.argv[2], block_size=2)
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Six people, twice on each of four scanners, 96 features."""
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("study")
    visits = [(f"t{i}", name) for i in range(6) for name in "ABCD" for _ in range(2)]
    scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
    scans["scan_id"] = [f"scan{i}" for i in range(len(scans))]
    scans.to_csv(folder / "scans.csv", index=False)
    tau = np.exp(0.3 * rng.normal(size=(3, 96)))
    person = rng.normal(size=(6, 96))[pd.factorize(scans.participant_id)[0]]
    bias = rng.normal(size=(4, 96))[pd.factorize(scans.scanner)[0]]
    np.save(folder / "features.npy", tau[0] * person + tau[1] * bias + tau[2] * rng.normal(size=person.shape))
    return folder


def fit(study, out, **options):
    dataset = bayesharm.load_dataset(study / "scans.csv", study / "features.npy")
    return bayesharm.fit(dataset, MODEL, **{"seed": 1, "out": out} | SETTINGS | options)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """The run folder of a fit that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fit(study, out)
    assert {path.name for path in out.iterdir()} == {"posterior.zarr", "run.json"}
    return out


@pytest.fixture(scope="module")
def nearly(study, tmp_path_factory):
    """An unfinished run that has all its parts: it was stopped at its last write."""
    out = tmp_path_factory.mktemp("nearly") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior, "write_whole", lambda *_: stop())
        with pytest.raises(KeyboardInterrupt):
            fit(study, out)
    return out


def stop():
    raise KeyboardInterrupt


def test_the_first_block_alone_then_the_others_and_progress_between(study, monkeypatch):
    """The first compiles the program of all; what is finished is told, and kept, while others are still at work."""
    events, sample = [], BlockSampler.sample

    def recorded(self, block, turn=0):
        events.append(("starts", block[0]))
        found = sample(self, block, turn)
        events.append(("ends", block[0]))
        return found

    monkeypatch.setattr(BlockSampler, "sample", recorded)
    fit(study, None, report=lambda stage, done, *_: events.append((stage, done)))
    assert events[events.index(("features", 0)) + 1 :][:2] == [("starts", 0), ("ends", 0)]
    assert events.index(("features", 2)) < events.index(("starts", 94))


def test_what_does_not_converge_is_run_three_times_and_marked(study):
    """Eight draws of each chain can never be 400 effective ones."""
    stages: list[str] = []
    posterior = fit(study, None, draws=8, report=lambda stage, *_: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["hyperparameters", "features", "second run", "third run"]
    scales = posterior.tree["scales"].to_dataset()
    assert not scales["converged"].values.any() and (scales["draws"] == 4 * 8 * 4).all()
    assert "96 of 96 features have NOT converged" in str(bayesharm.summarize(posterior))
    assert sample_block._cache_size() == 1  # one program: for the one that was compiled ahead, and all parts of all runs


@pytest.mark.slow
def test_stopped_between_any_two_writes(study, whole, tmp_path, monkeypatch):
    """At every write in turn: the first attempt fails at the first, the second one write later, until all are made."""
    out, n_written, n_attempts, finished = tmp_path / "run", 0, 0, False

    def write(path, content):
        nonlocal n_written
        if n_written == n_attempts:
            path.with_name(f".{path.name}.part").write_bytes(content[:10])  # half of a file
            stop()
        n_written += 1
        checkpoints_write(path, content)

    checkpoints_write = checkpoints.write_whole
    for module in (checkpoints, posterior):
        monkeypatch.setattr(module, "write_whole", write)
    while not finished:
        try:
            fit(study, out)
            finished = True
        except KeyboardInterrupt:
            with pytest.raises(RunFolderError, match="unfinished"):
                bayesharm.load_posterior(out)
            n_attempts += 1
    assert n_written >= 6  # plan, hyperparameters, three parts, run.json
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_killed_at_random_moments(study, whole, tmp_path):
    draw, n_killed, out = random.Random(5), 0, tmp_path / "run"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", FIT, study, tmp_path / "timed"], check=True)
    length = time.monotonic() - started
    assert contents(tmp_path / "timed") == contents(whole)
    while n_killed < 3:
        with subprocess.Popen([sys.executable, "-c", FIT, study, out]) as process:
            try:
                process.wait(draw.uniform(0.4, 1.0) * length)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                n_killed += 1
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0
            assert contents(out) == contents(whole)
        if (out / "run.json").exists():  # finished, and perhaps killed on its way out
            there = {path: content for path, content in contents(out).items() if path.parts[0] != "unfinished"}
            assert there == contents(whole)
            shutil.rmtree(out)
    if out.exists():
        fit(study, out)
        assert contents(out) == contents(whole)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_part_is_named_and_computed_again(study, whole, nearly, tmp_path, damage):
    out, notes = tmp_path / "run", []
    shutil.copytree(nearly, out)
    part = next((out / "unfinished").glob("features-0-1.*.npz"))
    content = bytearray(part.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    part.write_bytes(content[:-5] if damage == "cut" else content)
    if damage == "missing":
        part.unlink()
    fit(study, out, report=lambda *event: notes.append(str(event[-1])))
    assert contents(out) == contents(whole)
    assert damage == "missing" or any("damaged, computed again" in note and part.name in note for note in notes)


@pytest.mark.parametrize("change", ["seed", "settings", "features", "scans", "versions", "spec"])
def test_a_run_goes_on_only_as_it_was_started(study, nearly, tmp_path, change, monkeypatch):
    out, options = tmp_path / "run", {"seed": {"seed": 2}, "settings": {"block_size": 64},
                                      "spec": {"units": "shared"}}.get(change, {})  # fmt: skip
    shutil.copytree(nearly, out)
    other = tmp_path / "other"
    shutil.copytree(study, other)
    if change == "features":
        values = np.load(other / "features.npy")
        values[3, 5] += 1e-9
        np.save(other / "features.npy", values)
    if change == "scans":
        scans = pd.read_csv(other / "scans.csv")
        scans.loc[:3, "scanner"] = "B"
        scans.to_csv(other / "scans.csv", index=False)
    if change == "versions":
        monkeypatch.setattr(sys.modules["bayesharm.fit"], "version", lambda name: "0")
    before = contents(out)
    with pytest.raises(RunFolderError, match=rf"started otherwise: {change} changed[\s\S]*--overwrite"):
        fit(other, out, **options)
    assert contents(out) == before


def test_overwrite_starts_afresh(study, whole, nearly, tmp_path):
    with pytest.raises(RunFolderError, match=r"a finished run[\s\S]*--overwrite"):
        fit(study, whole)
    for name, old in {"finished": whole, "unfinished": nearly}.items():
        shutil.copytree(old, tmp_path / name)
        again = fit(study, tmp_path / name, seed=2, overwrite=True)
        assert bayesharm.load_posterior(tmp_path / name).run["seed"] == again.run["seed"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("{}")
    (tmp_path / "mine" / "thesis.docx").write_text("")
    with pytest.raises(RunFolderError, match="other files"):
        fit(study, tmp_path / "mine", overwrite=True)


def test_one_process_at_a_time(study, nearly, tmp_path):
    shutil.copytree(nearly, tmp_path / "run")
    before = contents(tmp_path / "run")
    with FileLock(tmp_path / "run" / "unfinished" / "lock"):
        for overwrite in (False, True):
            with pytest.raises(RunFolderError, match=r"Another process[\s\S]*do this"):
                fit(study, tmp_path / "run", overwrite=overwrite)
    assert contents(tmp_path / "run") == before


def test_parts_of_which_nobody_knows_the_plan_are_not_used(nearly, tmp_path):
    shutil.copytree(nearly, tmp_path / "run")
    plan = tmp_path / "run" / "unfinished" / "plan.json"
    plan.write_text("{")
    with pytest.raises(RunFolderError, match=r"plan.json, damaged[\s\S]*--overwrite"), keep_parts(tmp_path / "run", {}):
        pass
    plan.unlink()
    with keep_parts(tmp_path / "run", {}) as parts:
        assert parts.kept == 0 and parts.read("hyper") is None


def test_what_changed_is_named_by_itself(tmp_path):
    plans = [{"spec": {"units": units, "families": ["a"] * 99}} for units in ("each", "shared")]
    with pytest.raises(KeyboardInterrupt), keep_parts(tmp_path / "run", plans[0]):
        stop()
    with pytest.raises(RunFolderError) as error, keep_parts(tmp_path / "run", plans[1]):
        pass
    assert "got: spec.units: shared\n  expected: spec.units: each\n" in str(error.value)


def test_a_full_disk_loses_nothing(tmp_path):
    """A limit of the system on the size of files stands for the disk: the error comes from the same call."""
    parts = Checkpoints(tmp_path)
    parts.write("small", {"x": np.arange(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RunFolderError, match=r"could not be written[\s\S]*goes on where it stopped"):
            parts.write("large", {"x": np.arange(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(parts.read("small")["x"], np.arange(3))
    assert parts.read("large") is None and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"), keep_parts(tmp_path / "file" / "run", {}):
        pass
