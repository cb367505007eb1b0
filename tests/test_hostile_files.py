"""Files from strangers are data: they run no code, stay within bounded memory, and lead to no other file."""

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hostile import FILES, Trap

from bayesharm.algorithms import executables
from bayesharm.cli.demo.folder import MARKER, claim_folder
from bayesharm.data.dataset import load_dataset
from bayesharm.errors import InputError, RunFolderError, visible
from bayesharm.io.arrays import open_array
from bayesharm.io.atomic import write_whole
from bayesharm.model.formula.basis import learn_basis
from bayesharm.results.checkpoints import open_checkpoints
from bayesharm.results.console import as_text, make_table
from bayesharm.results.posterior import load_posterior
from bayesharm.results.run_folder import check_output

# Reads all files in one process, of which the address space may grow by 1.5 GiB.
IN_LITTLE_MEMORY = """
import json, resource, sys, traceback
from pathlib import Path
from hostile import FILES
import numpy, openpyxl, pyarrow.csv, pyarrow.parquet, zarr  # noqa: loaded before the limit, which is for the files
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 3 * 2**29
resource.setrlimit(resource.RLIMIT_AS, (size, size))
found = {}
for name in sys.argv[2:]:
    (folder := Path(sys.argv[1], name)).mkdir()
    try:
        FILES[name][0](folder)
    except Exception as error:
        found[name] = [type(error).__module__, str(error)]
    found.setdefault(name, ["", "no error"]).append((folder / "trapped").exists())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Class and message of the error for each file, and whether its trap was sprung."""
    folder = tmp_path_factory.mktemp("hostile")
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    process = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, folder, *FILES],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert not process.returncode, process.stderr[-2000:]
    return json.loads(process.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory: got another system, expected Linux; run it there")
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_ends_in_an_error_of_four_parts(name, outcomes):
    module, message, is_sprung = outcomes[name]
    assert module == "bayesharm.errors", message
    assert re.search(FILES[name][1], message), message
    assert re.search(r"(?s)\n  got: .*\n  do this: ", message)
    assert not is_sprung


def test_parquet_files_may_hold_lists_and_bytes(tmp_path):
    table = pd.DataFrame({"scan_id": list("abcd"), "participant_id": list("ppqq"), "scanner": list("ABAB")})
    table["times"], table["steps"], table["key"] = [[0.0, 1.5]] * 4, [["x", "y"]] * 4, [b"1", b"2", b"3", None]
    table.assign(f=np.arange(4.0)).to_parquet(tmp_path / "a.parquet")
    found = load_dataset(tmp_path / "a.parquet", select=["f"]).scans
    assert list(found["times"][0]) == [0.0, 1.5] and list(found["steps"][3]) == ["x", "y"] and found["key"][1] == b"2"


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_attributes_of_a_zarr_store_may_hold_anything(zarr_format, tmp_path):
    import zarr

    group = zarr.create_group(tmp_path / "f.zarr", zarr_format=zarr_format, attributes={"filters": "band-pass"})
    array = group.create_array("features", data=np.eye(3, 4))
    array.attrs["codecs"] = ["none", {"../x": 1}]
    zarr.consolidate_metadata(tmp_path / "f.zarr", zarr_format=zarr_format)
    np.testing.assert_array_equal(open_array(tmp_path / "f.zarr").read(np.arange(4)), np.eye(3, 4))


@pytest.fixture
def home(tmp_path):
    """A folder with a file of the user, which no stranger's folder may reach."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "mine.npz").write_text("mine")
    return folder


def test_a_run_folder_with_links_is_neither_resumed_nor_overwritten(tmp_path, home):
    run = tmp_path / "run"
    run.mkdir()
    (run / "unfinished").symlink_to(home)
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match="(?s)plain files.*is a link to"):
            check_output(run, resume=True, overwrite=overwrite)
        with pytest.raises(RunFolderError, match="(?s)plain files.*is a link to"), open_checkpoints(run, {}, overwrite):
            pass
    assert (home / "mine.npz").read_text() == "mine"


@pytest.mark.parametrize("place", ["posterior.zarr", "posterior.zarr/c", "posterior.zarr/zarr.json", "unfinished/lock"])
def test_a_run_folder_with_links_is_not_read(place, tmp_path, home):
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    link.symlink_to(home / "mine.npz" if "." in link.name else home)
    with pytest.raises(RunFolderError, match="(?s)plain files.*is a link to.*cp -rL"):
        load_posterior(tmp_path / "run")


@pytest.mark.parametrize(
    "content", ["[]", "[" * 100_000, '{"format": 12}', '{"format": 1, "versions": 3}', '{"format": {}}']
)
def test_a_made_up_record_is_refused(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError):
        load_posterior(tmp_path)


def test_a_file_is_not_written_through_a_link_in_its_temporary_name(tmp_path, home):
    (tmp_path / ".out.json.part").symlink_to(home / "mine.npz")
    write_whole(tmp_path / "out.json", b"new")
    assert (home / "mine.npz").read_text() == "mine" and (tmp_path / "out.json").read_bytes() == b"new"


def test_an_edited_marker_of_a_demo_removes_nothing_outside(tmp_path, home):
    (home / "demo").mkdir()
    (home / "demo" / "link").symlink_to(home / "mine.npz")
    names = ["..", ".", "", "../mine.npz", str(home / "mine.npz"), "link"]
    (home / "demo" / MARKER).write_text("\n".join(["Made by", *names]))
    claim_folder(home / "demo", ("study",))
    assert (home / "mine.npz").read_text() == "mine"


CALLS = ("__import__('pathlib').Path('{}').touch()", "open('{}', 'w')", 'exec(\'open("{}", "w")\')')


@pytest.mark.parametrize(
    "wrapped", ["{}", "I({})", "bs({}, df=4)", "log({})", "C(age, {})", "poly(age, {})", "{{{}}}", "age:{}"]
)
@pytest.mark.parametrize("call", CALLS)
def test_a_formula_runs_no_code(call, wrapped, tmp_path):
    target = tmp_path / "trapped"
    with pytest.raises(InputError):
        learn_basis(wrapped.format(call.format(target)), pd.DataFrame({"age": np.arange(20.0)}), {})
    assert not target.exists()


@pytest.mark.parametrize("wrapped", ["`{}`", "log(`{}`)", "`{}`:age", "poly(`{}`, 2)"])
def test_a_column_whose_name_is_code_is_a_column(wrapped, tmp_path):
    name = CALLS[0].format(tmp_path / "trapped")
    table = pd.DataFrame({"age": np.arange(20.0) % 7, name: np.arange(1.0, 21.0)})
    _, values = learn_basis(wrapped.format(name), table, {})
    assert len(values) == 20 and not (tmp_path / "trapped").exists()


def keep(folder, monkeypatch):
    monkeypatch.setattr(executables, "_folder", folder)
    path = executables._path("program", 1)
    content = pickle.dumps(Trap(folder / "trapped"))
    path.write_bytes(executables.hashlib.sha256(content).digest() + content)
    return path


def test_an_executable_that_others_could_write_is_not_loaded(tmp_path, monkeypatch):
    """With the right name and checksum: the trap is sprung only in a file of the user's own."""
    path = keep(tmp_path, monkeypatch)
    path.chmod(0o666)
    assert executables.load_executable("program", 1) is None and not (tmp_path / "trapped").exists()
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert executables.load_executable("program", 1) is None and not (tmp_path / "trapped").exists()
    path.unlink()
    (tmp_path / "elsewhere").rename(path)
    executables.load_executable("program", 1)
    assert (tmp_path / "trapped").exists()


@pytest.mark.parametrize("place", ["", "inner"])
def test_executables_are_not_kept_where_others_can_write(place, tmp_path, monkeypatch):
    monkeypatch.setattr(executables, "_folder", None)
    monkeypatch.setattr(executables, "forget_compilations", lambda: None)
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o700)
    if place:
        (folder / executables._hash_source()[:16]).mkdir()
    (folder / executables._hash_source()[:16] if place else folder).chmod(0o777)
    assert not executables.keep_executables(folder)
    (folder / executables._hash_source()[:16] if place else folder).chmod(0o700)
    assert executables.keep_executables(folder)


@pytest.mark.parametrize("name", ["[/red]", "[bold]B[/]", "[link=http://x]C", "\x1b[2JD", "\x9b2JE", "a\rb\x07"])
def test_names_do_not_command_the_terminal(name):
    table = make_table(f"Title {name}", f"Slopes on {name}.", ["scanner", name])
    table.add_row(name, "1")
    for text, n in ((as_text(table), 4), (str(InputError(f"About {name}.", got=name, do=name)), 3)):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        assert text.count(visible(name)) == n
