"""Tables of FreeSurfer and ENIGMA, and features tables that name their scans in a column of another name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from derivatives import make_scans, values_of, write_aparc

from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.errors import InputError

LABELS = [
    f"sub-{person}_ses-{session}" for person, session in zip(["01", "01", "01", "02", "03", "04"], "ABCABA", strict=True)
]
REGIONS = ["lh_bankssts_thickness", "lh_cuneus_thickness", "lh_insula_thickness"]


def make_thickness(seed: int = 3) -> np.ndarray:
    """Return three regions and their mean, (scan, column)."""
    values = np.random.default_rng(seed).normal(2.5, 0.2, (6, 4)).round(4)
    values[:, 3] = values[:, :3].mean(axis=1).round(4)
    return values


def scans_of(labels: list[str] = LABELS) -> pd.DataFrame:
    return make_scans().assign(scan_id=labels)


def load(features, scans=None, **options) -> Dataset:
    return load_dataset(scans_of() if scans is None else scans, features, check="apply", **options)


def refused(message: str, features, scans=None, **options) -> None:
    """The call is refused, and the error has all its parts."""
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        load(features, scans, **options)
    assert caught.value.got and caught.value.expected and caught.value.do


@pytest.mark.parametrize("delimiter", ["\t", ",", " ", ";"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("parcid_only", [False, True])
def test_aparcstats2table(tmp_path, delimiter, transpose, parcid_only):
    values = make_thickness()
    path = tmp_path / "lh.txt"
    write_aparc(path, "lh", LABELS, values, delimiter=delimiter, transpose=transpose, parcid_only=parcid_only)
    dataset = load(path, scans_of().iloc[::-1])
    assert dataset.features.names.tolist() == REGIONS
    np.testing.assert_array_equal(values_of(dataset), values[::-1, :3])
    assert dataset.scans["eTIV"].tolist() == [1500005.0, 1500004.0, 1500003.0, 1500002.0, 1500001.0, 1500000.0]
    assert dataset.reading["columns"] == ["lh_MeanThickness_thickness", "BrainSegVolNotVent", "eTIV"]
    assert "not features, but columns of the scans table" in dataset.reading["notes"][1]


@pytest.mark.parametrize("ending", [".txt", ".dat", ".tsv", ".csv", ".table"])
def test_endings_of_file_names(tmp_path, ending):
    write_aparc(tmp_path / f"lh{ending}", "lh", LABELS, make_thickness())
    assert load(tmp_path / f"lh{ending}").features.names.tolist() == REGIONS


def test_both_hemispheres_are_joined(tmp_path):
    left, right = make_thickness(), make_thickness(4)
    for hemisphere, values in (("lh", left), ("rh", right)):
        write_aparc(tmp_path / f"{hemisphere}.thickness.txt", hemisphere, LABELS, values, parcid_only=True)
    order = [5, 2, 0, 1, 4, 3]
    write_aparc(tmp_path / "rh.thickness.txt", "rh", [LABELS[k] for k in order], right[order])
    for features in (tmp_path, [tmp_path / "lh.thickness.txt", str(tmp_path / "rh.thickness.txt")]):
        dataset = load(features)
        assert dataset.features.names.tolist() == [*REGIONS, *(name.replace("lh_", "rh_") for name in REGIONS)]
        np.testing.assert_array_equal(values_of(dataset), np.hstack([left[:, :3], right[:, :3]]))
        assert sorted(dataset.reading["columns"])[:2] == ["BrainSegVolNotVent", "eTIV"]  # of both tables
    refused("a feature twice", [tmp_path / "lh.thickness.txt"] * 2)


def test_a_measure_and_a_parcellation_are_chosen(tmp_path):
    for measure in ("thickness", "area"):
        for parc in ("aparc", "aparc.a2009s"):
            write_aparc(tmp_path / f"lh.{parc}.{measure}.txt", "lh", LABELS, make_thickness(), measure=measure, parc=parc)
    refused("several measures.*'area', 'thickness'", tmp_path)
    refused("several atlases.*'aparc', 'aparc.a2009s'.*--atlas aparc", tmp_path, measure="thickness")
    dataset = load(tmp_path, measure="area", atlas="aparc.a2009s")
    assert dataset.features.names[0] == "lh_bankssts_area" and dataset.reading["atlas"] == "aparc.a2009s"


def test_asegstats2table(tmp_path):
    columns = ["Left-Hippocampus", "Right-Hippocampus", "5th-Ventricle", "CortexVol", "EstimatedTotalIntraCranialVol"]
    values = np.arange(30.0).reshape(6, 5) + 4000
    values[1, 0] = values[:, 2] = 0.0
    values[2, 2] = 1.5
    for corner in ("Measure:volume", "Measure.volume"):
        table = pd.DataFrame(values, index=pd.Index(LABELS, name=corner), columns=columns)
        table.to_csv(tmp_path / "aseg.txt", sep="\t")
        dataset = load(tmp_path / "aseg.txt")
        assert dataset.features.names.tolist() == columns[:3]
        expected = values[:, :3].copy()
        expected[1, 0] = np.nan  # the region is missing; a fifth ventricle may really have no volume
        np.testing.assert_array_equal(values_of(dataset), expected)
        assert dataset.reading["missing"] == {"missing in the file": 0, "zero (region missing)": 1}
    with_total = load(tmp_path / "aseg.txt", select=["Left-*", "CortexVol"])
    assert with_total.features.names.tolist() == ["Left-Hippocampus", "CortexVol"]


def test_longitudinal_labels_and_participants(tmp_path):
    path = tmp_path / "lh.txt"
    values = make_thickness()
    write_aparc(path, "lh", [f"{label}.long.{label.partition('_')[0]}" for label in LABELS], values)
    np.testing.assert_array_equal(values_of(load(path)), values[:, :3])
    by_columns = make_scans().drop(columns="scan_id")
    dataset = load(path, by_columns)
    np.testing.assert_array_equal(values_of(dataset), values[:, :3])
    assert dataset.reading["matched"] == "by the columns participant_id, session"
    people = by_columns.assign(participant_id=[f"p{k}" for k in range(6)]).drop(columns="session")
    write_aparc(path, "lh", [f"p{k}" for k in range(6)], values)
    np.testing.assert_array_equal(values_of(load(path, people)), values[:, :3])


def test_anatomical_rows_lack_the_task_and_the_run_of_the_scans(tmp_path):
    values = make_thickness()
    write_aparc(tmp_path / "lh.txt", "lh", LABELS, values)
    dataset = load(tmp_path / "lh.txt", make_scans())
    np.testing.assert_array_equal(values_of(dataset), values[:, :3])
    write_aparc(tmp_path / "lh.txt", "lh", ["sub-01", "sub-02", "sub-03", "sub-04"], values[2:])
    one_each = make_scans().iloc[2:]
    np.testing.assert_array_equal(values_of(load(tmp_path / "lh.txt", one_each)), values[2:, :3])
    refused("One row belongs to several scans.*sub-01", tmp_path / "lh.txt", make_scans())


def test_enigma(tmp_path):
    values = make_thickness()
    table = pd.DataFrame({"SubjID": [f"/data/freesurfer/{label}/" for label in LABELS]})
    table[["L_bankssts_thickavg", "R_cuneus_thickavg", "LThickness", "ICV"]] = values
    table = table.astype(object)
    table.loc[3, "R_cuneus_thickavg"] = "NA"
    path = tmp_path / "CorticalMeasuresENIGMA_ThickAvg.csv"
    table.to_csv(path, index=False)
    volumes = pd.DataFrame({"SubjID": LABELS, "Lthal": values[:, 0], "Lhippo": values[:, 1], "ICV": values[:, 3]})
    volumes.to_csv(tmp_path / "LandRvolumes.csv", index=False)
    refused("several measures.*'thickness', 'volume'", tmp_path)
    dataset = load(tmp_path, measure="thickness")
    expected = values[:, :2].copy()
    expected[3, 1] = np.nan
    np.testing.assert_array_equal(values_of(dataset), expected)
    assert dataset.reading["columns"] == ["LThickness", "ICV"]
    joined = load([path, tmp_path / "LandRvolumes.csv"])
    assert joined.features.names.tolist() == ["L_bankssts_thickavg", "R_cuneus_thickavg", "Lthal", "Lhippo"]
    table.loc[0, "L_bankssts_thickavg"] = "x"
    table.to_csv(path, index=False)
    refused("'x' in column 'L_bankssts_thickavg' of '/data/freesurfer/sub-01_ses-A/'", path)


def test_tables_that_cannot_be_used(tmp_path):
    path = tmp_path / "lh.txt"
    write_aparc(path, "lh", LABELS, make_thickness())
    whole = path.read_text()
    refused("2 of 6 rows without a scan.*--missing-files drop", path, scans_of().iloc[:4])
    assert load(path, scans_of().iloc[:4], missing_files="drop").features.n_scans == 4
    new = scans_of([*LABELS[:5], "new"]).replace({"participant_id": {"sub-04": "sub-05"}})
    refused("1 of 6 scans without rows \\('new'\\)", path, new)
    path.write_text(whole[:-40])
    refused("cells in line 7 of 7, 7 in the first", path)
    path.write_text(whole.splitlines()[0])
    refused("0 rows and 6 columns", path)
    path.write_text(whole + whole.splitlines()[1])
    refused("more than one row.*remove the repeated ones", path)
    path.write_text("lh.aparc.thickness\teTIV\n" + "\n".join(f"{label}\t1" for label in LABELS))
    refused("only measures of the whole brain", path)
    path.write_text('lh.aparc.thickness,"a\n"b\x00')
    refused("format|table|text", path)
    refused("not in a known format", [path, path])
    path.write_text(whole)
    (tmp_path / "other.txt").write_text("a\tb\n1\t2\n")
    refused("not in the format freesurfer.*'other.txt'", [path, tmp_path / "other.txt"])
    refused("not in the format enigma", path, format="enigma")
    refused("chosen atlas.*'x'.*'aparc'", path, atlas="x")
    refused("A file does not exist", tmp_path / "nowhere")


def test_a_table_with_a_label_column_of_another_name(tmp_path):
    values = make_thickness()
    table = pd.DataFrame(values, columns=list("abcd"))
    table.insert(0, "Site", "x")
    table.insert(1, "MRN", LABELS)
    for path in (tmp_path / "f.csv", tmp_path / "f.parquet"):
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
        for options in ({}, {"label_column": "MRN"}):
            dataset = load(path, scans_of().iloc[::-1], select=["a", "b"], **options)
            np.testing.assert_array_equal(values_of(dataset), values[::-1, :2])
    refused("does not identify its scans.*a column 'ID'.*label_column", tmp_path / "f.csv", label_column="ID")
    refused("does not identify its scans", tmp_path / "f.csv", make_scans())


@pytest.mark.parametrize("name", ["lh_thickness.txt", "lh_thickness.tsv"])
@pytest.mark.parametrize("options", [{}, {"label_column": "lh.aparc.thickness"}])
def test_the_case_aparcstats2table(data_dir: Path, name, options):
    case = data_dir.parent / "cases" / "aparcstats2table"
    dataset = load_dataset(case / "scans.csv", case / name, **options)
    table = pd.read_csv(case / name, sep="\t", index_col=0)
    assert dataset.features.names.tolist() == [f"lh_r{k}_thickness" for k in range(5)]
    np.testing.assert_array_equal(values_of(dataset), table.loc[dataset.scans["scan_id"], dataset.features.names])
    assert "eTIV" in dataset.scans


def test_the_phenotypic_table_of_abide(tmp_path):
    phenotypes = pd.DataFrame(
        {
            "X": range(1, 7),
            "SUB_ID": [50002, 50003, 50004, 51464, 51465, 51466],
            "FILE_ID": ["no_filename", "Pitt_0050003", "Pitt_0050004", "USM_0051464", "USM_0051465", "no_filename"],
            "SITE_ID": ["PITT"] * 3 + ["USM"] * 3,
            "DX_GROUP": [1, 1, 2, 1, 2, 2],
            "AGE_AT_SCAN": [16.8, 24.5, -9999, 19.1, 13.7, 14.5],
            "SEX": [1, 1, 2, 1, 1, 2],
        }
    )
    phenotypes.to_csv(tmp_path / "Phenotypic_V1_0b_preprocessed1.csv", index=False)
    values = np.random.default_rng(1).normal(size=(4, 3))
    features = pd.DataFrame(values, columns=["a", "b", "c"], index=phenotypes["FILE_ID"].iloc[1:5])
    features.rename_axis("scan_id").to_csv(tmp_path / "features.csv")
    dataset = load_dataset(tmp_path / "Phenotypic_V1_0b_preprocessed1.csv", tmp_path / "features.csv")
    np.testing.assert_array_equal(values_of(dataset), values)
    assert dataset.scans["participant_id"].tolist() == ["50003", "50004", "51464", "51465"]
    assert dataset.scans["scanner"].tolist() == ["PITT", "PITT", "USM", "USM"]
    assert dataset.scans["diagnosis"].tolist() == ["ASD", "HC", "ASD", "HC"]
    assert dataset.scans["sex"].tolist() == ["M", "F", "M", "M"] and np.isnan(dataset.scans["age"][1])
    assert "2 people without a scan" in dataset.reading["notes"][0]
    assert dataset.origin["scans"].endswith("preprocessed1.csv")


def test_a_npy_file_that_needs_pickle_is_refused(tmp_path):
    np.save(tmp_path / "features.npy", np.array([[{"a": 1}]] * 6, dtype=object))
    refused("cannot be read.*Python objects.*without pickled objects", tmp_path / "features.npy")


def test_an_identifier_that_is_a_number_beyond_all_integers(tmp_path):
    """Found by fuzzing: it ended in an error of pandas."""
    path = tmp_path / "lh.txt"
    write_aparc(path, "lh", LABELS, make_thickness())
    scans = pd.DataFrame({"scan_id": [2.0**63, 1.0], "participant_id": ["a", "b"], "scanner": ["X", "Y"]})
    refused("No scan has its rows.*'9223372036854775808', '1'", path, scans)
