"""Strange BIDS datasets: only bayesharm's own errors come out of them."""

import json
import os
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pandas as pd
from hypothesis import event, given, settings

from bayesharm.data.bids.edges import Edges
from bayesharm.data.bids.names import parse_name
from bayesharm.data.bids.scanners import PROTOCOL_FIELDS
from bayesharm.data.bids.scans import read_bids_scans
from bayesharm.data.bids.scans_files import write_scans
from bayesharm.errors import BayesharmError

EXAMPLES = int(os.environ.get("BAYESHARM_FUZZ_EXAMPLES", "60"))
LABELS = st.sampled_from(["01", "01", "1", "A", "é", "京", "a+b", "-", "", "x" * 60])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["n/a", "2.5", 10**400])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
SIDECARS = st.dictionaries(st.sampled_from([*PROTOCOL_FIELDS, "Odd"]), VALUES, max_size=6)
GOOD_SIDECARS = SIDECARS.map(lambda content: json.dumps({"StationName": "MR1", **content}).encode())
STRANGE_SIDECARS = st.binary(max_size=20) | st.sampled_from(
    [b"[" * 5000 + b"]" * 5000, b'{"EchoTime": ' + b"9" * 5000 + b"}", b'{"FlipAngle": NaN}', b"\xef\xbb\xbf{}", b"null"]
)
WORDS = [
    "sub-01",
    "sub-1",
    "01",
    "ses-A",
    "n/a",
    "",
    "participant_id",
    "session_id",
    "filename",
    "age",
    "scanner",
    "site",
    '"',
]
CELLS = st.sampled_from([*WORDS, "func/sub-01_bold.nii.gz"]) | st.text(max_size=4)
STRANGE_TABLES = st.lists(st.lists(CELLS, max_size=4), max_size=5)
GOOD_TABLES = st.lists(CELLS, min_size=1, max_size=4).map(
    lambda cells: [["participant_id", *cells], *([f"sub-{label}", *cells[::-1]] for label in ("01", "A", "é"))]
)
NAMES = st.tuples(
    LABELS,
    st.sampled_from(["", "_ses-A"]),
    st.sampled_from(["", "_task-rest", "_task-"]),
    st.sampled_from(["", "_run-1", "_run-01", "_echo-2"]),
    st.sampled_from(["bold", "bold", "scans", "sessions", "T1w"]),
    st.sampled_from([".nii.gz", ".nii", ".json", ".tsv", ""]),
).map(lambda parts: "sub-{}{}{}{}_{}{}".format(*parts))
FOLDERS = st.sampled_from(["", "sub-01", "sub-01/func", "sub-01/ses-A", "sub-01/ses-A/func", "sub-é/func", "sub-A/func"])
ROOT_FILES = st.sampled_from(["participants.tsv", "bold.json", "task-rest_bold.json", ".bidsignore", "participants.json"])
IMAGES = st.sampled_from(
    ["sub-01/func/sub-01_bold.nii.gz", "sub-A/func/sub-A_task-rest_bold.nii", "sub-01/sub-01_scans.tsv"]
)
FILES = st.lists(IMAGES | st.builds("{}/{}".format, FOLDERS, NAMES) | ROOT_FILES, max_size=9)


def content_of(path: Path):
    if path.suffix == ".json":
        return GOOD_SIDECARS | STRANGE_SIDECARS
    if path.suffix == ".tsv" or path.name == ".bidsignore":
        rows = GOOD_TABLES | STRANGE_TABLES
        return rows.map(lambda rows: "\n".join("\t".join(row) for row in rows).encode("utf-8", "surrogatepass"))
    return st.just(b"")


@settings(max_examples=EXAMPLES)
@given(files=FILES, data=st.data())
def test_a_strange_dataset_gives_a_table_or_an_error_of_ours(files, data):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data")
        root.mkdir()
        (root / "bold.json").write_bytes(data.draw(GOOD_SIDECARS))
        for name in files:
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.draw(content_of(path)))
        fields = st.lists(st.sampled_from(["EchoTime", "age", "Odd"]), min_size=1, max_size=2)
        try:
            found = read_bids_scans(root, scanner_by=data.draw(st.none() | fields))
            write_scans(found, Path(folder, "scans.tsv"), root)
        except BayesharmError as error:
            event(error.what[:30])
            assert error.what and error.do
            return
        event("a table")
        table = found.table
        assert table["scan_id"].is_unique and table["scanner"].notna().all()
        written = pd.read_csv(Path(folder, "scans.tsv"), sep="\t", dtype=str, keep_default_na=False)
        assert written["scan_id"].tolist() == table["scan_id"].tolist()  # no cell breaks a line


@given(st.text(max_size=30) | NAMES)
def test_any_name_can_be_parsed(name):
    parsed = parse_name(name)
    assert parsed is None or name.startswith(parsed.scan_id.partition("_")[0])


@given(st.lists(st.text(max_size=6) | st.sampled_from(["edge_a_b", "edge_c_a", "edge_c_b", "edge__"]), max_size=10))
def test_any_names_are_edges_or_refused(names):
    try:
        edges = Edges.from_names(names)
    except BayesharmError:
        return
    assert edges.places_of(names).tolist() == list(range(len(names)))


@given(st.lists(st.text("ab_", min_size=1, max_size=5), min_size=3, max_size=5, unique=True))
def test_regions_of_any_name_are_found(regions):
    names = [f"edge_{regions[i]}_{regions[j]}" for i in range(len(regions)) for j in range(i)]
    assert Edges.from_names(names).regions == regions
