"""Files come from a folder, the cache or a server, and are never used unless their content is as expected."""

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import pandas as pd
import pytest

from bayesharm.datasets.download import FCON1000, ONHARMONY, RemoteFile, fetch, fetch_fcon1000, fetch_onharmony
from bayesharm.errors import BayesharmError, InputError

CONTENT = b"subject,edge\n1,0.25\n"


@pytest.fixture
def requested(tmp_path, monkeypatch):
    """Serve ``tmp_path/server`` on this machine; gives the paths that were asked for."""
    monkeypatch.delenv("BAYESHARM_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    paths = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            paths.append(self.path)

    folder = tmp_path / "server"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        paths.append(f"http://127.0.0.1:{server.server_port}")
        yield paths
        server.shutdown()
        thread.join()


def remote(requested, tmp_path: Path, served: bytes | None = CONTENT) -> RemoteFile:
    if served is not None:
        (tmp_path / "server" / "small.csv").write_bytes(served)
    url = f"{requested.pop()}/small.csv"
    return RemoteFile("small.csv", url, hashlib.sha256(CONTENT).hexdigest())


def test_downloads_once_then_uses_the_cache(requested, tmp_path):
    file = remote(requested, tmp_path)
    first = fetch(file, tmp_path / "cache")
    assert first == tmp_path / "cache" / "small.csv" and first.read_bytes() == CONTENT
    assert requested == ["/small.csv"]
    assert fetch(file, tmp_path / "cache") == first
    assert requested == ["/small.csv"]


def test_a_damaged_cached_file_is_downloaded_again(requested, tmp_path):
    file = remote(requested, tmp_path)
    (tmp_path / "small.csv").write_bytes(CONTENT[:-3])
    assert fetch(file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("served", "reason"),
    [(b"another file", "hash of downloaded file"), (None, "404")],
    ids=["wrong", "absent"],
)
def test_a_bad_download_says_what_to_do_and_leaves_nothing(requested, tmp_path, served, reason):
    file = remote(requested, tmp_path, served)
    with pytest.raises(BayesharmError, match=f"(?s)small.csv could not be downloaded.*{reason}.*manually.*BAYESHARM_DATA"):
        fetch(file, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_no_server(requested, tmp_path):
    file = RemoteFile("small.csv", "http://127.0.0.1:1/small.csv", "0" * 64)
    with pytest.raises(BayesharmError, match="(?s)could not be downloaded.*ConnectionError"):
        fetch(file, tmp_path / "cache")


def test_the_folder_of_the_environment_comes_first_and_is_checked(requested, tmp_path, monkeypatch):
    file = remote(requested, tmp_path)
    monkeypatch.setenv("BAYESHARM_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    local = tmp_path / "data" / "small.csv"
    local.write_bytes(CONTENT)
    assert fetch(file, tmp_path / "cache") == local
    local.write_bytes(CONTENT + b"\n")
    with pytest.raises(InputError, match=r"(?s)is not the expected file.*got: sha256.*expected: sha256.*replace it"):
        fetch(file, tmp_path / "cache")
    assert requested == [] and not (tmp_path / "cache").exists()
    local.unlink()
    assert fetch(file, tmp_path / "cache") == tmp_path / "cache" / "small.csv"


def test_onharmony(tmp_path, data_dir):
    path = fetch_onharmony(tmp_path)
    assert path.resolve() == data_dir / ONHARMONY.name
    table = pd.read_csv(path)
    assert table.shape == (120, 2517)
    assert (table.groupby("subject")["scanner_typeloc"].nunique() == 6).sum() == 20
    assert table.filter(regex=r"^rfMRI_d25_fullcorr_v").shape[1] == 210


def test_fcon1000(tmp_path, data_dir):
    path = fetch_fcon1000(tmp_path)
    assert path.resolve() == data_dir / FCON1000.name
    table = pd.read_csv(path)
    assert len(table) == 1078 and table["site"].nunique() == 23 and table["sub_id"].is_unique
    assert table.filter(regex=r"^[lr]h_[^M].*_thickness$").shape[1] == 148
