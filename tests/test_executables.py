"""Executables that one process keeps and the next one loads."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesharm.algorithms import executables
from bayesharm.algorithms.programs import Program

SEEN: list[int] = []  # constants of the programs that were traced


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(executables, "_folder", tmp_path)
    monkeypatch.setattr(executables, "_source", executables._hash_source())
    SEEN.clear()
    return tmp_path


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


def test_another_source_has_a_folder_of_its_own(tmp_path, monkeypatch):
    for name, value in (("_folder", None), ("_source", "")):
        monkeypatch.setattr(executables, name, value)
    monkeypatch.setattr(executables, "reset_cache", lambda: None)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    for source in ("a", "b", "c", "d"):
        monkeypatch.setattr(executables, "_hash_source", lambda source=source: 20 * source)
        assert executables.keep_executables(tmp_path / "executables")
        os.utime(tmp_path / "executables" / (16 * source), (ord(source), ord(source)))
    assert {path.name[0] for path in (tmp_path / "executables").iterdir()} == {"b", "c", "d"}
    monkeypatch.setattr(executables, "_hash_source", lambda: "")
    assert not executables.keep_executables(tmp_path / "executables")


def test_a_folder_of_others_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(executables, "_folder", None)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    assert not executables.keep_executables(tmp_path / "shared") and not executables.are_kept()


def test_nothing_is_kept_if_the_source_changes_meanwhile(folder, monkeypatch):
    monkeypatch.setattr(executables, "_hash_source", lambda: "changed")
    of_new_process()(2.0, (1.0, 1.0), 1)
    assert not list(folder.iterdir())


def test_settings_of_jax_make_other_executables(folder):
    of_new_process()(2.0, (1.0, 1.0), 1)
    before = jax.config.jax_threefry_partitionable
    try:
        jax.config.update("jax_threefry_partitionable", not before)
        of_new_process()(2.0, (1.0, 1.0), 1)
    finally:
        jax.config.update("jax_threefry_partitionable", before)
    assert SEEN == [1, 1] and len(list(folder.iterdir())) == 2


def test_an_executable_that_does_not_run_is_compiled_again(folder, monkeypatch):
    def fail(**arrays):
        raise RuntimeError("a function is missing")

    monkeypatch.setattr("bayesharm.algorithms.programs.load_executable", lambda name, key: fail)
    assert of_new_process()(2.0, (1.0, 1.0), 1)[0] == 2


def test_commands_use_only_one_of_the_two_caches(tmp_path):
    """Executables that JAX's own cache returns cannot be kept: they would fail when they are run."""
    code = """
import sys, jax, numpy as np
from bayesharm.algorithms.programs import cache_programs, program
if sys.argv[1] == "command":
    cache_programs()
@program()
def solve(x):
    return jax.lax.fori_loop(0, 5, lambda _, x: x @ x / (1 + abs(x).sum()) + np.linspace(0, 1, 4), x)
print(solve(np.eye(4)).sum())
"""
    environment = {
        **os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip
    said = [
        subprocess.run([sys.executable, "-c", code, who], capture_output=True, text=True, env=environment, check=True).stdout
        for who in ("python", "command", "command")
    ]
    assert len(set(said)) == 1 and len(list((tmp_path / "executables").rglob("solve-*"))) == 1


@pytest.mark.parametrize("content", [b"", b"no pickle", None])
def test_a_damaged_executable_is_compiled_again(folder, content):
    of_new_process()(2.0, (1.0, 1.0), 1)
    [path] = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    for _ in range(2):
        assert of_new_process()(2.0, (1.0, 1.0), 1)[0] == 2
    assert SEEN == [1, 1]


def test_a_folder_that_cannot_be_written_is_no_fault(folder, monkeypatch):
    monkeypatch.setattr(executables, "_folder", folder / "absent")
    assert of_new_process()(2.0, (1.0, 1.0), 1)[0] == 2


def test_a_program_within_a_program_is_traced_as_part_of_it(folder):
    program = of_new_process()
    assert jax.jit(lambda x: program(2.0, (x, x), 1)[0])(jnp.asarray(3.0)) == 10
    assert not list(folder.iterdir())


def test_commands_keep_nothing_where_others_can_write(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (tmp_path / "file").write_text("")
    code = "from bayesharm.algorithms.programs import cache_programs; cache_programs(); import jax; "
    code += "print(jax.config.jax_compilation_cache_dir)"
    for folder in (shared, tmp_path / "file"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder)},
        )  # fmt: skip
        assert "programs are not kept in" in done.stderr and done.stdout == "None\n"
    assert not list(shared.iterdir())


def test_programs_are_kept_where_new_folders_are_open_to_a_group(tmp_path):
    """With the umask of many systems, 0o002, a group may write to new folders."""
    code = "import os; os.umask(0o002); from bayesharm.algorithms.programs import cache_programs; cache_programs(); "
    code += "from bayesharm.algorithms.executables import are_kept; print(are_kept())"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    (tmp_path / "bayesharm" / "programs").mkdir(parents=True)
    (tmp_path / "bayesharm" / "programs").chmod(0o775)  # as an earlier version left it
    for settings in ({"XDG_CACHE_HOME": str(tmp_path)}, {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "new")}):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment | settings
        )
        assert done.stdout == "True\n" and not done.stderr


def test_a_flipped_bit_is_found(folder):
    of_new_process()(2.0, (1.0, 1.0), 1)
    [path] = folder.iterdir()
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)
    assert of_new_process()(2.0, (1.0, 1.0), 1)[0] == 2
    assert SEEN == [1, 1]
