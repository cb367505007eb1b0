"""Features in every form: the values, the names, blocks, flaws, and writing them back."""

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from bayesharm.data import features as features_module
from bayesharm.data.features import Features, find_flaws, match_names, number_features
from bayesharm.errors import InputError
from bayesharm.io.arrays import open_array
from bayesharm.io.feature_tables import open_table
from bayesharm.io.writers import Output, create_matrices

NAMES = ["a", "b", "a.b", "d"]
SCANS = ["s1", "s2", "s3"]


def refused(message: str, call, *arguments, **options) -> None:
    """The call is refused, and the error has all its parts."""
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        call(*arguments, **options)
    assert caught.value.got and caught.value.expected and caught.value.do


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def read_all(source) -> np.ndarray:
    features = Features.from_matrix(open_array(source))
    return features.read(0, features.n_features)


def opened(values, folder, form):
    """The same values stored in one of the forms, as features."""
    frame = pd.DataFrame(values, columns=NAMES).assign(scan_id=SCANS)
    path = folder / f"features.{form}"
    if form == "array":
        return Features.from_array(values)
    if form == "npy":
        np.save(path, values)
    elif form == "npz":
        np.savez(path, features=values, names=NAMES, scan_id=SCANS)
    elif form == "zarr":
        group = zarr.open_group(path, mode="w")
        group.create_array("features", data=values, chunks=(2, 3))
        group.create_array("names", data=np.array(NAMES))
        group.create_array("scan_id", data=np.array(SCANS, dtype=np.dtypes.StringDType()))
    elif form == "csv":
        frame.to_csv(path, index=False)
    elif form == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif form == "parquet":
        frame.to_parquet(path)
    elif form == "frame":
        return Features.from_matrix(open_table(frame, NAMES, "scan_id"))
    if form in ("csv", "tsv", "parquet"):
        return Features.from_matrix(open_table(path, NAMES, "scan_id"))
    return Features.from_matrix(open_array(path))


@pytest.mark.parametrize("form", ["array", "npy", "npz", "zarr", "csv", "tsv", "parquet", "frame"])
def test_every_form_gives_the_same_values(values, tmp_path, form):
    features = opened(values, tmp_path, form)
    assert (features.n_scans, features.n_features) == (3, 4)
    if form in ("csv", "tsv"):
        np.testing.assert_array_equal(features.read(0, 4).astype(np.float32), values)
    else:
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features.read(0, 4), values)
    if form not in ("array", "npy"):
        assert features.names.tolist() == NAMES
        assert features.matrix.scan_ids.tolist() == SCANS
    expected = features.read(0, 4)
    for start, stop in ((0, 1), (1, 3), (3, 9), (2, 2)):
        block = features.read(start, stop)
        assert block.dtype == np.float64 and block.flags.c_contiguous
        np.testing.assert_array_equal(block, expected[:, start:stop])
    some = features.take(features.names[[3, 0]]).align(np.array([2, 0, 1]))
    np.testing.assert_array_equal(some.read(0, 2), expected[[2, 0, 1]][:, [3, 0]])
    np.testing.assert_array_equal(some.align([1, 2, 0]).read(1, 2), expected[:, [0]])


def test_a_block_is_a_copy_and_a_file_stays_on_disk(values, tmp_path):
    features = Features.from_array(values)
    before = values.copy()
    features.read(0, 4)[:] = 0
    np.testing.assert_array_equal(values, before)
    np.save(tmp_path / "x.npy", values)
    on_disk = Features.from_matrix(open_array(tmp_path / "x.npy"))
    view = on_disk.matrix.read(np.arange(1, 3))
    assert isinstance(view, np.memmap) and view.base is not None and not view.flags.writeable


@pytest.mark.parametrize("form", ["npy", "npz", "zarr", "array"])
def test_square_matrices_give_the_lower_triangle_by_rows(tmp_path, form):
    square = np.random.default_rng(2).normal(size=(3, 5, 5))
    square += square.transpose(0, 2, 1)
    square[1, 4, 2] = square[1, 2, 4] = np.nan
    path = tmp_path / f"square.{form}"
    if form == "npy":
        np.save(path, square)
    elif form == "npz":
        np.savez(path, square)
    elif form == "zarr":
        zarr.save_array(path, square)
    features = Features.from_matrix(open_array(square if form == "array" else path))
    row, column = np.tril_indices(5, -1)
    np.testing.assert_array_equal(features.read(0, 10), square[:, row, column])
    np.testing.assert_array_equal(features.read(3, 8), square[:, row, column][:, 3:8])
    assert features.names.tolist()[:3] == ["edge_1_0", "edge_2_0", "edge_2_1"]


def test_regions_name_the_edges(tmp_path):
    np.savez(tmp_path / "x.npz", features=np.ones((2, 3, 3)), regions=["PCC", "IPL", "MPFC"], other=1)
    names = Features.from_matrix(open_array(tmp_path / "x.npz")).names
    assert names.tolist() == ["edge_IPL_PCC", "edge_MPFC_PCC", "edge_MPFC_IPL"]


def test_names_of_numbered_features_have_one_length():
    assert number_features(3).tolist() == ["feature_0000", "feature_0001", "feature_0002"]
    assert number_features(35778)[[0, -1]].tolist() == ["feature_00000", "feature_35777"]


def test_globs():
    names = ["t_1", "t_2", "v_1", "x[1]", "T_3"]
    assert match_names(names, "t_*") == ["t_1", "t_2"]
    assert match_names(names, ["v_?", "t_2", "x[1]"]) == ["t_2", "v_1", "x[1]"]
    refused(r"No feature matches.*got: pattern 'q_\*' among 5", match_names, names, ["t_*", "q_*"])


def test_take_names_what_is_absent(values):
    refused("do not exist.*got: 4 features.*1 are absent: 'z'", Features.from_array(values, NAMES).take, ["a", "z"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.zeros(4), r"does not have the shape.*got: shape \(4,\).*expected: \(scan, feature\)"),
        (lambda: np.zeros((4, 4, 3)), r"shape \(4, 4, 3\).*moveaxis"),
        (lambda: np.zeros((3, 2, 4)), r"shape \(3, 2, 4\)"),
        (lambda: np.zeros((3, 0)), r"no features.*got: shape \(3, 0\)"),
        (lambda: np.zeros((0, 3)), r"no rows"),
        (
            lambda: np.array([["1", "2"], ["3", "high"]]),
            r"not hold numbers.*'high' in feature column 1",
        ),
        (lambda: np.zeros((2, 2), complex), r"not hold numbers.*complex"),
        (lambda: np.arange(18.0).reshape(2, 3, 3), r"not symmetric.*scan 0 .*up to 4"),
    ],
)
def test_refused_arrays(make, message):
    refused(message, read_all, make())


def test_refused_files(values, tmp_path):
    refused("does not exist.*x.npy", read_all, tmp_path / "x.npy")
    refused(r"format of the features is unknown.*\.npy, \.npz, \.zarr", read_all, tmp_path / "x.mat")
    (tmp_path / "x.npy").write_bytes(b"nonsense")
    refused("cannot be read.*x.npy", read_all, tmp_path / "x.npy")
    np.save(tmp_path / "pickled.npy", np.array([[1, "a"]], dtype=object))
    refused("cannot be read.*pickled", read_all, tmp_path / "pickled.npy")
    np.savez(tmp_path / "two.npz", one=values, two=values)
    refused("no array of features.*'one', 'two'.*expected: an array named 'features'", read_all, tmp_path / "two.npz")
    np.savez(tmp_path / "short.npz", features=values, scan_id=["s1", "s2"])
    refused(
        "labels 'scan_id' do not match.*got: 2 labels.*expected: 3, one for each scan",
        read_all,
        tmp_path / "short.npz",
    )
    np.savez(tmp_path / "empty.npz", features=values, scan_id=["s1", "", "s3"])
    refused("missing in the array 'scan_id'", read_all, tmp_path / "empty.npz")
    np.savez(tmp_path / "same.npz", features=values, names=["a", "b", "b", "d"])
    refused("names occur more than once.*1 repeated: 'b'", read_all, tmp_path / "same.npz")


def test_a_missing_chunk_is_not_read_as_zeros(values, tmp_path):
    zarr.save_array(tmp_path / "x.zarr", values)
    (tmp_path / "x.zarr" / "c" / "0" / "0").unlink()
    refused(r"cannot be read.*x\.zarr", read_all, tmp_path / "x.zarr")


@pytest.mark.parametrize("form", ["frame", "parquet", "csv"])
def test_text_in_a_table_is_named(tmp_path, form):
    frame = pd.DataFrame({"scan_id": SCANS, "a": [1, 2, 3], "b": ["1", "low", "3"]})
    source = frame if form == "frame" else tmp_path / f"x.{form}"
    if form == "parquet":
        frame.to_parquet(source)
    elif form == "csv":
        frame.to_csv(source, index=False)
    refused("Feature 'b' is not numeric.*example 'low', in 1 of 3", open_table, source, ["a", "b"], "scan_id")


@pytest.mark.parametrize("form", ["frame", "parquet", "csv"])
def test_gaps_in_whole_numbers_are_missing_values(tmp_path, form):
    frame = pd.DataFrame({"scan_id": SCANS, "a": pd.array([1, None, 3], dtype="Int64"), "b": [1, 2, 3]})
    source = frame if form == "frame" else tmp_path / f"x.{form}"
    if form == "parquet":
        frame.to_parquet(source)
    elif form == "csv":
        frame.to_csv(source, index=False)
    features = Features.from_matrix(open_table(source, ["a", "b"], "scan_id"))
    np.testing.assert_array_equal(features.read(0, 2), [[1, 1], [np.nan, 2], [3, 3]])


def test_flaws_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr(features_module, "BLOCK_VALUES", 10)  # two features a block
    values = np.random.default_rng(3).normal(size=(5, 7))
    values[1, 0] = np.nan
    values[3, 4] = -np.inf
    values[:, 4][values[:, 4] > -np.inf] = 1.0
    values[:, 2], values[:, 6], values[:, 3] = 0.1 + 0.2, 0.0, np.nan
    values[0, 2] = 0.3
    values[:, 5] = 1e6 + np.arange(5) * 1e-6
    features = Features.from_array(values)
    flaws = find_flaws(features)
    assert flaws.missing.tolist() == [1, 0, 0, 5, 0, 0, 0]
    assert flaws.infinite.tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert flaws.constant.tolist() == [False, False, True, False, True, False, True]
    assert flaws.missing_by_scan.tolist() == [1, 2, 1, 1, 1]
    assert flaws.infinite_by_scan.tolist() == [0, 0, 0, 1, 0]
    assert flaws.reasons(features.names, flaws.unfit) == {
        "feature_0002": "constant (0.3 in every scan)",
        "feature_0003": "missing in 5 of 5 scans",
        "feature_0004": "infinite in 1 of 5 scans",
        "feature_0006": "constant (0 in every scan)",
    }


def test_streaming_reads_only_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "BLOCK_VALUES", 200)
    np.save(tmp_path / "x.npy", np.random.default_rng(4).normal(size=(20, 101)))
    features, widths = Features.from_matrix(open_array(tmp_path / "x.npy")), []
    read = Features.read
    monkeypatch.setattr(Features, "read", lambda self, *at: widths.append(at[1] - at[0]) or read(self, *at))
    find_flaws(features), features.fingerprint()
    assert max(widths) == 10 and sum(widths) == 2 * 101


@pytest.mark.parametrize(("chunk", "width"), [(1, 4), (2, 4), (3, 3), (5, 5), (16, 16), (17, 4)])
def test_blocks_are_of_whole_chunks(tmp_path, monkeypatch, chunk, width):
    monkeypatch.setattr(features_module, "BLOCK_VALUES", 40)
    zarr.create_array(tmp_path / "x.zarr", data=np.zeros((10, 50), np.float32), chunks=(5, chunk))
    features = Features.from_matrix(open_array(tmp_path / "x.zarr"))
    blocks = list(features.blocks())
    assert features.block_size == width and blocks[0] == (0, width) and blocks[-1][1] == 50


@given(size=st.integers(1, 60))
def test_fingerprint_knows_values_names_and_order_but_not_blocks(size):
    values = np.arange(12.0).reshape(3, 4)
    features = Features.from_array(values, NAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features_module, "BLOCK_VALUES", size)
        assert Features.from_array(values.astype(np.float32), NAMES).fingerprint() == features.fingerprint()
        others = [
            Features.from_array(values + np.eye(3, 4), NAMES),
            Features.from_array(values, ["a", "ba", ".b", "d"]),
            features.align(np.array([1, 0, 2])),
            features.take(NAMES[:3]),
        ]
        assert features.fingerprint() not in {other.fingerprint() for other in others}


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_are_written_back_exactly(values, tmp_path, suffix, dtype):
    path, values = tmp_path / f"out{suffix}", values.astype(dtype) / 3
    with create_matrices(Output(path, SCANS, NAMES, dtype)) as (out,):
        out[:, :2] = values[:, :2]
        out[:, 2:] = values[:, 2:]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == ".npy":
        back = open_array(path)
    else:
        back = open_table(path, NAMES, "scan_id")
        assert back.scan_ids.tolist() == SCANS
    if suffix in (".npy", ".parquet"):
        assert back.dtype == dtype
    np.testing.assert_array_equal(Features.from_matrix(back).read(0, 4).astype(dtype), values)


def test_whole_numbers_are_written_as_fractions(tmp_path):
    with create_matrices(Output(tmp_path / "out.npy", SCANS, NAMES, np.int16)) as (out,):
        out[:, :] = 0.5
    assert np.load(tmp_path / "out.npy").dtype == np.float64


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_an_error_leaves_nothing_behind_and_the_old_file_as_it_was(tmp_path, suffix):
    (tmp_path / f"out{suffix}").write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        with create_matrices(Output(tmp_path / f"out{suffix}", SCANS, NAMES, float)) as (out,):
            out[:, :2] = 1
            raise RuntimeError("half way")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_where_nothing_can_be_written(tmp_path):
    def create(path):
        with create_matrices(Output(path, SCANS, NAMES, float)):
            pass

    for path in (tmp_path / "out.mat", tmp_path / "nowhere" / "out.npy"):
        refused("cannot be written.*an existing folder", create, path)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path):
    """Two files would be mixed under the fingerprint of the first."""
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    features = Features.from_matrix(open_array(tmp_path / "x.npy"))
    features.read(0, 2)
    np.save(tmp_path / "other.npy", np.ones((3, 4)))
    (tmp_path / "other.npy").replace(tmp_path / "x.npy")
    refused("file changed while bayesharm was reading it", features.read, 2, 4)
