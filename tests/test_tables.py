"""Tables as programs write them: other encodings, line ends and separators, numbers as text, Excel, SPSS, and no tables."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyreadstat
import pytest
from bad_tables import cases_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayesharm.data.dataset import load_dataset
from bayesharm.errors import BayesharmError, InputError
from bayesharm.io import text_format
from bayesharm.io.numbers import parse_numbers
from bayesharm.io.tables import read_table, table_columns

TABLE = pd.DataFrame(
    {
        "scan_id": ["001", "002", "003", "004"],
        "participant_id": ["p1", "p1", "Müller", "Müller"],
        "scanner": ["A", "B", "A", "B"],
        "age": [31.5, 31.5, 40, 40],
        "note": ['said "no"', "a,b", "c;d", "e\tf"],
        "f1": [1.25, 2.5, -3e-3, 4],
        "f2": [5.0, 6, 7, 9],
    }
)
ROWS = TABLE.drop(columns="note")


def as_text(frame: pd.DataFrame = TABLE, **options) -> str:
    return frame.to_csv(index=False, lineterminator="\n", **options)


def read(path: Path):
    return load_dataset(path, select="f*")


def same_as_plain(dataset, frame: pd.DataFrame = TABLE) -> None:
    plain = load_dataset(frame, select="f*")
    pd.testing.assert_frame_equal(dataset.scans.astype(object), plain.scans.astype(object))
    assert dataset.features.fingerprint() == plain.features.fingerprint()


# --- text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_line_ends_and_separators(tmp_path, encoding, end, separator):
    (tmp_path / "t.csv").write_bytes(as_text(sep=separator).replace("\n", end).encode(encoding))
    dataset = read(tmp_path / "t.csv")
    same_as_plain(dataset)
    assert [finding.code for finding in dataset.findings] == ["encoding"] * (encoding == "cp1252")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt", "dat"])
def test_the_separator_is_found_whatever_the_name_says(tmp_path, suffix):
    for separator in ",;\t|":
        path = tmp_path / f"{ord(separator)}.{suffix}"
        path.write_text(as_text(sep=separator))
        same_as_plain(read(path))
    path = tmp_path / f"blanks.{suffix}"
    path.write_text("\n".join("   ".join(line.split(",")) + "  " for line in as_text(ROWS).splitlines()))
    same_as_plain(read(path), ROWS)


def test_mixed_line_ends_empty_lines_and_the_line_of_excel(tmp_path):
    lines = as_text(sep=";").splitlines()
    (tmp_path / "t.csv").write_bytes(("sep=;\r\n" + "\r".join(lines[:3]) + "\n\n" + "\r\n".join(lines[3:])).encode())
    same_as_plain(read(tmp_path / "t.csv"))


def test_all_cells_in_quotes_and_line_ends_in_cells(tmp_path):
    noted = TABLE.assign(note=["two\nlines", "x", 'a "b"', "y"])
    (tmp_path / "t.csv").write_text(as_text(noted, quoting=1))
    same_as_plain(read(tmp_path / "t.csv"), noted)


def test_row_names_of_r_without_a_heading(tmp_path):
    text = as_text(ROWS, quoting=2, sep=" ").splitlines()
    (tmp_path / "t.txt").write_text("\n".join([text[0], *(f'"{k}" {line}' for k, line in enumerate(text[1:], 1))]))
    assert table_columns(tmp_path / "t.txt")[0] == "Unnamed: 0"
    dataset = read(tmp_path / "t.txt")
    same_as_plain(replace(dataset, scans=dataset.scans.drop(columns="Unnamed: 0")), ROWS)


def test_old_mac_line_ends(data_dir):
    path = cases_of(data_dir) / "cr-newlines" / "cr.csv"
    dataset = load_dataset(path, select="f*")
    expected = load_dataset(pd.read_csv(io.StringIO(path.read_bytes().decode().replace("\r", "\n"))), select="f*")
    assert len(dataset.scans) == 54 and dataset.features.fingerprint() == expected.features.fingerprint()


# --- what is no table


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"PK\x03\x04 rest", "no table of text.*Excel workbook"),
        ("t.csv", b"\x1f\x8b\x08rest", "gzip"),
        ("t.tsv", b"<!DOCTYPE html>\n<html>", "web page"),
        ("t.csv", b'{"a": 1}', "markup"),
        ("t.csv", b"%PDF-1.7", "PDF"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("t.csv", bytes(range(256)) * 9, "zero bytes"),
        ("t.csv", b"a,b\n1,\x002\n", "zero bytes"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n\r\n  \n", "is empty"),
        ("t.csv", b"a,b\n1,2\n3\n4,5\n", "(?s)cannot be read.*Row #3: Expected 2 columns, got 1"),
        ("t.csv", b'a,b\n1,"x\n2,y\n3,z\n', "quotation mark.*not closed"),
        ("t.csv", b"age,Age\n1,2\n", "(?s)more than once.*'age', 'Age'"),
        ("t.csv", b"age, age\n1,2\n", "more than once"),
        ("t.xlsx", b"PK\x03\x04 rest", "(?s)cannot be read.*save it again"),
        ("t.xlsx", b"", "cannot be read"),
        ("t.sav", b"$FL2 rest", "cannot be read"),
        ("t.sav", b"", "cannot be read"),
        ("t.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        read_table(tmp_path / name)
    assert caught.value.got and caught.value.do and len(str(caught.value)) < 2000


@pytest.mark.parametrize("suffix", ["csv", "xlsx", "sav", "parquet"])
def test_folders_and_loops_are_no_tables(tmp_path, suffix):
    (tmp_path / f"folder.{suffix}").mkdir()
    (tmp_path / f"loop.{suffix}").symlink_to(tmp_path / f"loop.{suffix}")
    for name, message in (("folder", "is no file.*\n.*a folder"), ("loop", "does not exist")):
        with pytest.raises(InputError, match=message):
            read_table(tmp_path / f"{name}.{suffix}")


@pytest.mark.parametrize("begin", ["", "a,b\n", 'a,b\n1,"'])
@pytest.mark.parametrize("cell", ["x", "1,"])
def test_a_line_of_megabytes_is_refused(tmp_path, monkeypatch, begin, cell):
    """At the true limit (64 million characters) such a file takes 0.2 s and 0.3 GB."""
    monkeypatch.setattr(text_format, "LONGEST_LINE", 1 << 20)
    (tmp_path / "t.csv").write_text(begin + cell * (1 << 20))
    with pytest.raises(InputError, match="too long"):
        read_table(tmp_path / "t.csv")


def test_a_file_is_read_anew_when_it_changes(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    assert table_columns(tmp_path / "t.csv") == ["a", "b"]
    (tmp_path / "t.csv").write_text("a;b;c\n1;2;3\n")
    assert table_columns(tmp_path / "t.csv") == ["a", "b", "c"]


# --- Excel and SPSS


def test_excel(tmp_path):
    path = tmp_path / "t.xlsx"
    TABLE.to_excel(path, index=False)
    same_as_plain(read(path))
    book = openpyxl.load_workbook(path)
    book.active.insert_rows(1, 2)  # empty rows above the heading
    book.create_sheet("other").append(["x"])
    book.save(path)
    dataset = read(path)
    same_as_plain(dataset)
    assert [finding.code for finding in dataset.findings] == ["sheets"] and "'other'" in dataset.findings[0].got
    for suffix in ("features", "scans"):
        TABLE[["scan_id", "f1", "f2"] if suffix == "features" else ["scan_id", "participant_id", "scanner"]].to_excel(
            tmp_path / f"{suffix}.xlsx", index=False
        )
    both = load_dataset(tmp_path / "scans.xlsx", tmp_path / "features.xlsx")
    assert both.features.fingerprint() == dataset.features.fingerprint()


def test_spss_values_with_labels_become_text_and_declared_missing_values_are_missing(tmp_path):
    path = tmp_path / "t.sav"
    frame = ROWS.assign(sex=[1.0, 1, 2, 2], score=[5.0, 6, -9, 7], iq=[100.0, 100, 999, 90], text=["a", "b", "c", "d"])
    pyreadstat.write_sav(
        frame,
        str(path),
        variable_value_labels={"sex": {1.0: "male", 2.0: "female"}, "score": {-9.0: "not done"}},
        missing_ranges={"iq": [999]},
    )
    dataset = read(path)
    assert dataset.scans.sex.tolist() == ["male", "male", "female", "female"]
    assert dataset.scans.score.tolist() == [5, 6, -9, 7] and dataset.scans.iq.isna().tolist() == [False, False, True, False]
    assert dataset.scans.scan_id.tolist() == ROWS.scan_id.tolist()
    assert [finding.code for finding in dataset.findings] == ["value-labels"]
    assert "score: numbers kept, of which some have labels: -9 (not done)" in dataset.findings[0].got


def test_optional_libraries_are_named_when_they_are_absent(tmp_path, monkeypatch):
    monkeypatch.setattr("bayesharm.io.spreadsheets.find_spec", lambda name: None)
    for suffix, library in (("xlsx", "openpyxl"), ("sav", "pyreadstat")):
        (tmp_path / f"t.{suffix}").write_bytes(b"PK\x03\x04")
        with pytest.raises(InputError, match=rf"needs {library}.*(?s:.*)bayesharm\[tables\]"):
            read_table(tmp_path / f"t.{suffix}")


# --- numbers


@pytest.mark.parametrize(
    ("text", "numbers", "rule"),
    [
        (["31,5", "40", ""], [31.5, 40, np.nan], "decimal commas"),
        (["0,123", "0,5"], [0.123, 0.5], "decimal commas"),
        (["1,234.5", "12", "1,000"], [1234.5, 12, 1000], "thousands"),
        (["1.234,5", "2,5"], [1234.5, 2.5], "thousands"),
        (["1,234,567", "2"], [1234567, 2], "thousands"),
        (["1'234", "12"], [1234, 12], "thousands"),
        (["1\u202f234", "99"], [1234, 99], "thousands"),
        (["72 y", "60 Y"], [72, 60], "unit 'y'"),
        (["72,5 y", "3,1 y"], [72.5, 3.1], "unit 'y' removed, decimal commas"),
        (["12%", "5 %"], [12, 5], "unit '%'"),
        (["\u22123", "4"], [-3, 4], ""),
        ([" 1e3", "+.5", "n/a"], [1000, 0.5, np.nan], ""),
    ],
)
def test_text_that_is_numbers(text, numbers, rule):
    read = parse_numbers(pd.Series(text))
    np.testing.assert_array_equal(read.values, numbers)
    assert read.rule.startswith(rule) if not rule.startswith("th") else "separators of thousands" in read.rule


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        (["1,234", "2,345"], "may be 1234 or 1.234"),
        (["72 y", "864 mo"], "different units"),
        (["72 y", "60"], "different units"),
        (["1,5", "1.234"], "points and commas"),
        (["3T", "1.5T"], ""),
        (["M", "F"], ""),
        (["1a", "2b"], ""),
        (["2020-01-01", "2021-01-01"], ""),
        (["-", "5"], ""),
        (["1.2.3", "4"], ""),
        (["inf", "1"], ""),
        (["0x10", "1_000"], ""),
    ],
)
def test_text_that_is_no_numbers(text, doubt):
    read = parse_numbers(pd.Series(text))
    assert read.values is None and doubt in read.doubt and bool(read.doubt) == bool(doubt)


@given(numbers=st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 2)), min_size=1, max_size=20))
def test_numbers_are_read_back_from_every_notation(numbers):
    expected = [float(f"{x:.2f}") for x in numbers]
    plain = [f"{x:.2f}" for x in numbers]
    commas, units = [text.replace(".", ",") for text in plain], [f"{text} mm" for text in plain]
    for text in (plain, commas, units, [f"{x:,.2f}" for x in numbers]):
        np.testing.assert_array_equal(parse_numbers(pd.Series(text)).values, expected)


def test_ages_as_text_are_numbers_wherever_they_come_from(data_dir, tmp_path):
    folder = cases_of(data_dir) / "numbers-as-text"
    right = load_dataset(folder / "age_ok.tsv", select="f*")
    frame = pd.read_csv(folder / "age_ok.tsv", sep="\t", dtype=str)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False, quoting=1)
    for source in (folder / "age_comma.tsv", frame, tmp_path / "t.parquet", tmp_path / "t.csv"):
        dataset = load_dataset(source, select="f*")
        np.testing.assert_array_equal(dataset.scans.age, right.scans.age)
        assert dataset.features.fingerprint() == right.features.fingerprint()
        has_commas = isinstance(source, Path) and source.name == "age_comma.tsv"
        assert [finding.code for finding in dataset.findings] == ["converted-numbers"] * has_commas


def test_features_with_decimal_commas_and_thousands(tmp_path):
    frame = ROWS.assign(f1=["1,25", "2,5", "-0,003", "4"], f2=["1,234.5", "2,000", "3", "1"])
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";")
    dataset = read(tmp_path / "t.csv")
    np.testing.assert_array_equal(dataset.features.read(0, 2), np.c_[ROWS.f1, [1234.5, 2000, 3, 1]])
    assert "'1,25' is 1.25" in dataset.findings[0].got and "'1,234.5' is 1234.5" in dataset.findings[0].got
    frame.assign(f2=["1,234", "2,000", "3,100", "1,000"]).to_csv(tmp_path / "t.csv", index=False, sep=";")
    with pytest.raises(InputError, match="'f2' is not numeric(?s:.*)'1,234' may be 1234 or 1.234"):
        read(tmp_path / "t.csv")
    frame.assign(f2=["1", "2", "failed", "4"]).to_csv(tmp_path / "t.csv", index=False, sep=";")
    with pytest.raises(InputError, match="'f2' is not numeric(?s:.*)'failed', in 1 of 4 scans, row '3'"):
        read(tmp_path / "t.csv")


def test_identifiers_stay_as_they_are(tmp_path):
    (tmp_path / "t.csv").write_text("scan_id,participant_id,scanner,f1\n001,007,1.5,1\n002,007,3.0,2\n1e5,0x1,3,5\n")
    scans = read(tmp_path / "t.csv").scans
    assert scans.scan_id.tolist() == ["001", "002", "1e5"] and scans.participant_id.tolist() == ["007", "007", "0x1"]
    assert scans.scanner.tolist() == ["1.5", "3.0", "3"]


def test_categories_of_pandas_stay_categories():
    frame = ROWS.assign(group=pd.Categorical(["1", "2", "1", "2"]))
    assert isinstance(load_dataset(frame, select="f*").scans.group.dtype, pd.CategoricalDtype)


# --- through the command


def test_the_command_names_all_problems_at_once_before_jax_and_writes_nothing(data_dir, tmp_path):
    table = cases_of(data_dir) / "placeholder-participant" / "unknown.csv"
    arguments = ["fit", str(table), "--features", "f*", "--covariates", "age,sex", "--out", str(tmp_path / "run")]
    script = (
        "import sys; from bayesharm.cli.app import main\n"
        f"sys.argv = ['bayesharm', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as error:\n    print('code', error.code, 'jax' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.strip().endswith("code 2 False"), run.stderr
    for part in ("3 problems", "'unknown' in 18 scans", "--accept placeholder-participant", "accept constants-differ"):
        assert part in run.stderr
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="3 problems"):
        import bayesharm

        bayesharm.fit(load_dataset(table, select="f*"), covariates=["age", "sex"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_caveats_are_on_the_screen_in_the_record_and_in_the_summary(tmp_path):
    from bad_tables import make_study
    from typer.testing import CliRunner

    from bayesharm.cli.app import app

    study = make_study(n_scanners=3, n_travelers=6, n_cohort=0, n_features=8)
    wrong = study.scans.assign(age=study.scans.age.mask(study.scans.scan_id == "scan0001", study.scans.age + 20))
    wrong.drop(columns="session").to_csv(tmp_path / "scans.csv", index=False, sep=";", decimal=",")
    study.features.to_csv(tmp_path / "features.csv")
    scans, features, run = (str(tmp_path / name) for name in ("scans.csv", "features.csv", "run"))
    arguments = ["fit", scans, features, "--model", "traveling", "--covariates", "age", "--preview", "--out", run]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and "--accept ages-differ" in refused.output and not (tmp_path / "run").exists()
    accepted = CliRunner().invoke(app, [*arguments, "--accept", "ages-differ"])
    assert accepted.exit_code == 0, accepted.output

    from bayesharm.analysis.summary import summarize
    from bayesharm.results.posterior import load_posterior

    posterior = load_posterior(tmp_path / "run")
    record = {finding["code"]: finding for finding in posterior.run["findings"]}
    assert set(record) == {"converted-numbers", "ages-differ"}
    assert record["ages-differ"]["participants"] == ["t00"]
    notes = " ".join(summarize(posterior).notes)
    for text in ("The ages of one participant_id are years apart", "Accepted by the user", "'age: decimal commas"):
        assert text in notes or text.replace("'", '"') in notes
        assert text in accepted.output or text.replace("'", '"') in accepted.output


# --- harmonized values


def test_negative_values_where_none_were_are_noted(data_dir):
    from posteriors import make_posterior

    from bayesharm.harmonization.harmonize import harmonize

    dataset = load_dataset(cases_of(data_dir) / "negative-counts" / "counts.csv", select="f*")
    posterior = make_posterior(features=tuple(dataset.features.names))  # 10 more on C than on B
    coded = dataset.features.read(0, 20)
    coded[3, 5] = -9999
    with pytest.warns(UserWarning):
        harmonized = harmonize(posterior, dataset)
        inverse = harmonize(posterior, dataset, inverse=True)
        with_code = harmonize(posterior, load_dataset(dataset.scans, pd.DataFrame(
            coded, pd.Index(dataset.scans.scan_id, name="scan_id"), dataset.features.names)))  # fmt: skip
    n_negative = int((harmonized.mean < 0).sum())
    (note,) = [note for note in harmonized.notes if "negative" in note]
    assert f"{n_negative} of 1,080 harmonized values, in {(harmonized.mean < 0).any(0).sum()} features" in note
    assert not any("negative" in note for note in inverse.notes)
    assert any("codes for 'missing' (-9999)" in note for note in with_code.notes)


def test_negative_values_are_normal_where_values_were_positive_by_chance():
    from bayesharm.harmonization.value_notes import ValueNotes

    rng = np.random.default_rng(0)
    fisher_z = rng.normal(0.25, 0.1, (120, 400))  # symmetric: some columns are positive by chance
    volumes = rng.lognormal(0, 0.8, (120, 50))
    counts = rng.poisson(3, (120, 50)).astype(float)
    assert 50 < (fisher_z.min(0) > 0).sum() < 390
    for values, is_amount in ((fisher_z, False), (volumes, True), (counts, True)):
        values[5, ::2] = np.nan
        notes = ValueNotes(may_be_amounts=True)
        notes.add(np.arange(values.shape[1]).astype(str), values, values - 0.5 * np.nanstd(values, 0))
        assert bool(notes.sentences()) == is_amount


# --- anything


CELLS = st.text(alphabet=st.sampled_from("abzä01 ,;\t\"'\n\r.-|\x00\ufeff\u2028é€=#+"), max_size=6)
ROWS_OF_CELLS = st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=6)


def never_another_error(path: Path) -> None:
    try:
        header = table_columns(path)
        assert len(set(header)) == len(header)
        read_table(path, text=header[:1])
        load_dataset(path, select="*", columns={"participant_id": header[0], "scanner": header[-1]})
    except BayesharmError as error:
        assert isinstance(error, InputError) and error.got


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=300),
        ROWS_OF_CELLS.map(lambda rows: "\n".join(map(",".join, rows)).encode()),
        ROWS_OF_CELLS.map(lambda rows: "\r".join(map(";".join, rows)).encode("utf-16")),
    ),
    suffix=st.sampled_from(["csv", "tsv", "txt", "dat", "xlsx", "sav", "parquet"]),
)
def test_no_file_raises_another_error(tmp_path, data, suffix):
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(data)
    never_another_error(path)
