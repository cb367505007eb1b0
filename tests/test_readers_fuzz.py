"""Damaged and invented derivatives: every reader gives a dataset or one of the package's own errors, nothing else.

``BAYESHARM_FUZZ=20000 pytest tests/test_readers_fuzz.py`` tries that many examples of each, other ones in every run.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from derivatives import (
    make_scans,
    write_aparc,
    write_conn,
    write_dpabi,
    write_giga_connectome,
    write_halfpipe,
    write_labels,
    write_xcp_d,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayesharm.data.dataset import load_dataset
from bayesharm.errors import InputError

EXAMPLES = int(os.environ.get("BAYESHARM_FUZZ", "40"))
fuzz = settings(
    max_examples=EXAMPLES,
    derandomize="BAYESHARM_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Text that such files hold, and text that they should not hold.
TOKENS = [
    b"\t", b"\n", b"\r", b",", b";", b" ", b'"', b"'", b"n/a", b"nan", b"inf", b"-inf", b"1e400", b"-9999", b"0", b"1",
    b"0.5", b"Node", b"index", b"name", b"lh.aparc.thickness", b"Measure:volume", b"eTIV", b"SubjID", b"\x00", b"\xff\xfe",
    b"\xef\xbb\xbf", "é日".encode(), b"#", b"sub-01", b".long.", b"-", b"_", b"/", b"\\", b"{", b"}", b"[", b"MATLAB 5.0",
    b"1.2.3", b"0x1p3", b"1_000",
]  # fmt: skip
edits = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 40), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=12)), st.integers(1, 3)
    ),
    min_size=1,
    max_size=5,
)
files = st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6)), max_size=30).map(b"".join)


def damage(content: bytes, changes: list[tuple[float, int, bytes, int]]) -> bytes:
    """Replace some bytes at some places by others."""
    for place, length, new, times in changes:
        at = int(place * len(content))
        content = content[:at] + new * times + content[at + length :]
    return content


def load(scans, source, **options) -> None:
    """Load a study, and read all its values; only our own errors may come out, and their text is short."""
    try:
        dataset = load_dataset(scans, source, check="apply", **options)
        dataset.features.read(0, dataset.features.n_features)
    except InputError as error:
        assert len(str(error)) < 5000


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> dict:
    """Make a folder of each tool: name -> folder, files to damage, scans, options."""
    root = tmp_path_factory.mktemp("derivatives")
    scans = make_scans()
    places = {"participant_id": [f"Sub_{label[4:]}" for label in scans["participant_id"]]}
    numbered = scans.assign(**places, session=[str("ABC".index(label) + 1) for label in scans["session"]])
    subjects = scans.assign(scan_id=[f"Subject{k + 1:03d}" for k in range(6)])
    labels = write_labels(root / "labels.tsv")
    write_xcp_d(root / "xcp_d")
    write_giga_connectome(root / "giga")
    write_halfpipe(root / "halfpipe")
    write_conn(root / "conn")
    write_dpabi(root / "dpabi")
    (root / "tables").mkdir()
    ids = scans["scan_id"].str.partition("_task")[0].tolist()
    for hemisphere in ("lh", "rh"):
        values = np.random.default_rng(1).normal(2.5, 0.1, (6, 4))
        write_aparc(root / "tables" / f"{hemisphere}.txt", hemisphere, ids, values)
    (root / "enigma").mkdir()
    table = pd.DataFrame({"SubjID": ids, "L_insula_thickavg": 2.5 + np.arange(6), "ICV": 1.0})
    table.to_csv(root / "enigma" / "Thick.csv", index=False)
    by_session = scans.assign(scan_id=ids)
    return {
        "xcp_d": (root / "xcp_d", "*relmat.tsv", scans, {}),
        "xcp_d reho": (root / "xcp_d", "*reho_bold.tsv", scans, {"measure": "reho"}),
        "xcp_d motion": (root / "xcp_d", "*motion.tsv", scans, {}),
        "description": (root / "xcp_d", "dataset_description.json", scans, {}),
        "giga": (root / "giga", "*relmat.tsv", scans, {"labels": labels}),
        "labels": (root, "labels.tsv", scans, {"labels": labels}),
        "halfpipe": (root / "halfpipe", "*correlation_matrix.tsv", scans, {"labels": labels}),
        "conn": (root / "conn", "*Subject002*.mat", subjects, {}),
        "dpabi": (root / "dpabi", "ROICorrelation_FisherZ_*.mat", numbered, {}),
        "dpabi key": (root / "dpabi", "*OrderKey*.tsv", numbered, {}),
        "freesurfer": (root / "tables", "*.txt", by_session, {}),
        "enigma": (root / "enigma", "*.csv", by_session, {}),
    }


NAMES = [
    "xcp_d", "xcp_d reho", "xcp_d motion", "description", "giga", "labels", "halfpipe", "conn", "dpabi", "dpabi key",
    "freesurfer", "enigma",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@fuzz
@given(changes=edits, whole=st.one_of(st.none(), st.none(), files))
def test_damaged_files(study, name, changes, whole):
    folder, pattern, scans, options = study[name]
    source = study["giga"][0] if name == "labels" else folder
    path = sorted(folder.rglob(pattern))[0]
    content = path.read_bytes()
    try:
        path.write_bytes(damage(content, changes) if whole is None else whole)
        load(scans, source, **options)
    finally:
        path.write_bytes(content)


words = st.one_of(
    st.sampled_from(["sub-01", "01", "A", "ses-A", "", "n/a", "sub-", "run-1", "sub-01_ses-A_task-rest_run-1"]),
    st.text(max_size=8),
)


@fuzz
@given(data=st.data())
def test_invented_scans_tables_and_options(study, data):
    folder, _, _, options = study[data.draw(st.sampled_from(NAMES))]
    n = data.draw(st.integers(0, 4))
    columns = {
        name: data.draw(st.lists(st.one_of(words, st.integers(0, 3), st.floats(), st.none()), min_size=n, max_size=n))
        for name in data.draw(st.sets(st.sampled_from(["scan_id", "session", "run", "task", "acq", "site"])))
    }
    for name in ("participant_id", "scanner"):
        columns[name] = data.draw(st.lists(words, min_size=n, max_size=n))
    given_options = {
        "atlas": data.draw(st.one_of(st.none(), words)),
        "measure": data.draw(st.one_of(st.none(), words)),
        "entities": data.draw(st.dictionaries(words, words, max_size=2)),
        "missing_files": data.draw(st.sampled_from(["error", "drop"])),
    }
    load(pd.DataFrame(columns), folder, **(options | given_options))


keys = st.sampled_from(
    ["sub", "ses", "task", "run", "atlas", "seg", "stat", "meas", "measure", "desc", "feature", "space", "x"]
)
values = st.sampled_from(
    ["01", "A", "rest", "pearsoncorrelation", "PearsonCorrelation", "correlation", "thickness", "", "-", "é"]
)
suffixes = st.sampled_from(
    [
        "relmat.tsv",
        "conmat.tsv",
        "matrix.tsv",
        "matrix.txt",
        "bold.tsv",
        "morph.tsv",
        "alff.tsv",
        "motion.tsv",
        "",
        ".",
        "relmat",
    ]
)


def join_parts(pairs: list[tuple[str, str]], end: str) -> str:
    return "_".join([*(f"{key}-{value}" for key, value in pairs), end])


file_names = st.one_of(
    st.builds(join_parts, st.lists(st.tuples(keys, values), max_size=6), suffixes),
    st.builds("resultsROI_Subject{}_Condition{}.mat".format, st.integers(), st.integers(0, 20)),
    st.builds("ROICorrelation_{}.{}".format, st.text("abS0_-é ", min_size=1, max_size=5), st.sampled_from(["mat", "txt"])),
)


@fuzz
@given(names=st.lists(file_names, min_size=1, max_size=5, unique=True), content=files)
def test_invented_file_names(tmp_path, names, content):
    folder = tmp_path / "invented"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name in names:
        if name.strip(". "):
            Path(folder, name.replace("/", "")).write_bytes(content)
    scans = pd.DataFrame({"participant_id": ["01", "A"], "scanner": ["X", "Y"]})
    for options in ({}, {"labels": folder / names[0]}, {"missing_files": "drop"}):
        load(scans, folder, **options)


@fuzz
@given(
    content=files,
    label=st.sampled_from([None, "Node", "lh.aparc.thickness", "x"]),
    name=st.sampled_from(["a.txt", "a.tsv", "a.csv"]),
)
def test_invented_tables(tmp_path, content, label, name):
    (tmp_path / name).write_bytes(content)
    load(make_scans(), tmp_path / name, label_column=label)
    load(make_scans(), tmp_path / name, format="freesurfer")
    load(make_scans(), [tmp_path / name, tmp_path / name])
