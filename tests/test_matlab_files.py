"""MATLAB files: the same values as `scipy.io.loadmat` reads, and an error for every damaged file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import loadmat, savemat

from bayesharm.data.readers.matlab_files import read_matlab, to_matrix, to_names
from bayesharm.errors import InputError


@given(
    values=arrays.arrays(
        st.sampled_from([np.float64, np.float32, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]),
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
    ),
    names=st.lists(st.text("aZ_é日 .()-", min_size=1, max_size=9), min_size=1, max_size=4),
    is_compressed=st.booleans(),
)
def test_values_and_names_are_those_that_scipy_reads(tmp_path_factory, values, names, is_compressed):
    path = tmp_path_factory.mktemp("mat") / "x.mat"
    content = {
        "first": np.zeros((2, 3)), "s": {"a": 1.0}, "Z": values, "t": "text", "names": np.array(names, dtype=object),
        "complex": np.array([[1j]]), "last": 1.0,
    }  # fmt: skip
    savemat(path, content, do_compression=is_compressed)
    found = read_matlab(path, ("Z", "names"))
    np.testing.assert_array_equal(to_matrix(found["Z"], path), loadmat(path)["Z"])
    expected = [str(cell[0]).strip() if cell.size else "" for cell in loadmat(path)["names"].ravel()]
    assert to_names(found["names"], path) == expected
    for name in ("s", "t", "complex", "names"):
        with pytest.raises(InputError, match="other than a matrix of numbers"):
            to_matrix(read_matlab(path, (name,))[name], path)


def test_whole_numbers_that_matlab_stores_in_a_smaller_type_and_big_endian_files(tmp_path):
    little = _file("<", 6, (2, 2), 2, np.array([1, 2, 3, 4], "u1").tobytes())
    big = _file(">", 6, (2, 2), 9, np.array([1, 2, 3, 4], ">f8").tobytes())
    for content in (little, big):
        Path(tmp_path / "x.mat").write_bytes(content)
        values = to_matrix(read_matlab(tmp_path / "x.mat", ("Z",))["Z"], tmp_path)
        np.testing.assert_array_equal(values, [[1, 3], [2, 4]])
        np.testing.assert_array_equal(loadmat(tmp_path / "x.mat")["Z"], values)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no heading"),
        (b"x" * 200, "no heading"),
        (b"MATLAB 5.0".ljust(126) + b"IM", "no variable 'Z'"),
    ],
)
def test_files_without_content(tmp_path, content, message):
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_matlab(tmp_path / "x.mat", ("Z",))


def test_types_and_sizes_that_do_not_exist(tmp_path):
    """Types that do not exist end the process in scipy 1.18 (segmentation fault)."""
    path = tmp_path / "x.mat"
    for kind, size in ((77, 32), (65535, 32), (9, 4096), (9, 16)):
        path.write_bytes(_file("<", 6, (2, 2), kind, bytes(32), size))
        with pytest.raises(InputError, match="A MATLAB file is damaged"):
            read_matlab(path, ("Z",))


def _element(order: str, kind: int, content: bytes, size: int | None = None) -> bytes:
    heading = np.array([kind, len(content) if size is None else size], order + "u4").tobytes()
    return heading + content + bytes(-len(content) % 8)


def _file(order: str, array_class: int, shape: tuple[int, int], kind: int, content: bytes, size: int | None = None) -> bytes:
    """Return a file with the one variable Z, as the description of the format has it."""
    heading = b"MATLAB 5.0 MAT-file".ljust(124) + np.array([0x0100], order + "u2").tobytes()
    heading += b"IM" if order == "<" else b"MI"
    matrix = _element(order, 6, np.array([array_class, 0], order + "u4").tobytes())
    matrix += _element(order, 5, np.array(shape, order + "i4").tobytes()) + _element(order, 1, b"Z")
    return heading + _element(order, 14, matrix + _element(order, kind, content, size))
