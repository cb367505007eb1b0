"""Executables that one process keeps and the next one loads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesharm.algorithms import executables
from bayesharm.algorithms.programs import Program

SEEN: list[int] = []  # constants of the programs that were traced


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(executables, "_folder", tmp_path / "kept")
    SEEN.clear()
    return tmp_path / "kept"


def of_new_process() -> Program:
    def scale(power, pair, n):
        SEEN.append(n)
        return pair[0] ** power + n, pair[1]

    return Program(scale, ("n",))


def test_a_second_process_neither_traces_nor_compiles(folder):
    pair = np.arange(3.0), np.ones(2, np.float32)
    for _ in range(2):
        found = of_new_process()(2.0, pair, n=1)
        np.testing.assert_array_equal(found[0], [1, 2, 5])
    assert SEEN == [1]


def test_executables_of_other_constants_shapes_and_precisions_are_others(folder):
    pair = np.arange(3.0), np.ones(2)
    of_new_process()(2.0, pair, 1)
    program = of_new_process()
    assert program(2.0, pair, 2)[0][0] == 2
    assert program(2.0, (np.arange(4.0), pair[1]), 1)[0].shape == (4,)
    with jax.enable_x64(True):
        assert program(2.0, pair, 1)[0].dtype == np.float64
    assert program(3.0, pair, 1)[0][2] == 9 and program(2, pair, 1)[0][2] == 5
    assert SEEN == [1, 2, 1, 1, 1] and program.n_compiled == 5


def test_a_changed_source_makes_other_executables(folder, monkeypatch):
    of_new_process()(2.0, (1.0, 1.0), 1)
    monkeypatch.setattr(executables, "_environment", lambda: ("another source",))
    of_new_process()(2.0, (1.0, 1.0), 1)
    assert SEEN == [1, 1] and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"no pickle", None])
def test_a_damaged_executable_is_compiled_again(folder, content):
    of_new_process()(2.0, (1.0, 1.0), 1)
    [path] = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    for _ in range(2):
        assert of_new_process()(2.0, (1.0, 1.0), 1)[0] == 2
    assert SEEN == [1, 1]


def test_a_folder_that_cannot_be_written_is_no_fault(folder):
    folder.write_text("a file")
    assert of_new_process()(2.0, (1.0, 1.0), 1)[0] == 2


def test_a_program_within_a_program_is_traced_as_part_of_it(folder):
    program = of_new_process()
    assert jax.jit(lambda x: program(2.0, (x, x), 1)[0])(jnp.asarray(3.0)) == 10
    assert not folder.exists()
