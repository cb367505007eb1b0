"""Notebooks run from beginning to end, as a reader would run them."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(name: str) -> dict[str, Any]:
    """Execute all cells; return the names that they define."""
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # they would get out of date
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    return names


@pytest.mark.slow
def test_first_study(capsys):
    names = run("first_study")
    printed = capsys.readouterr().out
    assert "60 features" in printed and "inside their 90% intervals" in printed
    assert 0.8 < names["inside"].mean() < 0.97
    assert (names["table"]["se"] > names["table"]["se_plain"]).all() and names["table"]["lost"].mean() > 0.1


@pytest.mark.slow
def test_network_mean(capsys):
    table = run("network_mean")["table"]
    assert "carry the information of about" in capsys.readouterr().out
    independent, joint, error = (table[name] for name in ("sd, independent edges", "sd, joint draws", "actual error (rms)"))
    # 20 edges that share half of their noise: their mean has √(20 (0.5 + 0.5 / 20)) = 3.2 times the sd of independent ones
    assert (joint > 2 * independent).all()
    assert (error > 1.5 * independent).all() and (error < 1.6 * joint).all()


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {"first_study", "network_mean"}
