"""Downloads from a server of the test's own: only what is whole and right gets its name."""

import errno
import hashlib
import os
import random
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ahmf_jax.errors import InputError
from data_pipelines import download
from data_pipelines.download import Download, fetch, read_checksums

DATA = random.Random(0).randbytes(200_000)
SUM = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `data` at /a.zip; the attributes say what it does wrong."""

    daemon_threads = True
    data = DATA
    breaks_at: int | None = None
    ranges = True
    kind = "application/zip"
    announces = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []

    def handle_error(self, request, client_address):
        pass  # the client hung up, as it should


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if self.path == "/moved.zip":
            self.send_response(302)
            self.send_header("Location", "/a.zip")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/endless.zip":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(2**16))
        if self.path not in ("/a.zip", "/b.zip"):
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start >= len(server.data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        self.send_header("Content-Type", server.kind)
        if server.announces:
            self.send_header("Content-Length", str(len(server.data) - start))
        self.end_headers()
        self.wfile.write(server.data[start : server.breaks_at])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_BLOCK", 2**14)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.server_port}"


def refused(folder, downloads, *words):
    """Fetching raises one line that holds the words; returns it."""
    with pytest.raises(InputError) as caught:
        fetch(downloads, folder)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_is_fetched_is_whole_and_fetched_once(tmp_path, server, url, capsys):
    wanted = [Download(f"{url}/a.zip", "2006/a.zip", len(DATA), SUM), Download(f"{url}/moved.zip", "m.zip", None, SUM)]
    assert fetch(wanted, tmp_path / "new" / "downloads") == tmp_path / "new" / "downloads"
    assert names(tmp_path / "new" / "downloads") == ["2006/a.zip", "m.zip"]
    assert (tmp_path / "new/downloads/2006/a.zip").read_bytes() == DATA
    assert [path for path, _ in server.requests] == ["/a.zip", "/moved.zip", "/a.zip"]
    fetch(wanted, tmp_path / "new" / "downloads")
    assert len(server.requests) == 3
    assert capsys.readouterr().err == ""  # no bar where nobody watches


def test_a_sum_that_nobody_published_is_recorded_and_held_against(tmp_path, server, url, capsys):
    wanted = [Download(f"{url}/a.zip", "a.zip"), Download(f"{url}/b.zip", "b.zip", len(DATA))]
    fetch(wanted, tmp_path)
    assert (tmp_path / "checksums.tsv").read_text() == (
        f"{url}/a.zip\t200000\t{SUM}\ta.zip\n{url}/b.zip\t200000\t{SUM}\tb.zip\n"
    )
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "checksums.tsv: 2 downloads have no published checksum" in line
    fetch(wanted, tmp_path)
    assert len(server.requests) == 2 and capsys.readouterr().err == ""

    (tmp_path / "a.zip").unlink()
    server.data = DATA[:-1] + bytes([DATA[-1] ^ 1])
    other = hashlib.sha256(server.data).hexdigest()
    line = refused(tmp_path, wanted, f"has sha256 {other} instead of {SUM}", "thrown away", "--from")
    assert line.startswith(f"{url}/a.zip: ") and names(tmp_path) == ["b.zip", "checksums.tsv"]

    (tmp_path / "b.zip").write_bytes(b"other")
    line = refused(tmp_path, wanted[1:], "has 5 bytes", f"instead of 200000 (sha256 {SUM})", "remove it")
    assert line.startswith(f"{tmp_path / 'b.zip'}: ") and (tmp_path / "b.zip").read_bytes() == b"other"


def test_another_file_than_the_published_one_is_thrown_away(tmp_path, server, url):
    wrong = "0" * 64
    refused(tmp_path, [Download(f"{url}/a.zip", "a.zip", len(DATA), wrong)], f"has sha256 {SUM} instead of {wrong}")
    assert names(tmp_path) == []
    refused(tmp_path, [Download(f"{url}/a.zip", "a.zip", 200_001, SUM)], "has 200000 bytes", "instead of 200001")
    refused(tmp_path, [Download(f"{url}/a.zip", "a.zip", 199_999, SUM)], "sends more than 199999 bytes")
    server.announces = False
    refused(tmp_path, [Download(f"{url}/a.zip", "a.zip", 199_999)], "sends more than 199999 bytes")
    server.kind = "text/html; charset=utf-8"
    refused(tmp_path, [Download(f"{url}/a.zip", "a.zip")], "sends a web page instead of the file")
    assert names(tmp_path) == []


def test_endless_bytes_are_cut_off(tmp_path, server, url, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 2**20)
    refused(tmp_path, [Download(f"{url}/endless.zip", "a.zip")], "sends more than 1048576 bytes")
    refused(tmp_path, [Download(f"{url}/endless.zip", "a.zip", 1000, SUM)], "sends more than 1000 bytes")
    assert names(tmp_path) == []


def test_a_download_that_broke_off_goes_on_where_it_stopped(tmp_path, server, url):
    wanted = [Download(f"{url}/a.zip", "a.zip", len(DATA), SUM)]
    server.breaks_at = 100_000
    line = refused(tmp_path, wanted, "cannot be fetched", "try again", "--from")
    assert line.startswith(f"{url}/a.zip: ")
    assert names(tmp_path) == [".a.zip.part"]  # never its own name
    came = (tmp_path / ".a.zip.part").stat().st_size
    assert 0 < came <= 100_000
    server.breaks_at = None
    fetch(wanted, tmp_path)
    assert server.requests[1] == ("/a.zip", f"bytes={came}-")
    assert names(tmp_path) == ["a.zip"] and (tmp_path / "a.zip").read_bytes() == DATA


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * len(DATA), b"x" * 300_000])
def test_a_server_that_knows_no_ranges_and_a_stale_half(tmp_path, server, url, stale):
    wanted = [Download(f"{url}/a.zip", "a.zip", len(DATA), SUM)]
    (tmp_path / ".a.zip.part").write_bytes(stale)
    server.ranges = False
    fetch(wanted, tmp_path)
    assert names(tmp_path) == ["a.zip"] and (tmp_path / "a.zip").read_bytes() == DATA
    # Where the half is of another file, the sum says so, and the next attempt begins at the beginning.
    (tmp_path / "a.zip").unlink()
    (tmp_path / ".a.zip.part").write_bytes(stale)
    server.ranges = True
    if len(stale) < len(DATA):
        refused(tmp_path, wanted, "instead of", "thrown away")
    fetch(wanted, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == DATA


def test_a_half_beyond_the_servers_end(tmp_path, server, url):
    wanted = [Download(f"{url}/a.zip", "a.zip", None, SUM)]
    (tmp_path / ".a.zip.part").write_bytes(bytes(len(DATA)))
    refused(tmp_path, wanted, "416")
    fetch(wanted, tmp_path)
    assert names(tmp_path) == ["a.zip"]


def test_a_half_without_a_known_sum_is_never_gone_on_with(tmp_path, server, url):
    wanted = [Download(f"{url}/a.zip", "a.zip")]
    server.breaks_at = 100_000
    refused(tmp_path, wanted, "cannot be fetched")
    assert names(tmp_path) == []
    # A server that does not say the length cannot be seen to break off; a size that is known tells.
    server.announces = False
    refused(tmp_path, [Download(f"{url}/a.zip", "a.zip", len(DATA))], "has 100000 bytes", "instead of 200000")
    assert names(tmp_path) == []


def test_servers_that_do_not_answer_or_have_no_such_file(tmp_path, url):
    line = refused(tmp_path, [Download(f"{url}/no.zip", "a.zip")], "404", "download it by hand")
    assert line.startswith(f"{url}/no.zip: cannot be fetched (")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for scheme in ("http", "ftp"):
            line = refused(tmp_path, [Download(f"{scheme}://127.0.0.1:{port}/a", "a", 1, SUM)], "cannot be fetched")
            assert line.endswith("try again, or download it by hand and name its folder (--from DIR)")
    assert [name for name in names(tmp_path) if not name.endswith(".part")] == []


def test_a_server_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_SECONDS", 0.2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refused(tmp_path, [Download(f"http://127.0.0.1:{silent.getsockname()[1]}/a", "a")], "timed out")


@pytest.mark.parametrize("known", [None, SUM])
def test_a_full_disk_leaves_nothing(tmp_path, server, url, monkeypatch, known):
    plain = Path.open

    def full(self, mode="r", **options):
        file = plain(self, mode, **options)
        if mode != "a+b":
            return file

        class Full:
            def write(self, data):
                if file.tell() + len(data) > 50_000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file.write(data)

            def __getattr__(self, name):
                return getattr(file, name)

        return Full()

    monkeypatch.setattr(Path, "open", full)
    refused(tmp_path, [Download(f"{url}/a.zip", "a.zip", None, known)], "No space left on device", "free some space")
    assert names(tmp_path) == []


def test_an_interrupt_leaves_no_whole_file(tmp_path, server, url, monkeypatch):
    monkeypatch.setattr(download._Sink, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for known in (None, SUM):
        with pytest.raises(KeyboardInterrupt):
            fetch([Download(f"{url}/a.zip", "a.zip", None, known)], tmp_path)
        assert "a.zip" not in names(tmp_path)


def test_a_place_that_is_no_folder(tmp_path, url):
    (tmp_path / "file").touch()
    refused(tmp_path, [Download(f"{url}/a.zip", "file/a.zip")], "file/a.zip: cannot be written")


def test_the_table_of_checksums(tmp_path):
    tsv = tmp_path / "checksums.tsv"
    tsv.write_text(
        f"# url size sha256 path\n\nhttps://x.org/a%20b.zip\t12\t{SUM}\t2006/a b.zip\nftp://x.org/c\t-\t-\tc\n"
    )
    assert read_checksums(tsv) == [
        Download("https://x.org/a%20b.zip", "2006/a b.zip", 12, SUM),
        Download("ftp://x.org/c", "c", None, None),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "https://x.org/a\t1\t-",
        "https://x.org/a 1 - a",
        "file:///etc/passwd\t-\t-\ta",
        "https://x.org/a\t0\t-\ta",
        "https://x.org/a\t1e3\t-\ta",
        "https://x.org/a\t-\tabc\ta",
        f"https://x.org/a\t-\t{SUM.upper()}\ta",
        "https://x.org/a\t-\t-\t../a",
        "https://x.org/a\t-\t-\t/a",
        "https://x.org/a\t-\t-\tb\\a",
        "https://x.org/a\t-\t-\tC:a",
        "https://x.org/a\t-\t-\t",
        "https://x.org/a\t-\t-\tfirst",
    ],
)
def test_a_line_that_is_no_download_is_named(tmp_path, line):
    tsv = tmp_path / "checksums.tsv"
    tsv.write_text(f"https://x.org/first\t-\t-\tfirst\n{line}\n")
    with pytest.raises(InputError, match=r"checksums\.tsv: line 2 is not url, size, sha256 and a path"):
        read_checksums(tsv)
