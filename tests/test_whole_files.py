"""A file is complete or as it was before; a damaged checkpoint is never read."""

import os

import numpy as np
import pytest

from bayesharm.errors import RunFolderError
from bayesharm.io.atomic import digests, find_damage, write_whole
from bayesharm.results.checkpoints import Checkpoints


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path, monkeypatch, error):
    path = tmp_path / "run.json"
    write_whole(path, b"before")

    def stop(*args):
        raise error

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(RunFolderError if error is OSError else error):
        write_whole(path, b"after, and longer")
    assert path.read_bytes() == b"before" and [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_the_name_appears_when_the_content_is_complete(tmp_path, monkeypatch):
    path, sync, seen = tmp_path / "run.json", os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append(path.exists()), sync(file)))
    write_whole(path, b"content")
    assert seen == [False] and path.read_bytes() == b"content"


def test_damage_is_named(tmp_path):
    for name in ("a", "b", "c"):
        write_whole(tmp_path / name, name.encode())
    written = digests(tmp_path)
    assert find_damage(tmp_path, written) == []
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").unlink()
    (tmp_path / "d").write_bytes(b"foreign")
    assert find_damage(tmp_path, written) == ["a", "b", "d"]


def test_a_damaged_checkpoint_is_named_and_removed(tmp_path):
    kept = Checkpoints(tmp_path)
    for name in ("hyper", "block_0"):
        kept.write(name, {"values": np.arange(3.0)})
    [path] = tmp_path.glob("block_0.*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = Checkpoints(tmp_path)
    assert found.damaged == [path.name] and found.n_kept == 1 and found.read("block_0") is None
    np.testing.assert_array_equal(found.read("hyper")["values"], np.arange(3.0))
