"""Scans and features together: aligned by scan_id, or refused with a message that helps."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.errors import InputError

N = 6
NAMES = ["t_a", "t_b", "v_a", "v_b"]
ONHARMONY = {"participant_id": "subject", "scanner": "scanner_typeloc"}


def make_scans() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "scan_id": [f"{i:03d}" for i in range(N)],
            "participant_id": ["p1", "p1", "p2", "p2", "p3", "p4"],
            "scanner": ["A", "B"] * 3,
            "age": [20.0, 20, 30, 30, 40, 50],
        }
    )


def make_values() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(N, len(NAMES)))


def make_table() -> pd.DataFrame:
    return pd.DataFrame(make_values(), columns=NAMES).assign(scan_id=make_scans()["scan_id"])


def all_values(dataset: Dataset) -> np.ndarray:
    return dataset.features.read(0, dataset.features.n_features)


def refused(message: str, *arguments, **options) -> None:
    """The call is refused, and the error has all its parts."""
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        load_dataset(*arguments, **options)
    assert caught.value.got and caught.value.expected and caught.value.do


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "frame", "index", "indexed parquet", "npz"])
def test_labelled_features_are_brought_into_the_order_of_the_scans(tmp_path, form):
    shuffled = make_table().sample(frac=1, random_state=1)
    path = tmp_path / f"features.{form.split()[-1]}"
    if form == "csv":
        shuffled.to_csv(path)  # with a column without heading, which is no feature
    elif form == "tsv":
        shuffled.to_csv(path, sep="\t", index=False)
    elif form == "parquet":
        shuffled.to_parquet(path)
    elif form == "indexed parquet":
        shuffled.set_index("scan_id").rename_axis("session").to_parquet(path)
    elif form == "npz":
        np.savez(path, features=shuffled[NAMES], names=NAMES, scan_id=shuffled["scan_id"].to_numpy(str))
    source = {"frame": shuffled, "index": shuffled.set_index("scan_id").rename_axis("session")}.get(form, path)
    dataset = load_dataset(make_scans(), source)
    np.testing.assert_array_equal(all_values(dataset), make_values())
    assert dataset.features.names.tolist() == NAMES
    assert dataset.scans["scan_id"].tolist() == make_scans()["scan_id"].tolist()
    assert dataset.dropped == {}


@given(order=st.permutations(range(N)), scan_order=st.permutations(range(N)))
def test_shuffling_labelled_features_changes_nothing(order, scan_order):
    scans = make_scans().iloc[list(scan_order)]
    dataset = load_dataset(scans, make_table().iloc[list(order)])
    np.testing.assert_array_equal(all_values(dataset), make_values()[list(scan_order)])
    assert dataset.features.fingerprint() == load_dataset(scans, make_table()).features.fingerprint()


@pytest.mark.parametrize("labelled", [True, False])
def test_a_bare_array_is_taken_in_the_order_of_the_table(tmp_path, labelled):
    np.save(tmp_path / "features.npy", make_values().astype(np.float32))
    scans = make_scans() if labelled else make_scans().drop(columns="scan_id")
    dataset = load_dataset(scans, tmp_path / "features.npy")
    np.testing.assert_array_equal(all_values(dataset), make_values().astype(np.float32))
    assert dataset.features.dtype == np.float32
    assert dataset.features.names.tolist() == [f"feature_000{i}" for i in range(4)]
    chosen = load_dataset(scans, tmp_path / "features.npy", select="feature_*[13]")
    np.testing.assert_array_equal(all_values(chosen), all_values(dataset)[:, [1, 3]])


@pytest.mark.parametrize("form", ["frame", "csv", "parquet"])
def test_a_wide_table_needs_no_scan_id(tmp_path, form):
    wide = make_scans().drop(columns="scan_id").join(make_table()[NAMES])
    path = tmp_path / f"wide.{form}"
    if form != "frame":
        wide.to_csv(path, index=False) if form == "csv" else wide.to_parquet(path)
    source = wide if form == "frame" else path
    dataset = load_dataset(source, select=["t_*", "v_b"])
    np.testing.assert_array_equal(all_values(dataset), make_values()[:, [0, 1, 3]])
    assert dataset.scans["scan_id"].tolist() == [str(i) for i in range(N)]
    assert list(dataset.scans.columns) == ["scan_id", "participant_id", "scanner", "site", "age", "v_a"]


def test_a_mapped_scan_id_labels_both(tmp_path):
    scans, table = (frame.rename(columns={"scan_id": "session"}) for frame in (make_scans(), make_table()[::-1]))
    table.to_csv(tmp_path / "features.csv", index=False)
    for features in (tmp_path / "features.csv", make_table()[::-1]):
        dataset = load_dataset(scans, features, columns={"scan_id": "session"})
        np.testing.assert_array_equal(all_values(dataset), make_values())


def test_features_are_chosen_from_a_table_with_other_columns():
    table = make_table().assign(age=1, note="x")
    refused("in both the features table and the scans table.*got: 'age'.*select", make_scans(), table)
    refused("'note' is not numeric", make_scans(), table.drop(columns="age"))
    assert load_dataset(make_scans(), table, select="t_*").features.names.tolist() == ["t_a", "t_b"]


def test_inputs_are_never_modified(tmp_path):
    paths = [
        tmp_path / "scans.csv",
        tmp_path / "features.npy",
        tmp_path / "features.csv",
        tmp_path / "f.parquet",
    ]
    values = make_values()
    values[2, 1] = np.nan
    make_scans().to_csv(paths[0], index=False)
    np.save(paths[1], values)
    make_table().to_csv(paths[2], index=False)
    make_table().to_parquet(paths[3])
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    for features in paths[1:]:
        dataset = load_dataset(paths[0], features, bad_features="drop")
        all_values(dataset)[:] = 0
        dataset.scans["age"] = 0
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    scans, table, copy = make_scans(), make_table(), values.copy()
    dataset = load_dataset(scans, table)
    all_values(dataset)[:] = 0
    dataset.scans["age"] = 0
    load_dataset(scans, values, bad_features="drop")
    pd.testing.assert_frame_equal(scans, make_scans())
    pd.testing.assert_frame_equal(table, make_table())
    np.testing.assert_array_equal(values, copy)


def test_features_and_scans_that_do_not_align(tmp_path):
    scans, table, values = make_scans(), make_table(), make_values()
    refused(r"do not align.*shape \(5, 4\) for a table of 6 scans.*expected: one row per scan", scans, values[:5])
    refused(r"look transposed.*got: features of shape \(4, 6\).*array\.T", scans, values.T)
    refused(r"look transposed.*columns named after scans", scans, table.set_index("scan_id").T)
    turned = table.set_index("scan_id").T.rename_axis("scan_id").reset_index().rename_axis(None, axis=1)
    turned.to_csv(tmp_path / "turned.csv", index=False)
    refused("look transposed.*transpose the table", scans, tmp_path / "turned.csv")
    refused(r"do not align.*1 scans without features \('005'\).*features of 0 scans", scans, table[:5])
    refused(r"do not align.*0 scans without.*of 1 scans .*\('005'\)", scans[:5], table)
    refused("001 is not 1", scans, table.assign(scan_id=range(N)))
    refused("more than once in the features.*got: 1 repeated: 'x'", scans, table.assign(scan_id="x"))
    refused("rows without 'scan_id'.*got: no value in row.*'0'", scans, table.assign(scan_id=[None, *"12345"]))
    refused("does not identify its scans.*a column 'scan_id'", scans, table[NAMES])
    refused("have a scan_id, but the scans table has none", scans.drop(columns="scan_id"), table)
    refused("Some scans are in the scans table more than once", scans.assign(scan_id="x"), table, check="apply")


def test_missing_values_are_kept_dropped_or_refused():
    values = make_values()
    values[[1, 3], 1] = np.nan
    dataset = load_dataset(make_scans(), values)
    np.testing.assert_array_equal(all_values(dataset), values)
    assert (dataset.n_missing, dataset.dropped, dataset.dropped_scans) == (2, {}, {})
    dataset = load_dataset(make_scans(), values, missing="drop-features")
    np.testing.assert_array_equal(all_values(dataset), values[:, [0, 2, 3]])
    assert dataset.dropped == {"feature_0001": "missing in 2 of 6 scans"} and dataset.n_missing == 0
    dataset = load_dataset(make_scans(), values, missing="drop-scans")
    np.testing.assert_array_equal(all_values(dataset), values[[0, 2, 4, 5]])
    assert dataset.dropped_scans == {name: "lacks 1 of 4 features" for name in ("001", "003")}
    refused(
        r"missing in 1 of 4 features.*got: 2 missing values, in features 'feature_0001', in 2 of 6 scans: '001', '003'"
        r".*--missing in the shell",
        make_scans(),
        values,
        missing="error",
    )
    scanners = make_scans().assign(scanner=["A", "B", "A", "B", "A", "A"])
    refused("All scans are from one scanner", scanners, values, missing="drop-scans")
    values[np.arange(4), np.arange(4)] = np.nan
    refused("Every feature has missing values.*--missing model", make_scans(), values, missing="drop-features")
    values[4] = np.nan
    refused("Nearly every scan lacks some feature", make_scans(), values, missing="drop-scans")
    values[:, 2], values[:, 3] = np.nan, [np.nan, 7, 7, np.nan, np.nan, 7]
    assert load_dataset(make_scans(), values).dropped == {
        "feature_0002": "missing in 6 of 6 scans",
        "feature_0003": "constant (7 in every scan that has it), missing in 3 of 6 scans",
    }
    refused("No feature has two different values", make_scans(), values[:, 2:])


def test_infinite_and_constant_values_are_refused_or_dropped():
    values = make_values()
    values[3, 2] = np.inf
    refused(
        r"infinite in 1 of 4 features.*got: 1 such values, in features 'feature_0002', in scans '003'.*--bad-features drop",
        make_scans(),
        values,
    )
    dataset = load_dataset(make_scans(), values, bad_features="drop")
    np.testing.assert_array_equal(all_values(dataset), values[:, [0, 1, 3]])
    assert dataset.dropped == {"feature_0002": "infinite in 1 of 6 scans"}
    constant = make_table().assign(t_b=2.5)
    refused(
        r"1 of 4 features are constant.*got: 't_b'; the first is 2\.5.*--bad-features drop",
        make_scans(),
        constant,
    )
    dropped = load_dataset(make_scans(), constant, bad_features="drop").dropped
    assert dropped == {"t_b": "constant (2.5 in every scan)"}
    refused("constant.*every feature is unusable", make_scans(), np.ones((N, 2)), bad_features="drop")


def test_applying_keeps_missing_and_constant_values():
    values = make_values()
    values[1, 1], values[:, 2] = np.nan, 3
    dataset = load_dataset(make_scans().assign(scanner="A"), values, check="apply")
    np.testing.assert_array_equal(all_values(dataset), values)
    np.testing.assert_array_equal(
        all_values(load_dataset(make_scans()[:1], make_table()[:1], check="apply")), make_values()[:1]
    )


def test_other_refusals(tmp_path):
    scans = make_scans()
    refused("No features are selected.*got.*expected.*--features", scans)
    refused("No feature matches.*'q'", scans, select="q")
    refused("No feature matches", scans, make_table(), select="q*")
    refused("'age' is not numeric", scans.assign(age="old"), select="a*")
    refused(
        "names of the features occur more than once.*'t_a'",
        scans,
        make_table().set_axis([*NAMES[:3], "t_a", "scan_id"], axis=1),
    )
    refused("There are no features", scans, make_table()[["scan_id"]])
    refused("file of the features does not exist", scans, tmp_path / "no.csv")
    refused("format of the features", scans, tmp_path / "no.mat")
    refused("one scanner", scans.assign(scanner="A"), make_values())
    refused("Unknown value of bad_features.*got: bad_features='ignore'", scans, make_values(), bad_features="ignore")
    (tmp_path / "empty.csv").touch()
    refused("features is empty", scans, tmp_path / "empty.csv")
    (tmp_path / "no_rows.csv").write_text("scan_id,a\n")
    refused("have no rows", scans, tmp_path / "no_rows.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.csv", "no_rows.csv"]


def test_a_real_traveling_study(data_dir):
    path = data_dir / "onharmony.csv"
    edges = load_dataset(path, columns=ONHARMONY, select="rfMRI_d25_fullcorr_v*")
    assert all_values(edges).shape == (120, 210)
    assert edges.scans["participant_id"].nunique() == 20
    assert edges.scans["scanner"].nunique() == 8
    assert edges.scans["age"].dtype.kind in "if"
    assert edges.scans["sex"].tolist()[0] == "M"
    thickness = load_dataset(path, columns=ONHARMONY, select="freesurfer_*ThickAvg*", check="apply")
    assert thickness.features.n_features == 236
    assert load_dataset(path, columns=ONHARMONY, select="freesurfer_*ThickAvg*").n_missing == 3120
    thickness = {"columns": ONHARMONY, "select": "freesurfer_*ThickAvg*"}
    refused("in 52 of 236 features.*3120 missing values", path, missing="error", **thickness)
    kept = load_dataset(path, columns=ONHARMONY, select="freesurfer_*ThickAvg*", missing="drop-features")
    assert (kept.features.n_features, len(kept.dropped)) == (184, 52)
    frame = pd.read_csv(path, encoding="utf-8-sig")
    np.testing.assert_array_equal(all_values(kept), frame[kept.features.names])


def test_scans_in_only_one_of_the_two_are_left_out_on_request():
    scans, table = make_scans(), make_table()
    dataset = load_dataset(scans[:4], table[1:], missing_files="drop")
    assert dataset.scans["scan_id"].tolist() == ["001", "002", "003"]
    np.testing.assert_array_equal(all_values(dataset), table[NAMES].to_numpy()[1:4])
    assert [note.split(" were")[0] for note in dataset.reading["notes"]] == [
        "1 scans without features",
        "Features of 2 scans that are not in the scans table",
    ]
    refused("0 scans without.*of 2 scans.*--missing-files drop", scans[:4], table)
    scanners = scans.assign(scanner=["A", "A", "A", "A", "B", "B"])
    refused("All scans are from one scanner", scanners, table[:3], missing_files="drop")


def test_an_option_of_the_model_is_not_one_of_the_data():
    with pytest.raises(TypeError, match=r"load_dataset\(\) has no option covariates\. .*options of fit\(\)"):
        load_dataset(make_scans(), make_table(), covariates=["age"])
