"""The BIDS-App: from a BIDS dataset and the matrices of a tool to harmonized matrices in a BIDS derivative."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bids_trees import REGIONS, write_dataset, write_matrices
from typer.testing import CliRunner

import bayesharm
from bayesharm.cli.app import COMMANDS, app
from bayesharm.cli.bids_app import to_command
from bayesharm.data.bids.derivative import check_names, matrix_path, read_participants
from bayesharm.data.bids.edges import Edges
from bayesharm.data.bids.output_folder import check_output, find_matrices, publish
from bayesharm.data.bids.scans import read_bids_scans
from bayesharm.errors import BayesharmError, InputError, RunFolderError

NAMES = {command.__name__.replace("_", "-") for command in COMMANDS}
runner = CliRunner()


def call(*args, code: int = 0):
    result = runner.invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def study(make_once) -> Path:
    """The folder ``bids`` with matrices of two atlases, and ``out``, made from it by the BIDS-App."""

    def make(folder: Path) -> None:
        root = write_dataset(folder / "bids")
        write_matrices(root, read_bids_scans(root).table["scan_id"].tolist())
        call(root, folder / "out", "group", "--atlas", "Tiny", "--preview", "--seed", "1", "--model", "traveling", "--quiet")

    return make_once("bids_app", make)


@pytest.fixture
def dataset(study, tmp_path) -> Path:
    """A copy of the raw dataset that a test may change."""
    return Path(shutil.copytree(study / "bids", tmp_path / "raw data"))


@pytest.fixture(scope="module")
def validator() -> str:
    """The BIDS validator, a program from PyPI."""
    program = Path(sys.executable).with_name("bids-validator-deno")
    found = str(program) if program.exists() else shutil.which(program.name)
    if found is None and os.environ.get("CI"):
        pytest.fail("the BIDS validator: got no program bids-validator-deno; install the extra 'dev'")
    return found or pytest.skip("the BIDS validator: got no program bids-validator-deno; install the extra 'dev'")


def read_matrix(folder: Path, scan: str, kind: str) -> pd.DataFrame:
    return pd.read_csv(folder / matrix_path(scan, "Tiny", kind), sep="\t", index_col="Node", na_values="n/a")


# ---- the derivative


def test_the_output_passes_the_bids_validator(study, validator, tmp_path):
    def errors_of(folder: Path) -> set[str]:
        result = subprocess.run([validator, "--format", "json", folder], capture_output=True, text=True, check=False)
        issues = json.loads(result.stdout)["issues"]["issues"]
        return {issue["code"] for issue in issues if issue["severity"] == "error"}

    assert errors_of(study / "out") == set() and errors_of(study / "bids") == set()
    broken = Path(shutil.copytree(study / "out", tmp_path / "broken"))
    (broken / ".bidsignore").unlink()
    assert errors_of(broken)  # the validator looks at these files


def test_every_scan_has_a_harmonized_matrix_and_its_uncertainty(study):
    out, scans = study / "out", read_bids_scans(study / "bids").table
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "dataset_description.json", "README.md", ".bidsignore", "participants.tsv", "participants.json",
        "scans.tsv", "scans.json", "report.html",
    }  # fmt: skip
    assert len(list(out.rglob("*_relmat.tsv"))) == len(list(out.rglob("*_relmat.json"))) == 2 * len(scans)
    for scan in scans["scan_id"]:
        mean, sd = (read_matrix(out, scan, kind) for kind in ("harmonized", "harmonizedsd"))
        assert list(mean.index) == list(mean.columns) == list(sd.columns) == REGIONS["Tiny"]
        known = mean.notna().to_numpy()
        assert np.array_equal(known, sd.notna().to_numpy())
        assert np.array_equal(mean, mean.T, equal_nan=True) and (np.diag(mean)[np.diag(known)] == 1).all()
        off = known & ~np.eye(len(mean), dtype=bool)
        assert known.all() == (scan != scans["scan_id"][0])  # a hole stays a hole, and makes no others
        assert off.sum() >= 12 and (np.abs(mean.to_numpy()[off]) < 1).all() and (sd.to_numpy()[off] > 0).all()


def test_matrices_are_those_of_harmonize(study):
    posterior = bayesharm.load_posterior(study / "out" / "run")
    assert posterior.run["data"]["scans"] == str((study / "out" / "scans.tsv").resolve())  # the run can be read again
    arguments = {**posterior.run["data"], "bad_features": "drop"}
    data = bayesharm.load_dataset(**arguments)
    with pytest.warns(UserWarning):
        harmonized = bayesharm.harmonize(posterior, data)
    edges = Edges.from_names(data.features.matrix.names.tolist())
    for k in (0, len(data.scans) - 1):
        for kind, values in (("harmonized", harmonized.mean), ("harmonizedsd", harmonized.sd)):
            matrix = read_matrix(study / "out", harmonized.scan_id[k], kind).to_numpy()
            places = edges.places_of(harmonized.names.tolist())
            np.testing.assert_allclose(matrix[edges.row, edges.column][places], values[k], rtol=1e-6)


def test_the_derivative_says_how_it_was_made(study):
    out = study / "out"
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "bayesharm"
    assert description["GeneratedBy"][0]["Version"] == bayesharm.__version__
    scan = "sub-01_ses-nara_task-rest"
    sidecar = json.loads((out / matrix_path(scan, "Tiny", "harmonized")).with_suffix(".json").read_text())
    assert sidecar["Scanner"] == "DISCOVERYMR750-Nara-1" and sidecar["Removed"] == "measurement" and sidecar["Preview"]
    name, _, path = sidecar["Sources"][0].removeprefix("bids:").partition(":")
    source = out / description["DatasetLinks"][name] / path
    assert source.is_file() and "atlas-Tiny" in source.name
    report = (out / "report.html").read_text()
    assert "PREVIEW" in report and "preview" in (out / "README.md").read_text()
    assert f"bayesharm harmonize {out / 'run'} " in report
    people = pd.read_csv(out / "participants.tsv", sep="\t")
    assert list(people.participant_id) == [f"sub-{n:02d}" for n in range(1, 7)] and "institution" in people


# ---- its command line


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("bids out group --atlas A", "bids-app bids out group --atlas A"),
        ("--atlas A --preview bids out group", "bids-app bids out group --atlas A --preview"),
        ("bids out group --participant_label 01 02 --preview", "bids-app bids out group --participant-label 01"
         " --participant-label 02 --preview"),
        ("bids out group --task-id=rest --model traveling", "bids-app bids out group --task-id=rest --model traveling"),
        ("fit scans.csv group --out x", "fit scans.csv group --out x"),
        ("bids-app bids out group", "bids-app bids out group"),
        ("bids-app b o group --session-id 1 2", "bids-app b o group --session-id 1 --session-id 2"),
        ("bids-app --help", "bids-app --help"),
        ("summary run", "summary run"),
        ("typo a b", "typo a b"),
        ("--help", "--help"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_form_of_a_bids_app_is_recognized(words, command):
    assert to_command(words.split(), NAMES) == command.split()


def test_the_participant_level_is_explained(dataset, tmp_path):
    assert "estimated from all participants together" in call(dataset, tmp_path / "out", "participant", code=2)
    assert not (tmp_path / "out").exists()


def refuse(dataset: Path, *options) -> str:
    """The error of a call, which leaves nothing behind."""
    out = dataset.parent / "out"
    text = call(dataset, out, "group", "--quiet", *options, code=2)
    assert not out.exists()
    return text


def test_bad_input_is_refused_before_anything_is_written(dataset):
    assert "There are several atlases" in refuse(dataset)
    assert "The BIDS folder does not exist" in refuse(dataset.parent / "absent")
    assert "Oops" in refuse(dataset, "--atlas", "Oops")
    assert "An entity cannot be used" in refuse(dataset, "--atlas", "Tiny", "--entity", "fsLR")
    assert "space" in refuse(dataset, "--atlas", "Tiny", "--entity", "space=fsLR")
    assert "correct --covariates" in refuse(dataset, "--atlas", "Tiny", "--covariates", "weight")
    assert "exclude each other" in refuse(dataset, "--scans", "scans.tsv", "--task-id", "rest")
    other_space = Path(shutil.copytree(dataset, dataset.parent / "spaces" / "raw"))
    write_matrices(other_space, ["sub-03_task-rest"], space="fsLR")
    assert "--entity space=fsLR" in refuse(other_space, "--atlas", "Tiny")
    func = dataset / "derivatives" / "xcp_d" / "sub-03" / "func"
    for path in func.glob("*Tiny*"):
        path.write_text(path.read_text()[:100])  # cut
    assert "sub-03" in refuse(dataset, "--atlas", "Tiny")
    shutil.copytree(dataset / "derivatives" / "xcp_d", dataset / "derivatives" / "other")
    assert "There are several folders with connectivity matrices" in refuse(dataset, "--atlas", "Tiny")
    shutil.rmtree(dataset / "derivatives")
    assert "There are no connectivity matrices" in refuse(dataset, "--atlas", "Tiny")


def test_the_scans_table_may_be_the_users(dataset, tmp_path):
    table = read_bids_scans(dataset).table
    table.assign(scan_id=[f"scan{k}" for k in range(len(table))]).to_csv(tmp_path / "scans.tsv", sep="\t", index=False)
    text = refuse(dataset, "--atlas", "Tiny", "--scans", tmp_path / "scans.tsv")
    assert "Some scan_id cannot be the beginning" in text or "No scan has its files" in text


def test_the_output_folder_holds_nothing_else(study, dataset, tmp_path):
    out = Path(shutil.copytree(study / "out", tmp_path / "out"))
    with pytest.raises(RunFolderError, match=r"already holds harmonized data"):
        check_output(out, dataset)
    check_output(out, dataset, overwrite=True)
    for folder in (dataset, dataset / "participants.tsv"):
        with pytest.raises(RunFolderError, match=r"other files"):
            check_output(folder, dataset, overwrite=True)
    (tmp_path / "interrupted" / "run").mkdir(parents=True)
    check_output(tmp_path / "interrupted", dataset)


def test_new_files_replace_those_of_an_earlier_call_and_no_others(study, tmp_path):
    out = Path(shutil.copytree(study / "out", tmp_path / "out"))
    (out / "notes.txt").write_text("mine")
    (out / ".unfinished" / "sub-99").mkdir(parents=True)
    (out / ".unfinished" / "dataset_description.json").write_text("{}")
    publish(out / ".unfinished", out)
    assert {path.name for path in out.iterdir()} == {"notes.txt", "run", "sub-99", "dataset_description.json"}


def test_own_output_is_not_taken_for_matrices(study, dataset):
    shutil.copytree(study / "out", dataset / "derivatives" / "harmonized")
    assert find_matrices(dataset, dataset / "out").name == "xcp_d"


# ---- edges


@pytest.mark.parametrize(
    "regions",
    [["a", "b", "c"], ["L_1", "L_1_1", "1_L_1", "_", "L"], ["x_x", "x", "x_x_x"], ["京_1", "b", "c_", "_d"], ["a", "b"]],
)
def test_regions_are_found_in_the_names_of_edges(regions, tmp_path):
    n = len(regions)
    names = [f"edge_{regions[i]}_{regions[j]}" for i in range(n) for j in range(i)]
    edges = Edges.from_names(names)
    assert edges.regions == regions and list(edges.places_of(names[::-1])) == list(range(len(names)))[::-1]
    values = np.arange(len(names)) / 10
    values[-1] = np.nan
    edges.write_matrix(tmp_path / "matrix.tsv", values, 1)
    matrix = pd.read_csv(tmp_path / "matrix.tsv", sep="\t", index_col="Node", na_values="n/a", keep_default_na=False)
    assert list(matrix.index) == list(matrix.columns) == regions
    np.testing.assert_array_equal(matrix.to_numpy()[np.tril_indices(n, -1)], values)


@pytest.mark.parametrize(
    "names", [["thickness_a", "thickness_b", "thickness_c"], ["edge_a_b"] * 3, ["edge_a_b", "edge_c_b"], []]
)
def test_other_features_are_no_edges(names):
    with pytest.raises(InputError, match=r"not the edges"):
        Edges.from_names(names)


def test_names_and_participants_are_checked_before_a_fit(dataset):
    check_names(["sub-01_task-rest", "sub-01_ses-a_acq-b+c_run-1"])
    for wrong in ("scan1", "sub-01/../x", "task-rest_sub-01", "", "sub-01__x"):
        with pytest.raises(InputError, match=r"scan_id"):
            check_names([wrong])
    with pytest.raises(BayesharmError, match=r"missing from participants.tsv"):
        read_participants(dataset, ["sub-01", "sub-99"])
