"""The page on the RPN study: its commands run on the real data, with a preview of some edges in place of the fit."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bayesharm.cli.app import app

PAGE = (Path(__file__).parents[1] / "docs" / "benchmarks" / "rpn.md").read_text()
STEPS = re.findall(r"^    bayesharm ([^\n]*)$|```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line) for line, _ in STEPS if line]
SHORT = ["--preview", "--features", "edge_*_CER6_p"]  # 121 edges, one of which has missing values


@pytest.fixture(scope="module")
def results(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rpn")
    for name in ("rpn_timeseries.npz", "rpn_scans.csv"):
        (folder / name).symlink_to(data_dir / name)
    outputs, variables = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line, block in STEPS:
            if block:
                exec(block, variables)
                continue
            command = shlex.split(line)
            if command[0] == "sources":
                continue  # a preview has no variance components
            result = CliRunner().invoke(app, [*command, *(SHORT if command[0] == "fit" else [])])
            assert result.exit_code == (command[0] == "check"), (command, result.output)
            outputs[command[0]] = result.output
    return folder, outputs, variables


def test_the_page_shows_the_whole_way():
    assert [command[0] for command in COMMANDS] == ["connectivity", "check", "fit", "summary", "sources", "harmonize"]


def test_connectivity_names_what_is_missing(results):
    folder, outputs, _ = results
    assert "119 scans × 7,381 edges of 122 regions" in outputs["connectivity"]
    assert "CER7b_l (8 scans)" in outputs["connectivity"]
    volumes = pd.read_csv(folder / "rpn_volumes.csv").set_index("scan_id")
    scans = pd.read_csv(folder / "rpn_scans.csv").set_index("scan_id")
    pd.testing.assert_series_equal(volumes["n_volumes"], scans["n_volumes"])
    assert scans["site"][volumes["n_missing_regions"] > 0].unique() == ["bochum"]


def test_the_check_says_what_cannot_be_separated(results):
    said = " ".join(results[1]["check"].split())
    assert "Model to use: cohort" in said and "cannot be told apart" in said
    assert "Correct the errors" in said and "--model" not in said  # two scans are there twice: no command yet
    assert "essen-004 of essen-004', 'essen-005 of essen-005'" in said


def test_the_caveat_is_said(results):
    for command in ("fit", "summary"):
        assert "measurement and sampling bias are not separable" in " ".join(results[1][command].split())
    assert "removing them also removes real differences" in results[1]["harmonize"]
    assert "Units: Fisher z." in results[1]["summary"] and "Values are r again" in results[1]["harmonize"]


def test_the_matrices_are_harmonized_correlations(results):
    folder, _, variables = results
    matrices, original = variables["matrices"], variables["found"].to_matrices()
    table = pd.read_csv(folder / "rpn_scans.csv")
    kept = ~table["scan_id"].isin(["essen-004", "essen-005"]).to_numpy()
    assert matrices.shape == (119, 122, 122) and np.isnan(matrices[~kept]).all()
    matrices, original, sites = matrices[kept], original[kept], table["site"][kept].to_numpy()
    fitted, complete = np.isfinite(matrices).any(0), np.isfinite(matrices).all(0)
    assert fitted.sum() == 2 * 121 and complete.sum() == 2 * 120 and np.nanmax(np.abs(matrices)) < 1
    np.testing.assert_array_equal(np.isnan(matrices[:, fitted]), np.isnan(original[:, fitted]))
    np.testing.assert_array_equal(matrices, matrices.swapaxes(1, 2))
    spread = [
        pd.DataFrame(np.arctanh(each[:, complete])).groupby(sites).mean().std().mean() for each in (original, matrices)
    ]
    assert spread[1] < 0.6 * spread[0]
