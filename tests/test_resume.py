"""A run that is interrupted goes on where it stopped, with the same bytes; what is damaged is never read, and is mended.

And a long one: memory, compiled programs, features that fail.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import killed
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from killed import contents

import bayesharm
from bayesharm.algorithms import programs
from bayesharm.algorithms.random_streams import Stage
from bayesharm.errors import InputError, RunFolderError
from bayesharm.fitting import scheduler
from bayesharm.fitting.block_sampler import BlockSampler
from bayesharm.fitting.context import FitContext
from bayesharm.fitting.settings import Settings
from bayesharm.inference.predictive_prior import placeholder_prior
from bayesharm.inference.scales import sample_block
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.results import checkpoints, posterior, schema
from bayesharm.results.checkpoints import Checkpoints, open_checkpoints
from bayesharm.results.posterior import REASONS
from bayesharm.results.run_folder import check_output

SETTINGS = killed.SETTINGS
MODEL = "traveling"
FIT = """
import sys
import bayesharm
from bayesharm.algorithms.programs import cache_programs
cache_programs()  # programs of this session need not be compiled again
dataset = bayesharm.load_dataset(sys.argv[1] + "/scans.csv", sys.argv[1] + "/features.npy")
bayesharm.fit(dataset, "traveling", seed=1, out=sys.argv[2], block_size=2, hyper_features=32)
"""


@pytest.fixture(scope="module", autouse=True)
def small_files():
    """96 features in three files of each array."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "FEATURES_PER_FILE", killed.FEATURES_PER_FILE)
        yield


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


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """The run folder of a fit that nothing interrupted; beside it, what its samplers found, and what happened when."""
    out, recorded, events = tmp_path_factory.mktemp("whole") / "run", {}, []
    learn, sample = scheduler._learn, BlockSampler.sample

    def learned(*args):
        hyper, draws = learn(*args)
        recorded.update({f"hyper-{name}": array for name, array in hyper.to_arrays().items()})
        return hyper, draws

    def sampled(self, block, retry=0):
        events.append(["starts", int(block[0])])
        found = sample(self, block, retry)
        events.append(["ends", int(block[0])])
        if self.ratios.log_noise.any():  # not what is only compiled
            recorded.update({f"{retry}-{block[0]}-{name}": array for name, array in found.items()})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "_learn", learned)
        patch.setattr(BlockSampler, "sample", sampled)
        fit(study, out, progress=lambda stage, done, *_: events.append([stage, done]))
    np.savez(out.with_name("recorded.npz"), **recorded)
    out.with_name("events.json").write_text(json.dumps(events))
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


def test_the_first_block_alone_then_the_others_and_progress_between(whole):
    """The first compiles the program of all; what is finished is told, and kept, while others are still at work."""
    events = json.loads(whole.with_name("events.json").read_text())
    assert events.index(["ends", 0]) < events.index(["features", 0])  # while hyperparameters are learned
    assert events.index(["features", 2]) < events.index(["starts", 94])


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
def test_killed_at_20_random_moments(study, whole, tmp_path):
    """SIGKILL over the whole life of a run, and in the end Ctrl-C; `killed.py` says what is run."""
    command = [sys.executable, killed.__file__, study, tmp_path, whole.with_name("recorded.npz"), "20", "5"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    assert all({*found["killed"]} & when for when in ({"nothing"}, {"hyperparameters", "features"}, {"writing", "finished"}))
    assert found["same"] and not found["damaged"] and len(found["killed"]) >= 20 and len(found["stopped"]) == 1
    assert contents(tmp_path / "whole") == contents(whole)


@pytest.mark.slow
def test_killed_in_the_middle(study, whole, tmp_path):
    """As before, with nothing handed over: killed when the first part of the features is there."""
    out = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", FIT, study, out]) as process:
        while process.poll() is None and not any((out / "unfinished").glob("features-0-0.*")):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
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
    fit(study, out, progress=lambda *event: notes.append(str(event[-1])))
    assert contents(out) == contents(whole)
    assert damage == "missing" or any("damaged, computed again" in note and part.name in note for note in notes)


@pytest.mark.parametrize("change", ["seed", "settings", "features", "scans", "versions", "spec"])
def test_a_run_goes_on_only_as_it_was_started(study, nearly, tmp_path, change, monkeypatch):
    out, options = tmp_path / "run", {"seed": {"seed": 2}, "settings": {"block_size": 64},
                                      "spec": {"feature_scaling": "common"}}.get(change, {})  # fmt: skip
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
        monkeypatch.setattr("bayesharm.fitting.fit.version", lambda name: "0")
    before = contents(out)
    with pytest.raises(RunFolderError, match=rf"started with other inputs: {change} changed[\s\S]*--overwrite"):
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
    plan = tmp_path / "run" / "unfinished" / "manifest.json"
    plan.write_text("{")
    damaged = pytest.raises(RunFolderError, match=r"manifest.json, damaged[\s\S]*--overwrite")
    with damaged, open_checkpoints(tmp_path / "run", {}):
        pass
    plan.unlink()  # or they are of an earlier version, which named it otherwise
    before = contents(tmp_path / "run")
    unknown = pytest.raises(RunFolderError, match=r"features-0-0[\s\S]*no manifest.json[\s\S]*--overwrite")
    with unknown, open_checkpoints(tmp_path / "run", {}):
        pass
    assert contents(tmp_path / "run") == before


def test_what_changed_is_named_by_itself(tmp_path):
    plans = [{"spec": {"feature_scaling": scaling, "families": ["a"] * 99}} for scaling in ("per_feature", "common")]
    with pytest.raises(KeyboardInterrupt), open_checkpoints(tmp_path / "run", plans[0]):
        stop()
    with pytest.raises(RunFolderError) as error, open_checkpoints(tmp_path / "run", plans[1]):
        pass
    assert "got: spec.feature_scaling: common\n  expected: spec.feature_scaling: per_feature\n" in str(error.value)


def test_a_full_disk_loses_nothing(tmp_path):
    """A limit of the system on the size of files stands for the disk: the error comes from the same call."""
    parts = Checkpoints(tmp_path)
    parts.write("small", {"x": np.arange(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RunFolderError, match=r"could not be written[\s\S]*continues where it stopped"):
            parts.write("large", {"x": np.arange(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(parts.read("small")["x"], np.arange(3))
    assert parts.read("large") is None and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"), open_checkpoints(tmp_path / "file" / "run", {}):
        pass


def damage(run, *names):
    """Flip a bit of a file, remove one, cut one, and so on."""
    for k, name in enumerate(names):
        file = run / "posterior.zarr" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.unlink()
        if k % 3 != 1:
            file.write_bytes(content[:-3] if k % 3 else content)


def repaired(study, run, monkeypatch, **options):
    """Features that were sampled in a repair, by turn, and what was told."""
    sampled, notes, sample = {0: set(), 1: set(), 2: set()}, [], BlockSampler.sample

    def recorded(self, block, retry=0):
        sampled[retry] |= {*block.tolist()} if self.ratios.log_noise.any() else set()  # not what is only compiled
        return sample(self, block, retry)

    monkeypatch.setattr(BlockSampler, "sample", recorded)
    fit(study, run, repair=True, progress=lambda *event: notes.append(str(event[-1])), **options)
    return sampled, notes


def test_what_is_damaged_in_a_finished_run_is_computed_again_and_nothing_else(study, whole, tmp_path, monkeypatch):
    run = shutil.copytree(whole, tmp_path / "run")
    names = ["scales/mean/c/0/1", "effects/measurement/sd/c/0/1", "scales/feature_scale/c/1", "scales/rhat/zarr.json"]
    names += ["finite_population/finite_sd/c/0/0/1", "finite_population/probability_larger/c/0/0/1"]
    damage(run, *names)
    (run / "posterior.zarr" / "scales" / "mine").write_text("")
    with pytest.raises(RunFolderError, match=r"scales/mean/c/0/1[\s\S]*do this: .*--repair"):
        bayesharm.load_posterior(run)
    with pytest.raises(RunFolderError, match=r"a finished run[\s\S]*--repair"):
        fit(study, run)
    sampled, notes = repaired(study, run, monkeypatch)
    assert contents(run) == contents(whole)
    turns = bayesharm.load_posterior(whole).tree["scales"]["n_draws"].values // (4 * 125) - 1
    assert turns[32:64].any()  # otherwise this does not show that later turns are found
    assert sampled[0] == {*range(32, 64)} - {k for k in range(32, 64, 2) if turns[k] and turns[k + 1]}
    assert {k for k in range(32, 64) if turns[k]} <= sampled[1] <= {*np.flatnonzero(turns)}
    assert any("damaged: 'effects/measurement/sd/c/0/1'" in note for note in notes)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    (run / "unfinished").mkdir()  # as if it had been killed on its way out
    fit(study, run, repair=True, progress=lambda *event: notes.append(str(event[-1])))
    assert notes[-1] == "no file is damaged" and before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


@pytest.mark.parametrize("names", [("scales/n_draws/c/0", "zarr.json"), ("effects/measurement/correlation/c/0/0",)])
def test_where_nobody_knows_who_was_sampled_with_whom_all_is_computed_again(study, whole, tmp_path, names):
    run = shutil.copytree(whole, tmp_path / "run")
    damage(run, *names)
    fit(study, run, repair=True)
    assert contents(run) == contents(whole)


def test_a_preview_is_repaired_too(study, tmp_path, monkeypatch):
    fit(study, tmp_path / "whole", preview=True)
    run = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    damage(run, "scales/sd/c/0/2")
    sampled, _ = repaired(study, run, monkeypatch, preview=True)
    assert sampled[0] == {*range(64, 96)} and contents(run) == contents(tmp_path / "whole")


def test_an_interrupted_repair_loses_nothing(study, whole, tmp_path, monkeypatch):
    run, write = shutil.copytree(whole, tmp_path / "run"), checkpoints.write_whole
    damage(run, "hyper/eta/c/0/0/0", "scales/sd/c/0/2")
    damaged = contents(run)

    def stop_after(path, content):
        write(path, content)
        if path.name.startswith("features-0"):
            stop()

    monkeypatch.setattr(checkpoints, "write_whole", stop_after)
    with pytest.raises(KeyboardInterrupt):
        fit(study, run, repair=True)
    monkeypatch.setattr(checkpoints, "write_whole", write)
    assert {path: content for path, content in contents(run).items() if path.parts[0] != "unfinished"} == damaged
    sampled, notes = repaired(study, run, monkeypatch)
    assert contents(run) == contents(whole)
    assert not sampled[0] and "resuming" in notes


def test_what_comes_out_otherwise_replaces_nothing(study, whole, tmp_path, monkeypatch):
    """As it might on another machine."""
    run, sample = shutil.copytree(whole, tmp_path / "run"), BlockSampler.sample

    def otherwise(self, block, retry=0):
        found = sample(self, block, retry)
        return found | {"mean": found["mean"] * (1 + 1e-15)}

    damage(run, "scales/mean/c/0/0", "scales/sd/c/0/0")
    before = contents(run)
    monkeypatch.setattr(BlockSampler, "sample", otherwise)
    message = r"as it was before[\s\S]*other bytes than in the run for 'scales/mean/c/0/0'[\s\S]*machine"
    with pytest.raises(RunFolderError, match=message):
        fit(study, run, repair=True)
    assert contents(run) == before


def test_a_repair_needs_the_run_that_it_mends(study, whole, nearly, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    damage(run, "scales/mean/c/0/1")
    before = contents(run)
    message = r"started with other inputs: seed changed[\s\S]*expected: seed: 1\n[\s\S]*--overwrite"
    with pytest.raises(RunFolderError, match=message):
        fit(study, run, repair=True, seed=2)
    for options in ({"overwrite": True}, {"out": None}):
        with pytest.raises(InputError, match="A repair needs a finished run"):
            fit(study, **{"out": run, "repair": True} | options)
    assert contents(run) == before
    with pytest.raises(RunFolderError, match=r"no run to repair[\s\S]*an unfinished run[\s\S]*leave --repair out"):
        fit(study, nearly, repair=True)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"seed": 2}))
    with pytest.raises(RunFolderError, match=r"run.json[\s\S]*--overwrite"):
        fit(study, run, repair=True, seed=2)


def test_arrays_of_a_family_named_c_are_found():
    assert schema.features_of_file("effects/c/mean/c/0/1") == slice(schema.FEATURES_PER_FILE, 2 * schema.FEATURES_PER_FILE)


def test_the_lock_of_a_dead_process_is_recognized(tmp_path):
    """The system lets go of a lock when its process ends, however it ends; the file that stays locks nothing."""
    code = (
        "import os, signal, sys; from pathlib import Path; from bayesharm.results.checkpoints import open_checkpoints\n"
        "with open_checkpoints(Path(sys.argv[1]), {'seed': 1}) as parts:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "run"]).returncode == -signal.SIGKILL
    assert (tmp_path / "run" / "unfinished" / "lock").exists()
    with open_checkpoints(tmp_path / "run", {"seed": 1}):
        pass


def test_a_folder_that_may_only_be_read_is_refused(whole):
    """Nobody may do everything: where the tests are run by somebody who may, they step down for this one."""
    everything = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        shutil.copytree(whole, run)
        damage(run, "scales/mean/c/0/1")
        for path in (run, Path(place)):
            path.chmod(0o555)
        try:
            if everything:
                os.seteuid(65534)
            for folder, options in ((run.with_name("new"), {}), (run, {"repair": True}), (run, {"overwrite": True})):
                with pytest.raises(RunFolderError, match=r"cannot be written[\s\S]*do this"):
                    check_output(folder, **options)
            with pytest.raises(RunFolderError, match="cannot be written"), open_checkpoints(run, {}):
                pass
        finally:
            if everything:
                os.seteuid(0)
            for path in (Path(place), run):
                path.chmod(0o755)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell how much memory is in use")
def test_memory_does_not_grow(study, tmp_path):
    """Resident memory after 50 blocks and after 500, parts being kept."""
    dataset, resident = bayesharm.load_dataset(study / "scans.csv", study / "features.npy"), {}
    design = build_design(dataset.scans, load_model(MODEL))

    def tell(stage, done, total, note):
        if done in (2 * 50, 2 * 500):
            resident[done] = int(Path("/proc/self/statm").read_text().split()[1])

    with jax.enable_x64(True), ThreadPoolExecutor(2) as pool:
        problem = make_problem(design)
        whole = FitContext(dataset, design, problem, None, 1, Settings(**SETTINGS))
        work = BlockSampler(whole, VarianceRatios.equal(problem.n_scanners), placeholder_prior(problem, 96, 96))
        scheduler._sample_features(pool, work, Checkpoints(tmp_path), tell, np.resize(np.arange(96), 1000), 0)
    assert resident[1000] < 1.01 * resident[100]


def test_what_does_not_converge_is_run_three_times_and_marked(study):
    """Two thousand draws can never be 10,000 effective ones."""
    stages: list[str] = []
    posterior = fit(study, None, draws=125, target_ess=10_000, progress=lambda stage, *_: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["hyperparameters", "features", "second run", "third run"]
    scales = posterior.tree["scales"].to_dataset()
    assert not scales["converged"].values.any() and (scales["n_draws"] == 4 * 125 * 4).all()
    assert "96 of 96 features have NOT converged" in str(bayesharm.summarize(posterior))
    assert sample_block.n_compiled == 1  # one program: for the one that was compiled ahead, and all parts of all runs


def test_more_features_need_no_more_programs(study):
    """Of a fit after the first only the chain of the hyperparameters, whose program is made for each, is compiled."""
    dataset, compiled = bayesharm.load_dataset(study / "scans.csv", study / "features.npy"), []

    def executables():
        return {id(each): each for program in programs._PROGRAMS for each in program._executables.values()}

    def listen(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(about.get("fun_name"))

    fewer = replace(dataset, features=dataset.features.take(dataset.features.names[:50]))
    bayesharm.fit(fewer, MODEL, seed=1, **SETTINGS)
    before = executables()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 1)(1.0)
        assert len(compiled) == 1
        bayesharm.fit(dataset, MODEL, seed=1, **SETTINGS)
        assert len(compiled) <= 2, compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert before and len(executables().keys() - before.keys()) <= 1  # nor was one read from the folder


def test_a_feature_that_fails_is_marked_and_reaches_no_other(study, whole, monkeypatch):
    """As if its density were not finite; it is not one of those that teach what all share."""
    before, moments = bayesharm.load_posterior(whole), FitContext.moments
    learners = np.sort(np.random.default_rng([1, Stage.SAMPLE]).choice(96, SETTINGS["hyper_features"], replace=False))
    good = before.tree["scales"]["n_draws"].values == 4 * 125  # others are run again, then in other blocks
    bad = next(k for k in range(96) if k not in learners and good[k])

    def with_nan(self, features):
        found, standard = moments(self, features)
        spoiled = {name: np.where(features == bad, np.nan, part) for name, part in found.to_arrays().items()}
        return found.from_arrays(spoiled), standard

    monkeypatch.setattr(FitContext, "moments", with_nan)
    after = fit(study, None)
    reason = after.tree["scales"]["reason"].values
    assert REASONS[reason[bad]] == "not finite" and not np.delete(reason, bad).any()
    diagnostic = bayesharm.summarize(after).diagnostics[0]
    assert diagnostic.startswith("1 of 96 features have NOT converged") and "(not finite: 1)" in diagnostic
    assert after.features[bad] in diagnostic
    others = good & (np.arange(96) != bad)
    for node in ("scales", "effects/measurement", "effects/participant"):
        for name, values in after.tree[node].data_vars.items():
            if "feature" in values.dims:
                np.testing.assert_array_equal(values[..., others], before.tree[node][name][..., others], err_msg=name)


@pytest.mark.parametrize("factor", [1e160, 1e-160])
def test_features_that_would_overflow_or_vanish_are_refused(study, factor):
    dataset = bayesharm.load_dataset(study / "scans.csv", factor * np.load(study / "features.npy")[:, :2])
    with pytest.raises(InputError, match=r"too small or too large[\s\S]*and 1e\+200[\s\S]*another unit"):
        bayesharm.fit(dataset, MODEL)


def test_features_without_noise_are_refused(study):
    """The same value in all scans of each person: there is no noise to compare anything with."""
    scans, features = pd.read_csv(study / "scans.csv"), np.load(study / "features.npy")[:, :4]
    features[:, 2] = features[scans.groupby("participant_id").cumcount().eq(0).to_numpy().nonzero()[0], 2][
        scans.participant_id.factorize()[0]
    ]
    with pytest.raises(InputError, match=r"the same in all scans of a person[\s\S]*got: *.feature_\d*2.\n"):
        bayesharm.fit(bayesharm.load_dataset(scans, features), MODEL)
