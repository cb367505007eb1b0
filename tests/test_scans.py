"""Reading the scans table: its columns, identifiers and refusals."""

import numpy as np
import pandas as pd
import pytest

from bayesharm.data.scans import name_columns, read_scans
from bayesharm.errors import InputError
from bayesharm.io.tables import read_table, to_labels


def refused(message: str, call, *arguments, **options) -> None:
    """The call is refused, and the error has all its parts."""
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        call(*arguments, **options)
    assert caught.value.got and caught.value.expected and caught.value.do


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "scan_id": ["001", "002", "003", "004"],
            "participant_id": ["01", "01", "02", "03"],
            "scanner": ["A", "B", "A", "B"],
            "diagnosis": ["HC", "HC", "MDD", "None"],
            "age": [20, 20, 31, 42],
        }
    )


def save(frame: pd.DataFrame, path) -> str:
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False, encoding="utf-8-sig")
    return str(path)


@pytest.mark.parametrize("name", ["scans.csv", "scans.tsv", "scans.parquet", "SCANS.CSV"])
def test_files_of_every_format_give_the_same_table(table, tmp_path, name):
    path = tmp_path / name
    if name.isupper():
        save(table, path.with_suffix(".csv")), path.with_suffix(".csv").rename(path)
    else:
        save(table, path)
    pd.testing.assert_frame_equal(read_scans(path), read_scans(table), check_dtype=False)


def test_identifiers_stay_text_and_covariates_numbers(table, tmp_path):
    scans = read_scans(save(table, tmp_path / "scans.csv"))
    assert scans["scan_id"].tolist() == ["001", "002", "003", "004"]
    assert scans["participant_id"].tolist() == ["01", "01", "02", "03"]
    assert scans["diagnosis"].tolist()[-1] == "None"
    assert scans["age"].dtype.kind == "i"
    assert scans["site"].tolist() == scans["scanner"].tolist()
    assert list(scans.columns) == ["scan_id", "participant_id", "scanner", "site", "diagnosis", "age"]


def test_a_scanner_may_be_called_na(table, tmp_path):
    table["scanner"] = ["NA", "B", "NA", "B"]
    assert read_scans(save(table, tmp_path / "scans.csv"))["scanner"].tolist() == ["NA", "B", "NA", "B"]


def test_columns_are_mapped(table):
    renamed = table.rename(columns={"participant_id": "subject", "scanner": "machine", "age": "Age"}).assign(site="x")
    scans = read_scans(renamed, {"participant_id": "subject", "scanner": "machine", "site": "machine", "age": "Age"})
    pd.testing.assert_frame_equal(scans, read_scans(table))


def test_number_identifiers_lose_no_digits_and_gain_no_fraction():
    assert to_labels([1.0, 20.0])[0].tolist() == ["1", "20"]
    assert to_labels(np.array([10**17 + 1]))[0].tolist() == ["100000000000000001"]
    assert to_labels(np.array([b"a", b"b"]))[0].tolist() == ["a", "b"]
    assert to_labels([" x ", None, "n/a", "", np.nan])[1].tolist() == [False, True, True, True, True]


def test_scan_ids_are_made_when_there_are_none(table):
    assert read_scans(table.drop(columns="scan_id"))["scan_id"].tolist() == ["0", "1", "2", "3"]
    assert read_scans(table.set_index("scan_id"))["scan_id"].tolist() == ["001", "002", "003", "004"]


def test_traveling_is_read_as_yes_or_no(table):
    for values in (
        ["yes", "no", "No", "Yes"],
        [1, 0, 0, 1],
        [True, False, False, True],
        [1.0, 0.0, 0.0, 1.0],
    ):
        assert read_scans(table.assign(traveling=values))["traveling"].tolist() == [True, False, False, True]
    refused(
        "'traveling' must contain yes or no.*'perhaps'",
        read_scans,
        table.assign(traveling=["yes", "perhaps", "no", "no"]),
    )


def test_the_input_is_not_modified(table, tmp_path):
    before, path = table.copy(deep=True), save(table, tmp_path / "scans.csv")
    content = (tmp_path / "scans.csv").read_bytes()
    scans = read_scans(table)
    scans["age"] = 0
    read_scans(path, {"site": "scanner"})
    pd.testing.assert_frame_equal(table, before)
    assert (tmp_path / "scans.csv").read_bytes() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.rename(columns={"scanner": "scaner"}),
            r"no column 'scanner'.*'scaner', .*--scanner.*mean 'scaner'",
        ),
        (
            lambda t: t.drop(columns="participant_id"),
            r"no column 'participant_id'.*got.*'age'.*--participant in",
        ),
        (lambda t: t.iloc[:0], r"no rows.*got: 5 columns, 0 rows"),
        (lambda t: t.assign(scan_id="a"), r"more than once.*got: 1 repeated scan_id: 'a'"),
        (lambda t: t.assign(scanner="A"), r"one scanner.*got: scanner 'A' only.*expected.*two or more"),
        (
            lambda t: t.assign(diagnosis=["HC", None, "", "x"]),
            r"missing in column 'diagnosis'.*2 of 4 rows.*: '2', '3' ",
        ),
        (
            lambda t: t.assign(scanner=["A", "B", "n/a", "A"]),
            r"missing in column 'scanner'.*: '3' below the heading",
        ),
        (lambda t: t.assign(participant_id=["NA", "NA", "1", "2"]), r"seem to be missing.*'NA' in 2 rows"),
        (
            lambda t: t.set_axis(["scan_id", "age", "scanner", "x", "age"], axis=1),
            r"names.*more than once.*'age'",
        ),
    ],
)
@pytest.mark.parametrize("form", ["frame", "csv"])
def test_refused(table, tmp_path, change, message, form):
    changed = change(table)
    source = changed if form == "frame" else save(changed, tmp_path / "scans.csv")
    refused(message, read_scans, source)


def test_refused_mappings(table):
    refused(
        "no column 'subject' for 'participant_id'.*'scanner'",
        read_scans,
        table,
        {"participant_id": "subject"},
    )
    refused("'participant' is not a name.*write 'participant_id'", read_scans, table, {"participant": "scan_id"})
    refused("no column 'Age' for 'age'", read_scans, table, {"age": "Age"})


def test_applying_needs_neither_two_scanners_nor_unique_scans(table):
    scans = read_scans(table.assign(scanner="A", scan_id="x"), check="apply")
    assert scans["scan_id"].tolist() == ["x"] * 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scans.csv", b"", r"is empty.*expected: a heading"),
        ("scans.csv", b"scan_id,participant_id,scanner\n", r"no rows"),
        ("scans.csv", b"scan_id,participant_id,scanner", r"no rows"),
        ("scans.csv", b"participant_id,scanner\n1,2\n1,2,3\n", r"cannot be read.*got: .*scans.csv"),
        ("scans.csv", b"participant_id,scanner\n1,2\n1\n", r"cannot be read.*got: .*scans.csv"),
        ("scans.csv", b"scan_id#participant_id#scanner\n1#2#3\n", r"no column.*separate the columns by commas"),
        ("scans.parquet", b"not parquet", r"cannot be read.*expected: a readable parquet file"),
        ("scans.xls", b"", r"format of the scans table is unknown.*ending in .csv, .tsv, .txt, .dat, .parquet"),
        ("missing.csv", None, r"does not exist.*missing.csv.*current folder"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(message, read_scans, tmp_path / name)


def test_columns_without_heading_and_dots_in_names(tmp_path):
    (tmp_path / "t.csv").write_text(",a\n1,2\n")
    assert list(read_table(tmp_path / "t.csv").columns) == ["Unnamed: 0", "a"]
    pd.DataFrame({"a": [1], "a.b": [2]}).to_parquet(tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet", columns=["a"]).columns) == ["a"]


def test_text_files_are_read_to_the_letter_and_the_last_digit(tmp_path):
    (tmp_path / "t.csv").write_text(
        '\ufeffid,"long, name",x,empty,note\nNA,"a\nb",0.1,,None\n\n"007", c ,n/a,,NA\nNone,d,1.2345678901234567e-5,,b\n'
    )
    frame = read_table(tmp_path / "t.csv", text=["id"])
    assert frame["id"].tolist() == ["NA", "007", "None"]
    assert frame["long, name"].tolist() == ["a\nb", " c ", "d"]
    assert frame["x"].tolist()[::2] == [0.1, 1.2345678901234567e-5] and np.isnan(frame["x"][1])
    assert frame["empty"].isna().all() and frame["empty"].dtype.kind == "f"
    assert frame["note"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("column", ["scanner", "site", "diagnosis"])
def test_names_that_differ_in_capitals_or_spaces_only_are_refused(column):
    table = pd.DataFrame({"participant_id": list("abcd"), "scanner": list("AABB"), "site": list("AABB"), "diagnosis": "HC"})
    table.loc[1, column] = f" {table.loc[0, column].lower()} "
    with pytest.raises(InputError, match=f"'{column}' differ only in capitals or spaces"):
        read_scans(table)


def test_messages_name_the_site_only_where_the_table_has_one():
    table = pd.DataFrame({"participant_id": list("abcd"), "scanner": list("ABAB"), "age": [30, 40, 50, 60]})
    assert name_columns(read_scans(table)) == "columns 'scan_id', 'participant_id', 'scanner', 'age'"
    assert "'site', 'age'" in name_columns(read_scans(table.assign(site=list("XXYY"))))
