"""The pages on 1000 Functional Connectomes and ON-Harmony: their commands run on the real data, with previews for fits."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bayesharm.cli.app import app

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"


def run_page(name: str, data: Path, folder: Path, monkeypatch) -> dict[str, str]:
    """Run the commands of a page in a folder, and return what each of them says."""
    page = (DOCS / f"{name}.md").read_text()
    (folder / f"{name}.csv").symlink_to(data / f"{name}.csv")
    monkeypatch.chdir(folder)
    said = {}
    for line in re.findall(r"^    bayesharm (.*)$", page, re.MULTILINE):
        command = [*shlex.split(line), *(["--preview"] if line.startswith("fit") else [])]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output, result.exception)
        said[command[0]] = " ".join(result.output.split())
    return said


@pytest.mark.slow
def test_from_one_csv_file_to_a_harmonized_csv_file(data_dir, tmp_path, monkeypatch):
    said = run_page("fcon1000", data_dir, tmp_path, monkeypatch)
    assert list(said) == ["check", "fit", "harmonize"]
    for finding in ("ICBM_sub10582", "3 of 1078 scans", "Confounded with the scanner: age (61%)", "± 0.17 sd of a feature"):
        assert finding in said["check"]
    table, harmonized = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("fcon1000", "harmonized"))
    regions = harmonized.columns.drop("scan_id")
    assert len(regions) == 148 and (harmonized["scan_id"] == table["sub_id"]).all()
    x = np.column_stack([pd.get_dummies(table["site"]), table[["age", "sex"]]]).astype(float)
    before, after = (np.linalg.lstsq(x, each[regions].to_numpy(), rcond=None)[0] for each in (table, harmonized))
    np.testing.assert_allclose(after[-2:], before[-2:], atol=1e-9)  # age and sex
    spread = [each[:-2].std(0, ddof=1).mean() for each in (before, after)]
    assert spread[0] == pytest.approx(0.122, abs=0.001) and spread[1] < 0.2 * spread[0]


@pytest.mark.slow
def test_all_measures_at_once(data_dir, tmp_path, monkeypatch):
    said = run_page("onharmony", data_dir, tmp_path, monkeypatch)
    assert "511 of 2,496 features lack scans: 4.80% of the values are missing." in said["fit"]
    assert "NOT3GEM (112 features)" in said["fit"] and "'T1w_spacing_x'" in said["fit"]
    table, harmonized = pd.read_csv(tmp_path / "onharmony.csv"), pd.read_parquet(tmp_path / "harmonized.parquet")
    measures = harmonized.columns.drop("scan_id", errors="ignore")
    assert len(measures) == 2496
    np.testing.assert_array_equal(harmonized[measures].isna(), table[measures].isna())
