"""A server on the loopback address that misbehaves, and archives that attack."""

import contextlib
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from ebmlib.data.download import DownloadError, extract, fetch
from ebmlib.data.mvtec import download, main
from ebmlib.data.mvtec_facts import Source

CONTENT = bytes(range(256)) * 400  # 102,400 bytes
HASH = hashlib.sha256(CONTENT).hexdigest()


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; the first path part says how: /truncate/name."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        _, how, name = self.path.split("/")
        self.server.requests.append((how, self.headers.get("Range")))
        getattr(self, f"serve_{how}")(self.server.files[name])

    def send(self, body, *, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", len(body) if length is None else length)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            self.wfile.flush()

    def ranged(self, body, limit=None, total=None, **headers):
        """Answer a Range request, with at most `limit` bytes before hanging up."""
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        total = len(body) if total is None else total
        if start >= len(body) and asked:
            return self.send(b"", status=416, Content_Range=f"bytes */{total}")
        part = body[start:][:limit]
        self.send(
            part,
            status=206 if asked else 200,
            length=total - start,
            Content_Range=f"bytes {start}-{total - 1}/{total}",
            **headers,
        )

    def validated(self, body, header, value):
        """Hang up after 30,000 bytes; send all of it if the file is another one."""
        kept = self.headers.get("If-Range") == value
        if self.headers.get("Range") and not kept:
            return self.send(body, **{header: value})
        self.ranged(body, limit=30_000, **{header: value})

    def serve_etag(self, body):
        self.validated(body, "ETag", f'"{hashlib.sha256(body).hexdigest()}"')

    def serve_date(self, body):
        days = 1 + body[0] % 20
        self.validated(body, "Last_Modified", f"{days:02d} Jan 2026 00:00:00 GMT")

    def serve_deaf(self, body):  # to If-Range, which it does not know
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        self.ranged(body, limit=30_000, ETag=tag)

    def serve_weak(self, body):  # a weak ETag must not be sent as If-Range
        self.server.asked.append(self.headers.get("If-Range"))
        tag = f'W/"{hashlib.sha256(body).hexdigest()}"'
        self.ranged(body, limit=30_000, ETag=tag)

    def serve_flaky(self, body):  # every second answer is an error
        if len(self.server.requests) % 2:
            return self.send(b"", status=503)
        self.ranged(body, limit=30_000)

    def serve_well(self, body):
        self.ranged(body)

    def serve_truncate(self, body):
        self.ranged(body, limit=30_000)

    def serve_stall(self, body):
        self.ranged(body, limit=50_000)
        if not self.headers.get("Range"):
            self.server.release.wait(5)

    def serve_dead(self, body):
        self.server.release.wait(5)

    def serve_toolong(self, body):  # announces more than there is
        self.ranged(body, total=len(body) + 1000)

    def serve_tooshort(self, body):  # announces less than there is
        self.send(body, length=len(body) // 2)

    def serve_norange(self, body):
        fewer = len([1 for how, _ in self.server.requests if how == "norange"]) < 3
        self.send(body[:30_000] if fewer else body, length=len(body))

    def serve_wrongrange(self, body):
        if self.headers.get("Range"):
            return self.send(body[10:], status=206, Content_Range="bytes 10-99/100")
        first = len(self.server.requests) == 1
        self.send(body[:30_000] if first else body, length=len(body))

    def serve_page(self, body):
        self.send(b"<!doctype html><title>moved</title>")

    def serve_missing(self, body):
        self.send(b"", status=404)

    def serve_busy(self, body):
        if len(self.server.requests) < 2:
            return self.send(b"", status=503)
        self.ranged(body)

    def serve_nolength(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    server.daemon_threads = True
    server.files, server.requests, server.asked = {"file": CONTENT}, [], []
    server.release = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


LINE = {"timeout": 0.3, "tries": 2, "pause": 0.0}


def get(server, how, path, **options):
    log = []
    fetch(f"{server.url}/{how}/file", path, log=log.append, **LINE, **options)
    assert log
    return path.read_bytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- fetch


@pytest.mark.parametrize(
    "how",
    ["well", "truncate", "stall", "norange", "wrongrange", "busy", "nolength"],
)
def test_the_whole_file_arrives(server, tmp_path, how):
    assert get(server, how, tmp_path / "a", sha256=HASH) == CONTENT
    assert names(tmp_path) == ["a"]


def test_a_truncated_transfer_continues_where_it_stopped(server, tmp_path):
    get(server, "truncate", tmp_path / "a")
    ranges = [wanted for _, wanted in server.requests]
    assert ranges == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_an_earlier_run_is_continued(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT[:70_000])
    assert get(server, "well", tmp_path / "a", sha256=HASH) == CONTENT
    assert server.requests == [("well", "bytes=70000-")]


OTHER = bytes(range(255, -1, -1)) * 400
NEW = {"as long": OTHER, "shorter": OTHER[:20_000], "longer": OTHER + b"more"}


def stop_early(server, how, path):
    """The first 30,000 bytes of CONTENT, as a run that was killed leaves them."""

    def log(text):
        if "closed" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/{how}/file", path, log=log, **LINE)
    assert path.with_name("a.part").read_bytes() == CONTENT[:30_000]


@pytest.mark.parametrize("how", ["truncate", "etag", "date", "deaf", "weak"])
def test_an_unchanged_file_is_continued_without_a_hash(server, tmp_path, how):
    stop_early(server, how, tmp_path / "a")
    assert get(server, how, tmp_path / "a") == CONTENT
    ranges = [wanted for _, wanted in server.requests]
    assert ranges == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert names(tmp_path) == ["a"]
    assert set(server.asked) <= {None}


CHANGES = [
    (how, new)
    for how in ("truncate", "etag", "date", "deaf", "weak")
    for new in NEW
    if how != "truncate" or new != "as long"  # else nothing tells them apart
]


@pytest.mark.parametrize("how, new", CHANGES)
def test_a_changed_file_is_fetched_anew(server, tmp_path, how, new):
    stop_early(server, how, tmp_path / "a")
    server.files["file"] = NEW[new]
    assert get(server, how, tmp_path / "a") == NEW[new]
    assert names(tmp_path) == ["a"]


def test_a_file_that_changes_all_the_time_is_given_up(server, tmp_path):
    def change(text):
        if "closed" in text:
            server.files["file"] = bytes(reversed(server.files["file"]))

    with pytest.raises(DownloadError, match=r"the file on the server has changed"):
        fetch(f"{server.url}/deaf/file", tmp_path / "a", log=change, **LINE)
    assert not (tmp_path / "a").exists()


def test_tries_are_counted_in_a_row(server, tmp_path):
    server.files["file"] = CONTENT * 3  # a good and a bad attempt in turn
    path = tmp_path / "a"
    fetch(f"{server.url}/flaky/file", path, log=lambda _: None, **LINE)
    assert path.read_bytes() == CONTENT * 3
    assert len(server.requests) > 2 * LINE["tries"] + 10


def test_a_part_of_unknown_origin_is_continued_only_with_a_hash(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 70_000)
    assert get(server, "well", tmp_path / "a") == CONTENT
    assert server.requests == [("well", None)]
    for note in ("", "[]", '{"url": 1}', "{}"):
        (tmp_path / "b.part").write_bytes(b"x" * 70_000)
        (tmp_path / "b.part.json").write_text(note)
        assert get(server, "well", tmp_path / "b") == CONTENT
        (tmp_path / "b").unlink()
    assert names(tmp_path) == ["a"]


def test_a_part_of_another_address_is_not_continued(server, tmp_path):
    stop_early(server, "truncate", tmp_path / "a")
    server.files["file"] = OTHER
    assert get(server, "well", tmp_path / "a") == OTHER
    stop = tmp_path / "second"
    stop.mkdir()
    server.files["file"] = CONTENT
    stop_early(server, "truncate", stop / "a")
    server.requests.clear()
    assert get(server, "well", stop / "a", sha256=HASH) == CONTENT  # another mirror
    assert server.requests == [("well", "bytes=30000-")]


def test_a_complete_part_needs_only_its_name(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert get_quietly(server, "well", tmp_path / "a", sha256=HASH) == CONTENT


def get_quietly(server, how, path, **options):
    return fetch(
        f"{server.url}/{how}/file", path, log=lambda _: None, **LINE, **options
    ).read_bytes()


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    get_quietly(server, "well", tmp_path / "a", sha256=HASH)
    assert server.requests == []
    (tmp_path / "a").write_bytes(b"something else")
    assert get_quietly(server, "well", tmp_path / "a", sha256=HASH) == CONTENT


def test_a_part_of_another_file_is_caught_by_the_hash(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 70_000)
    with pytest.raises(DownloadError, match=f"instead of {HASH}: not the published"):
        get(server, "well", tmp_path / "a", sha256=HASH)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "how, message",
    [
        ("dead", r"2 tries in a row brought nothing new after 0 bytes .*timed out"),
        ("toolong", r"nothing new after 102,400 bytes \(the server answered 416"),
        ("missing", "the server answered 404"),
        ("tooshort", "SHA-256 is .* not the published file"),
        ("page", "SHA-256 is .* not the published file"),
    ],
)
def test_a_hopeless_source_is_given_up_and_named(server, tmp_path, how, message):
    with pytest.raises(DownloadError, match=message) as caught:
        get(server, how, tmp_path / "a", sha256=HASH)
    assert f"{server.url}/{how}/file" in str(caught.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("how", ["well", "nolength"])
def test_a_file_larger_than_allowed_is_not_stored(server, tmp_path, how):
    with pytest.raises(DownloadError, match=r"more than 50,000"):
        get(server, how, tmp_path / "a", max_bytes=50_000)
    assert names(tmp_path) == []


def test_nobody_listens(tmp_path):
    with pytest.raises(DownloadError, match="no connection"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a", log=lambda _: None, **LINE)


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://127.0.0.1/a", "a.tar"])
def test_only_http(tmp_path, url):
    with pytest.raises(DownloadError, match="not an http or https address"):
        fetch(url, tmp_path / "a", log=lambda _: None)


# ---------------------------------------------------------------- extract


def tar_bytes(members, compression="xz"):
    """Members are (name, bytes) or ready TarInfo objects."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "absolute": [("/tmp/evil.png", b"x")],
    "parent": [("cup/../../evil.png", b"x")],
    "backslash": [("cup\\..\\evil.png", b"x")],
    "drive": [("C:evil.png", b"x")],
    "symbolic link": [special("cup/link", tarfile.SYMTYPE, "/etc/hosts")],
    "through a link": [
        special("cup/d", tarfile.SYMTYPE, "/tmp"),
        ("cup/d/e.png", b"x"),
    ],
    "hard link": [special("cup/link", tarfile.LNKTYPE, "/etc/hosts")],
    "device": [special("cup/null", tarfile.CHRTYPE)],
    "pipe": [special("cup/pipe", tarfile.FIFOTYPE)],
    "twice": [("cup/a.png", b"x"), ("cup/a.png", b"y")],
    "file as folder": [("cup/a", b"x"), ("cup/a/b.png", b"y")],
    "elsewhere": [("cup/a.png", b"x"), ("other/../../evil.png", b"y")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path, name):
    (tmp_path / "a.tar.xz").write_bytes(tar_bytes(HOSTILE[name]))
    inside = tmp_path / "deep" / "er"
    with pytest.raises(DownloadError, match=r"a\.tar\.xz: refused: "):
        extract(tmp_path / "a.tar.xz", inside, only="cup")
    assert names(tmp_path) == ["a.tar.xz", "deep"]
    assert names(tmp_path / "deep") == ["er"]
    assert not [path for path in inside.rglob("*") if path.is_symlink()]


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    bomb = tmp_path / "bomb.tar.xz"
    bomb.write_bytes(tar_bytes([("cup/a", bytes(10**6))]))
    assert bomb.stat().st_size < 2000
    with pytest.raises(DownloadError, match="more than 100,000 bytes"):
        extract(bomb, tmp_path / "out", max_bytes=100_000)
    bomb.write_bytes(tar_bytes([(f"cup/{n}", b"") for n in range(20)]))
    with pytest.raises(DownloadError, match="or 10 members"):
        extract(bomb, tmp_path / "out2", max_members=10)


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    header = tarfile.TarInfo("cup")
    header.type, header.size = tarfile.XHDTYPE, 10**9
    (tmp_path / "a.tar").write_bytes(header.tobuf() + bytes(1024))
    with pytest.raises(DownloadError, match=r"special header of 1,000,000,000 bytes"):
        extract(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_a_cut_archive_is_damaged_not_short(tmp_path, compression):
    body, other = (np.random.default_rng(seed).bytes(50_000) for seed in (0, 1))
    whole = tar_bytes([("./cup/a", body), ("cup/b", other)], compression)
    archive = tmp_path / "a.tar"
    archive.write_bytes(whole)
    extract(archive, tmp_path / "whole", only="cup")
    assert (tmp_path / "whole/cup/a").read_bytes() == body
    archive.write_bytes(whole[:60_000])
    with pytest.raises(DownloadError, match="damaged"):
        extract(archive, tmp_path / "cut")


def test_what_is_no_archive_says_how_it_begins(tmp_path):
    (tmp_path / "a.tar.xz").write_bytes(b"<!doctype html><title>moved")
    with pytest.raises(DownloadError, match=r"not a tar archive.*b'<!doctype html"):
        extract(tmp_path / "a.tar.xz", tmp_path / "out")
    with pytest.raises(DownloadError, match="no such file"):
        extract(tmp_path / "b.tar.xz", tmp_path / "out")


# ---------------------------------------------------------------- a category


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def cup(*, without=()):
    """The smallest whole category, as archive members."""
    gray = png(np.full((8, 8), 100, dtype=np.uint8))
    mask = png(np.eye(8, dtype=np.uint8) * 255)
    members = {
        "readme.txt": b"text",
        "cup/license.txt": b"text",
        "cup/train/good/000.png": gray,
        "cup/test/good/000.png": gray,
        "cup/test/hole/000.png": gray,
        "cup/ground_truth/hole/000_mask.png": mask,
        "saucer/train/good/000.png": gray,
    }
    return [item for item in members.items() if item[0] not in without]


def fetch_cup(server, root, *hows, **options):
    urls = [f"{server.url}/{how}/cup.tar.xz" for how in hows]
    return download("cup", root, urls, log=lambda _: None, **LINE, **options)


@pytest.mark.parametrize("how", ["well", "stall", "nolength"])
def test_a_category_arrives_whole_and_alone(server, tmp_path, how):
    server.files["cup.tar.xz"] = tar_bytes(cup())
    folder = fetch_cup(server, tmp_path, how)
    assert folder == tmp_path / "cup"
    assert names(tmp_path) == ["cup"]
    assert names(folder) == ["ground_truth", "license.txt", "test", "train"]


def test_sources_are_tried_in_order(server, tmp_path):
    server.files["cup.tar.xz"] = tar_bytes(cup())
    fetch_cup(server, tmp_path, "missing", "page", "tooshort", "well", "dead")
    tried = [how for how, _ in server.requests]
    assert tried == ["missing", "page", "tooshort", "well"]
    assert names(tmp_path) == ["cup"]


def test_all_failures_are_named(server, tmp_path):
    server.files["cup.tar.xz"] = tar_bytes(cup())
    with pytest.raises(DownloadError) as caught:
        fetch_cup(server, tmp_path, "missing", "page", "tooshort")
    message = str(caught.value)
    assert "answered 404" in message and "<!doctype html" in message
    assert "download the archive by hand" in message
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_category_leaves_nothing_behind(server, tmp_path, name):
    server.files["cup.tar.xz"] = tar_bytes([*cup(), *HOSTILE[name]])
    if name in ("twice", "elsewhere"):
        server.files["cup.tar.xz"] = tar_bytes(HOSTILE[name])
    root = tmp_path / "root"
    with pytest.raises(DownloadError, match="refused"):
        fetch_cup(server, root, "well")
    assert names(root) == [] and names(tmp_path) == ["root"]


def test_an_incomplete_category_leaves_nothing_behind(server, tmp_path):
    image = dict(cup())["cup/test/hole/000.png"]
    lacking = [*cup(), ("cup/test/hole/001.png", image)]
    server.files["cup.tar.xz"] = tar_bytes(lacking)
    with pytest.raises(DownloadError, match=r"not whole: .*001\.png has no mask"):
        fetch_cup(server, tmp_path, "well")
    assert names(tmp_path) == []
    server.files["cup.tar.xz"] = tar_bytes([("other/a.png", b"x")])
    with pytest.raises(DownloadError, match="no folder cup/train/good"):
        fetch_cup(server, tmp_path, "well")
    assert names(tmp_path) == []


def test_an_interrupted_download_is_hidden_and_continued(server, tmp_path):
    server.files["cup.tar.xz"] = whole = tar_bytes(
        [*cup(), ("noise", np.random.default_rng(0).bytes(60_000))]
    )
    url = f"{server.url}/well/cup.tar.xz"

    def interrupt(text):
        if "started" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download("cup", tmp_path, [url], log=interrupt, **LINE)
    assert all(name.startswith(".") for name in names(tmp_path))
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    (tmp_path / f".{key}.archive.part").write_bytes(whole[:40_000])
    (tmp_path / ".cup.extracting" / "cup").mkdir(parents=True)  # of a killed run
    fetch_cup(server, tmp_path, "well")
    assert server.requests[-1] == ("well", "bytes=40000-")
    assert names(tmp_path) == ["cup"]


def test_a_known_hash_must_match(server, tmp_path):
    server.files["cup.tar.xz"] = archive = tar_bytes(cup())
    url = f"{server.url}/well/cup.tar.xz"
    with pytest.raises(DownloadError, match="not the published file"):
        download("cup", tmp_path, [Source(url, HASH)], log=lambda _: None, **LINE)
    assert names(tmp_path) == []
    right = Source(url, hashlib.sha256(archive).hexdigest())
    download("cup", tmp_path, [right], log=lambda _: None, **LINE)
    assert names(tmp_path) == ["cup"]


def test_what_is_there_is_checked_and_never_replaced(server, tmp_path):
    server.files["cup.tar.xz"] = tar_bytes(cup())
    folder = fetch_cup(server, tmp_path, "well")
    server.requests.clear()
    assert fetch_cup(server, tmp_path, "well") == folder
    assert server.requests == []
    (folder / "test/hole/000.png").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"not whole; move or delete it.*empty"):
        fetch_cup(server, tmp_path, "well")
    assert (folder / "test/hole/000.png").read_bytes() == b""


def test_an_archive_on_disk_is_a_source_and_stays(tmp_path):
    archive = tmp_path / "cup.tar.gz"
    archive.write_bytes(tar_bytes(cup(), "gz"))
    root = tmp_path / "root"
    arguments = ["download", "cup", "--root", str(root), "--source", str(archive)]
    assert main(arguments) == 0
    assert names(root) == ["cup"] and archive.exists()


def test_an_archive_of_several_categories_is_fetched_once(server, tmp_path):
    second = [(name.replace("cup/", "mug/"), body) for name, body in cup()[1:-1]]
    server.files["both"] = tar_bytes([*cup(), *second])
    url = f"{server.url}/well/both"
    assert (
        main(["download", "cup", "mug", "--root", str(tmp_path), "--source", url]) == 0
    )
    assert names(tmp_path) == ["cup", "mug"]
    assert len(server.requests) == 1


def test_official_categories_come_with_their_license(server, tmp_path):
    log = []
    url = f"{server.url}/missing/file"
    with pytest.raises(DownloadError):
        download("bottle", tmp_path, [url], log=log.append, **LINE)
    assert "CC BY-NC-SA 4.0" in log[0]


@pytest.mark.parametrize("name", ["", "..", "a/b", "../bottle", "a\\b"])
def test_a_category_is_the_name_of_one_folder(tmp_path, name):
    with pytest.raises(ValueError, match="name of one folder"):
        download(name, tmp_path, [])


def test_unknown_category_without_sources(tmp_path):
    with pytest.raises(ValueError, match="'cup' is no official category"):
        download("cup", tmp_path)
    assert main(["download", "cup", "--root", str(tmp_path / "new")]) == 1
    assert not (tmp_path / "new").exists()
