"""The commands of docs/how-to/other_tools.md read the folders and tables that the page describes."""

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from derivatives import (
    SESSIONS,
    make_scans,
    write_aparc,
    write_conn,
    write_dpabi,
    write_giga_connectome,
    write_halfpipe,
    write_labels,
    write_xcp_d,
)

from bayesharm.cli.app import app
from bayesharm.cli.input import read_dataset
from bayesharm.cli.options import DerivativeOptions

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "other_tools.md"
COMMANDS = re.findall(r"^ {4}bayesharm ((?:fit|evaluate) .*)$", PAGE.read_text(), re.MULTILINE)
READING = ("atlas", "measure", "entity", "labels", "label_column", "input_format", "missing_files")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Make everything that the page names, in one folder."""
    root = tmp_path_factory.mktemp("study")
    scans = make_scans()
    scans.to_csv(root / "scans.tsv", sep="\t", index=False)
    subjects = scans.assign(scan_id=[f"Subject{k + 1:03d}" for k in range(6)])
    subjects.to_csv(root / "conn_scans.tsv", sep="\t", index=False)
    people = scans.drop(columns="scan_id").assign(
        participant_id=[f"Sub_{person}" for person, _, _ in SESSIONS],
        session=["ABC".index(session) + 1 for _, session, _ in SESSIONS],
    )
    people.to_csv(root / "dpabi_scans.tsv", sep="\t", index=False)
    labels = [f"sub-{person}_ses-{session}" for person, session, _ in SESSIONS]
    scans.assign(scan_id=labels).to_csv(root / "freesurfer_scans.tsv", sep="\t", index=False)
    write_labels(root / "labels.tsv")
    write_labels(root / "aal.tsv", [3, 13, 23, 33, 43])
    write_xcp_d(root / "derivatives" / "xcp_d", atlases=("4S156Parcels", "Gordon"))
    write_giga_connectome(root / "derivatives" / "giga_connectome")
    write_halfpipe(root / "derivatives" / "halfpipe", features=("corrMatrix1", "reg"))
    write_conn(root)
    write_dpabi(root / "dparsf")
    (root / "tables").mkdir()
    values = np.random.default_rng(1).normal(2.5, 0.1, (6, 4))
    for hemisphere in ("lh", "rh"):
        for measure in ("thickness", "area"):
            path = root / "tables" / f"{hemisphere}.aparc.{measure}.txt"
            write_aparc(path, hemisphere, labels, values, measure=measure)
    (root / "enigma").mkdir()
    for name, ending in (("ThickAvg", "thickavg"), ("SurfAvg", "surfavg")):
        table = pd.DataFrame({"SubjID": labels, f"L_insula_{ending}": values[:, 0], "ICV": values[:, 1]})
        table.to_csv(root / "enigma" / f"CorticalMeasuresENIGMA_{name}.csv", index=False)
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_read_what_the_page_says(study, command, monkeypatch):
    monkeypatch.chdir(study)
    name, *arguments = shlex.split(command)
    values = typer.main.get_command(app).commands[name].make_context(name, arguments).params
    options = DerivativeOptions(**{key: values[key] for key in READING})
    dataset = read_dataset(Path(values["scans"]), Path(values["features"]), None, {}, check="apply", **options.arguments)
    assert dataset.features.n_scans == 6
    assert np.isfinite(dataset.features.read(0, dataset.features.n_features)).any()
    assert dataset.reading["notes"]


def test_the_page_has_a_command_for_each_tool():
    assert len(COMMANDS) >= 8 and os.path.exists(PAGE)
