"""Notebooks run from beginning to end, as a reader would run them."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, capsys):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # they would get out of date
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert "150 features" in printed and "inside their 90% intervals" in printed
    assert 0.8 < names["inside"].mean() < 0.97
    assert (names["table"]["se"] > names["table"]["se_plain"]).all() and names["table"]["lost"].mean() > 0.1
