"""The command: its files and messages, its errors, and equal bytes from equal seeds."""

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import xarray as xr
from scipy import stats
from typer.testing import CliRunner

import bayesharm
from bayesharm.cli.app import COMMANDS, app, models
from bayesharm.cli.bids_app import to_command
from bayesharm.cli.models import ACTIONS
from bayesharm.cli.option_groups import expand_option_groups
from bayesharm.cli.options import ScanColumns
from bayesharm.errors import InputError, RunFolderError
from bayesharm.reporting.html import write_report

ROOT = Path(__file__).parents[1]
runner = CliRunner()


def run(*args, code: int = 0):
    result = runner.invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def files_of(folder: Path) -> dict[Path, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


# ---- the main job


def test_fit_writes_a_run_folder(small_run):
    assert {path.name for path in small_run.iterdir()} == {"posterior.zarr", "run.json"}
    posterior = bayesharm.load_posterior(small_run)
    assert posterior.spec.name == "traveling_and_cohort" and posterior.run["seed"] == 1
    assert posterior.scanners == ["alpha", "beta", "delta", "gamma", "omega"]
    kept = posterior.tree["draws"].to_dataset()["scales"]
    assert kept.shape == (100, kept.sizes["family"], 100) and kept.dtype == np.float32


def test_summary_prints_tables_and_writes_them(small_run, tmp_path):
    text = run("summary", small_run, "--out", tmp_path / "tables").output
    for part in (
        "Model traveling_and_cohort",
        "47 scans, 5 scanners",
        "measurement",
        "sampling",
        "disorder",
        "Convergence",
        "Caveats",
        "No traveler links delta and omega",
    ):
        assert part in text
    assert "\x1b[" not in text  # no colors where there is no terminal
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        "effect_sizes.csv",
        "hyper.csv",
        "scanners.csv",
        "features.csv",
    }


def test_harmonize_writes_mean_and_sd_in_the_form_of_the_input(small_study, small_run, tmp_path):
    run(
        "harmonize",
        small_run,
        small_study / "scans.csv",
        small_study / "features.npy",
        "--out",
        tmp_path / "mean.npy",
        "--sd",
        tmp_path / "sd.npy",
    )
    given, mean, sd = (np.load(path) for path in (small_study / "features.npy", tmp_path / "mean.npy", tmp_path / "sd.npy"))
    assert mean.dtype == sd.dtype == given.dtype and mean.shape == sd.shape == given.shape
    scans = pd.read_csv(small_study / "scans.csv")
    effect = bayesharm.load_posterior(small_run).effect("measurement").sel(scanner=scans.scanner.tolist())
    np.testing.assert_allclose(given - mean, effect["mean"].values, atol=1e-5)
    np.testing.assert_allclose(sd, effect["sd"].values, rtol=1e-6)


def test_harmonize_takes_the_choices_that_python_has(small_study, small_run, tmp_path):
    files = small_study / "scans.csv", small_study / "features.npy"
    result = run(
        "harmonize", small_run, *files, "--out", tmp_path / "mean.npy", "--sd", tmp_path / "sd.csv", "--draws", 3,
        "--draws-file", tmp_path / "draws.zarr", "--target", "alpha", "--remove", "measurement,sampling", "--match-noise",
        "--seed", 7,
    )  # fmt: skip
    assert "Note: Real differences between the people" in result.stderr
    assert "uncertainty: " in result.stdout and f"3 draws: {tmp_path / 'draws.zarr'}" in result.stdout
    dataset = bayesharm.load_dataset(*files, check="apply")
    with pytest.warns(UserWarning, match="Real differences"):
        expected = bayesharm.harmonize(
            bayesharm.load_posterior(small_run), dataset, remove="measurement,sampling", target="alpha",
            match_noise=True, draws=3,
            seed=7,
        )  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "mean.npy"), expected.mean)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "draws.zarr", consolidated=False)["draws"].values, expected.draws)
    back = [
        "--out",
        tmp_path / "back.npy",
        "--target",
        "alpha",
        "--remove",
        "measurement,sampling",
        "--match-noise",
        "--inverse",
    ]
    run("harmonize", small_run, files[0], tmp_path / "mean.npy", *back)
    np.testing.assert_allclose(np.load(tmp_path / "back.npy"), np.load(files[1]), atol=1e-5)  # float32, of values up to 10

    moved = pd.read_csv(files[0]).replace({"scanner": {"omega": "new"}})
    moved.to_csv(tmp_path / "moved.csv", index=False)
    out = ["--out", tmp_path / "new.csv"]
    error = run("harmonize", small_run, tmp_path / "moved.csv", files[1], *out, code=2).stderr
    assert "1 scans from 'new'" in error and "--new-scanners" in error and not (tmp_path / "new.csv").exists()
    error = run("harmonize", small_run, *files, *out, "--draws", 2, code=2).stderr
    assert "belong together" in error
    for choice, note in (("prior", "taken as average scanners"), ("adapt", "Adapted to 1 new scan")):
        assert note in run("harmonize", small_run, tmp_path / "moved.csv", files[1], *out, "--new-scanners", choice).stderr


def test_wrong_effects_are_refused_before_scanners_are_learned(small_study, small_run, tmp_path, monkeypatch):
    monkeypatch.setattr("bayesharm.harmonization.adaptation.adapt_to_new_scanners", lambda *_: pytest.fail("adapted first"))
    files = small_study / "scans.csv", small_study / "features.npy"
    wrong = ["--out", tmp_path / "mean.npy", "--new-scanners", "adapt", "--remove", "measurment"]
    assert "'measurment'" in run("harmonize", small_run, *files, *wrong, code=2).stderr


def test_harmonize_takes_new_people_in_a_wide_table_on_some_scanners(small_run, tmp_path):
    names = bayesharm.load_posterior(small_run).features
    table = pd.DataFrame({"who": ["x", "y", "z"], "machine": ["gamma", "omega", "gamma"]})
    table = table.join(pd.DataFrame(np.zeros((3, len(names))), columns=names))
    table.to_csv(tmp_path / "new.csv", index=False)
    run(
        "harmonize",
        small_run,
        tmp_path / "new.csv",
        "--features",
        "feature_*",
        "--participant",
        "who",
        "--scanner",
        "machine",
        "--out",
        tmp_path / "mean.csv",
    )
    mean = pd.read_csv(tmp_path / "mean.csv", dtype={"scan_id": str})
    assert mean.columns.tolist() == ["scan_id", *names] and mean.scan_id.tolist() == ["0", "1", "2"]
    np.testing.assert_array_equal(mean.iloc[0, 1:].to_numpy(float), mean.iloc[2, 1:].to_numpy(float))
    assert (mean.iloc[0, 1:] != mean.iloc[1, 1:]).all()


def test_nothing_else_goes_into_a_run_folder(small_study, small_run, tmp_path):
    """Nor into a folder inside it, nor where other files lie in it already; a repair minds no such file."""
    copied = shutil.copytree(small_run, tmp_path / "run")
    (copied / "notes.txt").write_text("mine")
    files = small_study / "scans.csv", small_study / "features.npy"
    for command in (
        ["summary", copied, "--out", copied],
        ["summary", copied, "--out", copied / "tables"],
        ["report", copied, "--out", copied / "report.html"],
        ["plot", copied, "--what", "all", "--out", copied / "posterior.zarr" / "figures"],
        ["plot", copied, "--what", "scanners", "--out", copied / "scanners.png"],
        ["harmonize", copied, *files, "--out", copied / "mean.npy"],
        ["fit", *files, "--out", copied / "again"],
    ):
        error = run(*command, code=2).stderr
        assert "run folder, which cannot hold other files" in error and "choose another --out" in error
    posterior = bayesharm.load_posterior(copied)
    dataset = bayesharm.load_dataset(*files)
    for write in (
        lambda: bayesharm.summarize(posterior).write(copied),
        lambda: write_report(posterior, copied / "report.html"),
        lambda: bayesharm.harmonize_to_files(posterior, dataset, copied / "mean.npy"),
        lambda: posterior.save(copied / "again"),
    ):
        with pytest.raises(RunFolderError, match="cannot hold other files"):
            write()
    again = ["fit", *files, "--keep-draws", "thin", "--seed", "1", "--repair", "--out", copied]
    assert "no file is damaged" in run(*again).stderr
    assert {path.name for path in copied.iterdir()} == {"posterior.zarr", "run.json", "notes.txt"}


def test_scanners_that_are_hardly_known_get_wide_finite_intervals(small_run):
    sd = bayesharm.load_posterior(small_run).effect("measurement")["sd"]
    assert np.isfinite(sd).all()
    known = sd.sel(scanner=["alpha", "beta", "gamma"])
    for scanner in ("delta", "omega"):  # nobody traveled there; there is one scan only
        assert (sd.sel(scanner=scanner) > known.max("scanner")).mean() > 0.9


def test_the_same_seed_gives_the_same_bytes_from_the_shell_and_from_python(small_study, small_run, tmp_path):
    dataset = bayesharm.load_dataset(small_study / "scans.csv", small_study / "features.npy")
    told: list[str] = []
    bayesharm.fit(
        dataset, "traveling_and_cohort", seed=1, out=tmp_path / "again", keep_draws="thin",
        progress=lambda stage, *_: told.append(stage),
    )  # fmt: skip
    assert told.index("draws") < told.index("features")  # how much room they will take
    first, again = files_of(small_run), files_of(tmp_path / "again")
    assert first.keys() == again.keys()
    assert [str(path) for path in first if first[path] != again[path]] == []


@pytest.mark.slow
def test_a_preview_is_near_the_posterior_and_says_what_it_is(small_study, small_run, tmp_path):
    files = (small_study / "scans.csv", small_study / "features.npy")
    shown = run("fit", *files, "--seed", "1", "--preview", "--log", tmp_path / "log.txt", "--out", tmp_path / "run").output
    preview, posterior = bayesharm.load_posterior(tmp_path / "run"), bayesharm.load_posterior(small_run)
    harmonized = run("harmonize", tmp_path / "run", *files, "--out", tmp_path / "mean.npy").output
    for text in (shown, harmonized, run("summary", tmp_path / "run").output, str(preview.tree.attrs)):
        assert "PREVIEW" in text
    assert "PREVIEW" not in run("summary", small_run).output
    assert "features 100 of 100" in (tmp_path / "log.txt").read_text()
    chosen = (
        "Model traveling_and_cohort, chosen because 5 people traveled and 17 did not, among them everybody on delta and "
        "omega."
    )
    assert shown.count(chosen) == 1 and preview.run["notes"][:2] == [chosen, posterior.run["notes"][0]]
    assert preview.spec == posterior.spec  # as if the model had been named
    # Root mean squares in posterior sds. 0.05: Monte-Carlo error, the difference of two seeds of the posterior; its square,
    # a mean over 100 features, exceeds the factor of chi2 with a probability of 2e-5 in all eight parts. 0.18: allowance
    # for the approximation and for importance sampling; previews with three seeds differed by 0.04 to 0.16.
    tolerance = np.hypot(0.18, 0.05 * np.sqrt(stats.chi2.isf(2e-5 / 8, 100) / 100))
    for family in ("measurement", "sampling", "disorder", "participant"):
        near, exact = preview.effect(family), posterior.effect(family)
        for name in ("mean", "sd"):
            assert np.sqrt((((near[name] - exact[name]) / exact["sd"]) ** 2).mean()) < tolerance


def test_repair_takes_the_command_that_made_the_run(small_study, small_run):
    before = files_of(small_run)
    command = ["fit", small_study / "scans.csv", small_study / "features.npy", "--keep-draws", "thin", "--out", small_run]
    assert "no file is damaged" in run(*command, "--seed", "1", "--repair").stderr
    assert "seed changed" in run(*command, "--seed", "2", "--repair", code=2).stderr
    assert "A repair needs a finished run" in run(*command, "--repair", "--overwrite", code=2).stderr
    assert "no run to repair" in run(*command[:-1], small_study / "new", "--repair", code=2).stderr
    assert files_of(small_run) == before and not (small_study / "new").exists()


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"chains": 1}, "a whole number, 2 or more"),
        ({"draws": 7.5}, "None or a whole number, 8 or more"),
        ({"target_ess": True}, "a whole number, 8 or more"),
        ({"effect_draws": 9}, "a whole number, 10 or more"),
        ({"log": "run.log"}, "got: 'log'\n  expected: some of chains, draws"),
        ({"dtype": "float16"}, "'float32' or 'float64'"),
        ({"keep_draws": "some"}, "'none' or 'thin' or 'all' or a whole number, 0 or more"),
        ({"preview": True, "keep_draws": "all"}, "one of the two"),
    ],
)
def test_impossible_settings_are_refused(small_study, settings, expected):
    dataset = bayesharm.load_dataset(small_study / "scans.csv", small_study / "features.npy")
    with pytest.raises(InputError) as error:
        bayesharm.fit(dataset, "traveling_and_cohort", **settings)
    assert expected in str(error.value)


def test_shuffling_the_scans_changes_results_by_rounding_only(small_study, small_run):
    scans, features = pd.read_csv(small_study / "scans.csv"), np.load(small_study / "features.npy")
    order = np.random.default_rng(5).permutation(len(scans))
    dataset = bayesharm.load_dataset(scans.iloc[order], features[order])
    shuffled = bayesharm.fit(dataset, "traveling_and_cohort", seed=1)
    posterior = bayesharm.load_posterior(small_run)
    for family in ("measurement", "sampling", "disorder", "participant"):
        one, other = posterior.effect(family), shuffled.effect(family)
        for name in ("mean", "sd"):
            scale = float(abs(one[name]).max())
            np.testing.assert_allclose(other[name].values, one[name].values, rtol=1e-6, atol=1e-6 * scale)
    one, other = (tree["scales"].to_dataset() for tree in (posterior.tree, shuffled.tree))
    for name in ("mean", "sd", "q05", "q50", "q95"):
        np.testing.assert_allclose(other[name].values, one[name].values, rtol=1e-6)


# ---- what is refused: exit code 2, the reason in four parts, nothing written


@pytest.fixture
def study(tmp_path) -> Path:
    """Files of eight scans of four people on two scanners, to be spoiled by a test."""
    scans = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(8)],
            "participant_id": list("aabbccdd"),
            "scanner": ["one", "two"] * 4,
            "site": ["here", "there"] * 4,
        }
    )
    scans.to_csv(tmp_path / "scans.csv", index=False)
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(8, 3)))
    return tmp_path


def change(study: Path, **columns) -> None:
    pd.read_csv(study / "scans.csv").assign(**columns).to_csv(study / "scans.csv", index=False)


def table(study: Path, values, names=("f0", "f1", "f2"), scan_id=None) -> None:
    frame = pd.DataFrame(values, columns=list(names))
    frame.insert(0, "scan_id", scan_id or [f"s{i}" for i in range(len(frame))])
    frame.to_csv(study / "features.csv", index=False)


def spoil_value(study: Path, value: float) -> None:
    values = np.load(study / "features.npy")
    values[3, 1] = value
    table(study, values)


REFUSED = {
    "missing column": (
        lambda s: pd.read_csv(s / "scans.csv").drop(columns="scanner").to_csv(s / "scans.csv", index=False),
        "features.npy",
        "no column 'scanner'",
    ),
    "repeated scan_id": (
        lambda s: change(s, scan_id=["s0"] * 2 + [f"s{i}" for i in range(6)]),
        "features.npy",
        r"more than once[\s\S]*'s0'",
    ),
    "other number of scans": (
        lambda s: np.save(s / "features.npy", np.zeros((7, 3))),
        "features.npy",
        r"do not align[\s\S]*\(7, 3\)",
    ),
    "other scans": (
        lambda s: table(s, np.eye(8, 3), scan_id=[f"s{i}" for i in range(1, 9)]),
        "features.csv",
        r"do not align[\s\S]*'s0'[\s\S]*'s8'",
    ),
    "transposed array": (lambda s: np.save(s / "features.npy", np.zeros((3, 8))), "features.npy", "transposed"),
    "transposed table": (
        lambda s: table(s, np.eye(3, 8), [f"s{i}" for i in range(8)], ["f0", "f1", "f2"]),
        "features.csv",
        "transposed",
    ),
    "infinite value": (lambda s: spoil_value(s, np.inf), "features.csv", r"infinite[\s\S]*'f1'[\s\S]*'s3'"),
    "constant feature": (
        lambda s: table(s, np.c_[np.eye(8, 2), np.ones(8)]),
        "features.csv",
        r"1 of 3 features are constant[\s\S]*'f2'",
    ),
    "text feature": (lambda s: table(s, np.where(np.eye(8, 3), "much", "0.5")), "features.csv", "'much'"),
    "one scanner": (lambda s: change(s, scanner="one"), "features.npy", "from one scanner"),
    "nobody traveled": (
        lambda s: change(s, participant_id=list("abcdefgh")),
        "features.npy",
        r"nobody was scanned on two or more[\s\S]*cohort",
    ),
    "no reference group": (
        lambda s: change(s, diagnosis=["MDD", "MDD", "SCZ", "SCZ"] * 2),
        "features.npy",
        r"'HC' is not in the table[\s\S]*--reference",
    ),
    "no people named": (lambda s: change(s, participant_id=["a", None] * 4), "features.npy", "missing in column"),
    "empty table": (lambda s: (s / "scans.csv").write_text(""), "features.npy", "."),
    "only a heading": (
        lambda s: (s / "scans.csv").write_text("scan_id,participant_id,scanner\n"),
        "features.npy",
        "no rows",
    ),
    "empty features": (lambda s: (s / "features.npy").write_bytes(b""), "features.npy", "cannot be read"),
    "empty features table": (lambda s: (s / "features.csv").write_text(""), "features.csv", "."),
    "no features file": (lambda s: None, "nowhere.npy", "nowhere.npy"),
    "unknown format": (lambda s: (s / "features.txt").write_text("1"), "features.txt", "features.txt"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_reason_and_nothing_written(study, name):
    spoil, features, message = REFUSED[name]
    spoil(study)
    before = files_of(study)
    model = ("--model", "traveling_and_cohort")  # by default some of these studies are accepted
    error = run("fit", study / "scans.csv", study / features, *model, "--out", study / "run", code=2).stderr
    for part in ("Error: ", "\n  got: ", "\n  expected: ", "\n  do this: "):
        assert part in error
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert files_of(study) == before and not (study / "run").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model", "travelling"], "did you mean 'traveling'"),
        (["--participant", "subject"], "no column 'subject'"),
        (["--covariates", "age"], "no covariate 'age'"),
        (["--features", "nothing_*"], "No feature matches"),
        (["--likelihood", "student-t", "--preview"], "Gaussian noise only"),
    ],
)
def test_bad_options_are_refused(study, options, message):
    before, files = files_of(study), (study / "scans.csv", study / "features.npy")
    error = run("fit", *files, "--out", study / "run", *options, code=2).stderr
    assert message in error and "do this: " in error
    assert files_of(study) == before


def test_a_file_after_features_is_explained(study):
    scans, features = study / "scans.csv", study / "features.npy"
    error = run("fit", scans, "--features", features, "--out", study / "run", code=2).stderr
    assert "does not take a file" in error and f"write: {scans} {features}" in error


def test_an_output_folder_with_something_in_it_is_refused_before_anything_is_read(small_run, tmp_path):
    before = files_of(small_run)
    error = run("fit", tmp_path / "nothing.csv", "--out", small_run, code=2).stderr
    assert "already holds a finished run" in error and "do this" in error
    assert files_of(small_run) == before
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert "do this" in run("simulate", "--out", out, code=2).stderr


@pytest.mark.parametrize(
    "out, sd, message",
    [
        ("scans.csv", None, "--out would overwrite SCANS"),
        ("features.npy", None, "--out would overwrite FEATURES"),
        ("mean.npy", "features.npy", "--sd would overwrite FEATURES"),
        ("mean.npy", "mean.npy", "--sd would overwrite --out"),
        ("mean.txt", None, "format"),
        ("mean", None, "format"),
        ("mean.npy", "sd.mat", "format"),
        ("nowhere/mean.npy", None, "--out cannot be written"),
    ],
)
def test_harmonize_refuses_its_outputs_before_it_reads(study, out, sd, message):
    before, files = files_of(study), (study / "scans.csv", study / "features.npy")
    options = ["--out", study / out, *(["--sd", study / sd] if sd else [])]
    error = run("harmonize", study / "no_run", *files, *options, code=2).stderr
    assert message in error and "do this" in error
    assert files_of(study) == before


def test_a_scanner_that_the_fit_has_not_seen_is_refused(small_run, study):
    np.save(study / "features.npy", np.zeros((8, len(bayesharm.load_posterior(small_run).features))))
    before, files = files_of(study), (study / "scans.csv", study / "features.npy")
    error = run("harmonize", small_run, *files, "--out", study / "mean.npy", code=2).stderr
    assert re.search(r"'one', 'two'\n.*'alpha', 'beta', 'delta', 'gamma', 'omega'\n  do this", error)
    assert files_of(study) == before


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "run.json").unlink(), "half-written"),
        (lambda folder: (folder / "run.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "run.json").write_text(json.dumps({"format": 99})), "format 99"),
        (lambda folder: shutil.rmtree(folder / "posterior.zarr" / "effects"), "--repair"),
    ],
)
def test_runs_that_are_not_whole_are_refused(small_run, study, damage, message):
    folder = shutil.copytree(small_run, study / "run")
    damage(folder)
    before = files_of(study)
    for command in (
        ["summary", folder],
        ["harmonize", folder, study / "scans.csv", study / "features.npy", "--out", study / "mean.npy"],
    ):
        error = run(*command, code=2).stderr
        assert message in error and "do this" in error
    assert files_of(study) == before


# ---- the other commands, exit codes, help


def test_missing_values_are_refused_if_asked_for(study):
    spoil_value(study, np.nan)
    error = run("fit", study / "scans.csv", study / "features.csv", "--missing", "error", "--out", study / "run", code=2)
    assert re.search(r"missing in 1 of 3 features[\s\S]*'f1'[\s\S]*'s3'", error.stderr)
    assert not (study / "run").exists()


def test_dropped_features_are_noted(study, monkeypatch):
    spoil_value(study, np.inf)
    monkeypatch.setattr("bayesharm.model.catalog.load_model", _interrupt)  # far enough
    run("fit", study / "scans.csv", study / "features.csv", "--model", "cohort", "--out", study / "run", code=130)
    monkeypatch.undo()
    from bayesharm.cli.input import read_dataset

    dataset = read_dataset(study / "scans.csv", study / "features.csv", None, {}, bad_features="drop")
    assert dataset.features.names.tolist() == ["f0", "f2"] and list(dataset.dropped) == ["f1"]


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_ctrl_c_and_bugs_have_exit_codes_of_their_own(study, monkeypatch):
    monkeypatch.setattr("bayesharm.cli.input.read_dataset", _interrupt)
    result = run("fit", study / "scans.csv", study / "features.npy", "--out", study / "run", code=130)
    assert "Stopped." in result.stderr and not (study / "run").exists()

    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("bayesharm.cli.input.read_dataset", fail)
    result = run("fit", study / "scans.csv", study / "features.npy", "--out", study / "run", code=1)
    assert isinstance(result.exception, RuntimeError)


def test_models_are_listed_and_their_cards_shown():
    text = run("models").output
    for name in bayesharm.model_names():
        assert name in text
        card = run("models", name).output
        for part in (
            "## Model",
            "## What it estimates",
            "## When it is not identified",
            "## When not to use it",
            "## Source",
            "10.1371/journal.pbio.3000042",
        ):
            assert part in card, (name, part)
        spec = bayesharm.load_model(name)
        for family in spec.families:  # the card quotes the priors of model.toml
            assert re.search(rf"{family.prior_median}[^0-9]", card), (name, family)
    assert "not separable" in run("models", "cohort").output
    assert "did you mean" in run("models", "cohorts", code=2).stderr


def test_simulate_writes_a_study_with_its_truth(tmp_path):
    harder = ("--no-sampling-bias", "--hub-and-spoke", "--without-travelers", "KUT", "--noise-ratio-sd", 0.35)
    result = run("simulate", "--edges", 10, "--out", tmp_path / "study", "--tail-df", 4, *harder)
    assert "bayesharm fit" in result.output
    names = {path.name for path in (tmp_path / "study").iterdir()}
    assert names == {"scans.csv", "features.npy", "feature_names.txt", "truth.npz"}
    with np.load(tmp_path / "study" / "truth.npz") as truth:
        assert "sampling_HC" not in truth["family"] and truth["noise_ratio"].std() > 0
    scans = pd.read_csv(tmp_path / "study" / "scans.csv")
    assert not (scans.scanner[scans.participant_id.str.startswith("T")] == "KUT").any()
    assert "do this" in run("simulate", "--edges", 10, "--out", tmp_path / "study", code=2).stderr


def test_the_demo_replaces_an_earlier_demo_and_nothing_else(tmp_path):
    from bayesharm.cli.demo.folder import claim_folder

    folder = claim_folder(tmp_path / "demo", ("run", "mean.npy"))
    (folder / "run").mkdir()
    (folder / "run" / "old").write_text("")
    (folder / "mean.npy").write_text("")
    (folder / "mine.txt").write_text("keep")
    claim_folder(folder, ("run", "mean.npy"))
    assert {path.name for path in folder.iterdir()} == {".bayesharm-demo", "mine.txt"}
    with pytest.raises(bayesharm.RunFolderError, match="not the demo's"):
        claim_folder(folder, ("mine.txt",))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    assert "'thesis.tex'" in run("demo", "--out", tmp_path / "other", code=2).stderr
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_the_demo_recovers_the_truth_and_leaves_its_results(tmp_path):
    text = run("demo", "--edges", 130, "--out", tmp_path / "demo").output
    for part in (
        "typical",
        "Size of each source",
        "Convergence",
        "Recovery of the known truth",
        "Output files",
        "To repeat these steps yourself",
        "Time taken",
    ):
        assert part in text
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {".bayesharm-demo", "study", "run", "tables", "harmonized.npy", "harmonized_sd.npy", "report.html"}
    recovery = pd.read_csv(tmp_path / "demo" / "tables" / "recovery.csv", index_col="source")
    assert (recovery.rmse < recovery.true_rms).all() and (recovery.correlation > 0.5).all()
    assert recovery.coverage.between(0.8, 0.97).all()
    assert float(re.search(r"bayesharm is ([\d.]+) times", " ".join(text.split()))[1]) < 1.1


@pytest.mark.slow
def test_harmonizing_helps_real_people_who_were_not_part_of_the_fit(data_dir, tmp_path):
    from bayesharm.cli.demo.onharmony import HELD_OUT, harmonize_held_out

    table = pd.read_csv(data_dir / "onharmony.csv", encoding="utf-8-sig")
    result = harmonize_held_out(table, tmp_path, 1, lambda *event: None)
    assert result.n_fit == 60 and len(result.scans) == 40
    assert result.after.mean() < result.before.mean()
    assert (result.after < result.before).mean() > 0.6
    assert {path.name for path in tmp_path.iterdir()} == set(HELD_OUT)
    assert "60 scans of cohort A" in result.sentences()[0]


NAMES = [*(command.__name__.replace("_", "-") for command in COMMANDS), "models", *(f"models {name}" for name in ACTIONS)]


@pytest.mark.parametrize("command", ["", *NAMES])
def test_help_fits_a_terminal_and_gives_an_example(command):
    text = runner.invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "$ bayesharm " + command in text if command else "bayesharm demo" in text
    assert "<bool>" not in text  # flags have no value


def test_a_group_of_options_stands_in_the_place_of_its_parameter():
    received = []

    def command(*, first: int = 1, columns: ScanColumns, last: int = 2) -> None:
        received.append((first, columns, last))

    expanded = expand_option_groups(command)
    names = ["scan_id", "participant_id", "scanner", "site", "diagnosis", "traveling"]
    assert list(inspect.signature(expanded).parameters) == ["first", *names, "last"]
    expanded(first=3, last=4, **dict.fromkeys(names) | {"scanner": "machine"})
    [(first, columns, last)] = received
    assert (first, last) == (3, 4) and columns.mapping == {"scanner": "machine"}


def test_help_and_import_are_quick():
    code = "import sys, bayesharm.cli.app; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert not {"numpy", "pandas", "jax", "numpyro", "xarray", "zarr", "pyarrow"} & set(loaded.split())


def test_public_names_are_there():
    assert set(bayesharm.__all__) <= set(dir(bayesharm))
    for name in bayesharm.__all__:
        getattr(bayesharm, name)
    import_module("bayesharm.fitting.fit")  # modules of the same name do not replace the functions
    import_module("bayesharm.harmonization.harmonize")
    assert callable(bayesharm.fit) and callable(bayesharm.harmonize)
    assert bayesharm.__version__ in run("--version").output
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        bayesharm.fitt  # noqa: B018


# ---- what the pages say can be typed as it stands


def pages() -> list[Path]:
    docs = (page for page in ROOT.glob("docs/**/*.md") if "generated" not in page.parts)
    return [ROOT / "README.md", *sorted(docs), *sorted(ROOT.glob("models/*/card.md"))]


def test_commands_in_the_pages_and_in_help_are_understood():
    text = "\n".join(page.read_text() for page in pages())
    text += "\n".join(command.callback.__doc__ for command in (*app.registered_commands, *models.registered_commands))
    text = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^(?: {4}|\s*\$ )bayesharm (.*)$", text, re.MULTILINE)
    lines = [line for line in lines if not re.search(r"\b[A-Z]{3,}|\[", line)]
    assert len(lines) > 8
    for line in lines:
        commands = typer.main.get_command(app).commands
        name, *args = to_command(shlex.split(line, comments=True), commands)
        command = commands[name]
        if name == "models" and args[:1] and args[0] in ACTIONS:
            command, (name, *args) = command.commands[args[0]], args
        command.make_context(name, args)  # raises on an unknown option or a missing argument


def test_the_python_example_uses_what_exists():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    compile(code, "README.md", "exec")
    assert len(code.splitlines()) <= 15
    for name in set(re.findall(r"bayesharm\.(\w+)", code)):
        assert name in bayesharm.__all__
