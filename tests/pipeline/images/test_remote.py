"""Pictures in buckets and tars: the rows of a folder, whatever is cut, missing or away."""

import pickle
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.records import ImageRow
from pipeline.core.remote import Remote
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.images.decoding import PictureError
from pipeline.images.manifest import manifest
from pipeline.images.pictures import StampedPictures
from pipeline.images.remote import Objects, Tars, opened
from pipeline.settings.params import DataParams, ImagesParams
from tests.pipeline.core.processes import python
from tests.pipeline.engine.bench import MeanColour, make_pictures

LIMITS = ImagesParams()
COUNT = 30


class Bucket:
    """The same pictures in a folder, below a URL, and in tars below it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder / "images", url
        self.names = make_pictures(self.folder, COUNT)
        (self.folder / "0_0003.png").write_bytes(b"")
        (self.folder / "0_0005.png").write_bytes((self.folder / "0_0004.png").read_bytes()[:60])
        self.system, _ = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        for name in self.names:
            self.put(f"single/{name}", (self.folder / name).read_bytes())
        for number in range(3):
            self.put(f"tars/{number:05}.tar", self.tar(self.names[number::3]))

    def tar(self, names: list[str]) -> bytes:
        sink = BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for name in names:
                tar.add(self.folder / name, name)
        return sink.getvalue()

    def put(self, name: str, data: bytes) -> None:
        Remote(self.url).write(name, data)

    def place(self, images: str, store: Store, limits: ImagesParams = LIMITS) -> StampedPictures:
        found = opened(DataParams(root=Path("."), images=images), limits, store)
        assert found is not None
        return found


def rows_of(place: Any, names: list[str], store: Store | None = None) -> list[ImageRow]:
    return list(manifest(names, place, LIMITS, store))


def said(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    """In memory: what a client of fsspec gives, without a server."""
    made = Bucket(tmp_path, "memory://bucket")
    yield made
    made.system.rm("memory://bucket", recursive=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as made:
        yield made


@pytest.mark.parametrize("images", ["single", "tars/{00000..00002}.tar", "tars/*.tar"])
def test_the_rows_are_those_of_the_folder(bucket: Bucket, store: Store, images: str) -> None:
    names = [*bucket.names, "gone.png", "../0_0001.png"]
    expected = {row.image: row for row in rows_of(bucket.folder, names)}
    found = {row.image: row for row in rows_of(bucket.place(f"{bucket.url}/{images}", store), names, store)}
    assert {name: row.status for name, row in found.items() if row.status != "ok"} == {
        "0_0003.png": "unreadable",
        "0_0005.png": "truncated",
        "gone.png": "missing",
        "../0_0001.png": "missing" if "tar" in images else "unsafe_name",
    }
    assert {name: row for name, row in found.items() if ".." not in name and name != "gone.png"} == {
        name: row for name, row in expected.items() if ".." not in name and name != "gone.png"
    }


def test_extraction_gives_the_same_bytes_from_wherever_pictures_lie(bucket: Bucket, tmp_path: Path) -> None:
    outputs = []
    for number, images in enumerate(("", "single", "tars/*.tar")):
        with Store.open(tmp_path / f"store {number}") as store:
            place: Any = bucket.place(f"{bucket.url}/{images}", store) if images else bucket.folder
            output = tmp_path / f"{number}.jsonl"
            extract("captions", MeanColour(), rows_of(place, bucket.names), place, output, store, 4)
            outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].count(b'"ok"') == COUNT - 2


def test_tars_of_a_folder_are_read_and_a_second_time_their_pictures_are_not(tmp_path: Path, store: Store) -> None:
    bucket = Bucket(tmp_path, f"file://{tmp_path}/set")
    data = DataParams(root=tmp_path / "set", images="tars/{00000..00002}.tar")
    first = rows_of(opened(data, LIMITS, store), bucket.names, store)

    class Unread(Tars):
        def read(self, name: str) -> bytes:
            raise AssertionError(name)

    again = Unread(str(data.images_elsewhere), LIMITS, store)
    assert rows_of(again, bucket.names, store) == first
    bucket.put("tars/00001.tar", bucket.tar(bucket.names[1::3]) + bytes(10240))
    again = Unread(str(data.images_elsewhere), LIMITS, store)
    others = [name for name in bucket.names if name not in bucket.names[1::3]]
    assert rows_of(again, others, store) == [row for row in first if row.image in others]
    with pytest.raises(AssertionError):
        rows_of(again, bucket.names[1:2], store)


def test_a_tar_that_is_cut_short_has_what_it_has(
    bucket: Bucket, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = bucket.tar(bucket.names[1::3])
    at = whole.index(b"0_0016.png") + 512 + 20
    bucket.put("tars/00001.tar", whole[:at])
    rows = {row.image: row for row in rows_of(bucket.place(f"{bucket.url}/tars/*.tar", store), bucket.names)}
    assert "00001.tar: this tar is damaged or cut short" in capsys.readouterr().err
    assert [rows[name].status for name in bucket.names[1::3]] == [*["ok"] * 5, "truncated", *["missing"] * 4]
    assert rows["0_0016.png"].error == "00001.tar ends within it: 20 bytes of " + str(
        (bucket.folder / "0_0016.png").stat().st_size
    )
    assert all(rows[name].status == "ok" for name in bucket.names[::3] if name != "0_0003.png")


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar")
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_files_kept_without_their_holes_are_missing_and_counted(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    with (tmp_path / "b.png").open("r+b") as file:
        file.truncate(1_000_000)
        file.seek(900_000)
        file.write(b"end")
    files = ["-cf", str(tmp_path / "x.tar"), "a.png", "b.png", "c.png"]
    command = ["tar", "--sparse", f"--format={form}", "-C", str(tmp_path), *files]
    subprocess.run(command, check=True)
    tars = Tars(str(tmp_path / "x.tar"), LIMITS, store)
    assert [tars.read(name) for name in ("a.png", "c.png")] == [b"a.png", b"c.png"]
    with pytest.raises(PictureError):
        tars.read("b.png")
    assert "x.tar: 1 of its files are kept without their holes, and are not read" in capsys.readouterr().err


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE, data: bytes = b"") -> bytes:
    """A member with whatever size its header is to have, below 0 as well."""
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    return made.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    "odd",
    [
        _header("b.png", -512),
        _header("b.png", -1024),
        _header("long", 2_000_000, tarfile.GNUTYPE_LONGNAME, bytes(2_000_000)),
        _header("long", -600, tarfile.GNUTYPE_LONGNAME),
        b"no header" + bytes(503) + _header("d.png", 0),
        _header("b.png", -512, tarfile.GNUTYPE_SPARSE),
        _header("x", 44, tarfile.XHDTYPE, b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + _header("c.png", 0),
    ],
    ids=[
        "in a circle",
        "back",
        "a name of megabytes",
        "a name of less than none",
        "no header",
        "sparse and in a circle",
        "sparse",
    ],
)
def test_a_hostile_tar_ends_where_it_is_odd(
    odd: bytes, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tar").write_bytes(_header("a.png", 3, data=b"abc") + odd + bytes(1024))
    assert Tars(str(tmp_path / "a.tar"), LIMITS, store).read("a.png") == b"abc"
    assert "this tar is damaged or cut short" in capsys.readouterr().err


def test_no_name_leads_out_of_the_folder_of_a_web_server_or_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    names = {"a": b"1", "a#b": b"2", "a?b": b"3", "%41": b"4"}
    for name, data in names.items():
        (tmp_path / "pictures" / name).write_bytes(data)
    (tmp_path / "secret").write_bytes(b"secret")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pictures = Objects(f"http://127.0.0.1:{server.server_port}/pictures", LIMITS)
    try:
        assert {name: pictures.read(name) for name in names} == names
        for name in ("%2e%2e/secret", "x/%2e%2e/%2e%2e/secret", "%2e%2e%2fsecret", "../secret"):
            with pytest.raises(PictureError, match=r"No such object|does not stay"):
                pictures.read(name)
    finally:
        server.shutdown()
        server.server_close()


def test_a_web_server_that_is_not_there_is_an_error_and_no_picture_that_is_missing() -> None:
    with pytest.raises(UserError, match=r"cannot be read: .*what was read so far is kept"):
        Objects("http://127.0.0.1:1/pictures", LIMITS).read("a.png")


def test_links_lead_out_of_no_folder_that_is_a_url(tmp_path: Path, store: Store) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "pictures/a").write_bytes(b"1")
    (tmp_path / "pictures/link").symlink_to(tmp_path / "secret")
    pictures = opened(DataParams(root=Path("."), images=f"file://{tmp_path}/pictures"), LIMITS, store)
    assert pictures is not None
    assert pictures.read("a") == b"1"
    with pytest.raises(PictureError, match="a link leads out"):
        pictures.read("link")


def test_a_name_in_two_tars_is_an_error(bucket: Bucket, store: Store) -> None:
    bucket.put("tars/00002.tar", bucket.tar([bucket.names[0]]))
    message = said(lambda: bucket.place(f"{bucket.url}/tars/*.tar", store))
    assert f"{bucket.names[0]} is in 00000.tar and in 00002.tar" in message


@pytest.mark.parametrize("images", ["none/{00000..00002}.tar", "none/*.tar", "none/0.tar"])
def test_tars_that_are_not_there_are_an_error(bucket: Bucket, store: Store, images: str) -> None:
    assert "no such tar" in said(lambda: bucket.place(f"{bucket.url}/{images}", store))


def test_what_a_worker_is_sent_asks_no_index(bucket: Bucket, store: Store) -> None:
    place = bucket.place(f"{bucket.url}/tars/*.tar", store)
    assert isinstance(place, Tars)
    names = bucket.names[:2]
    sent = pickle.loads(pickle.dumps(place.of(names)))  # noqa: S301  (our own)
    assert sent.read(names[0]) == (bucket.folder / names[0]).read_bytes()
    with pytest.raises(PictureError):
        sent.read(bucket.names[5])


def test_limits_hold_for_what_is_fetched(bucket: Bucket, store: Store) -> None:
    small = ImagesParams(max_bytes=100)
    for images in ("single", "tars/*.tar"):
        with pytest.raises(PictureError) as caught:
            bucket.place(f"{bucket.url}/{images}", store, small).read(bucket.names[0])
        assert caught.value.status == "too_large"


def test_a_protocol_that_nothing_here_speaks_is_an_error() -> None:
    assert "no package reads nowhere:// here" in said(lambda: Objects("nowhere://bucket", LIMITS))


LISTED = """
import os, sys
from pipeline.core.errors import run_cli
from pipeline.core.remote import Remote
remote = Remote(sys.argv[1])
if os.geteuid() == 0:
    os.setuid(54321)  # who may not read what root may
run_cli(lambda: print(remote.find()))
"""


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(tmp_path: Path) -> None:
    below = tmp_path / "parts" / "first"
    below.mkdir(parents=True)
    (below / "one.parquet").write_bytes(b"")
    assert Remote(str(tmp_path / "parts")).find() == ["first/one.parquet"]
    assert Remote(str(tmp_path / "none")).find() == []
    below.chmod(0)
    try:
        listed, errors = python(LISTED, str(tmp_path / "parts")).communicate()
    finally:
        below.chmod(0o755)
    assert "parts/: cannot be listed: [Errno 13] Permission denied" in errors, listed


class Faulty:
    """Answers some of the requests for objects with 503, or drops the connection, before they reach the server."""

    def __init__(self, application: Any) -> None:
        self.application, self.faults, self.asked, self.fault = application, 0, 0, "503"

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".png"):
            self.asked += 1
            if self.faults > 0:
                self.faults -= 1
                if self.fault == "503":
                    start("503 Slow Down", [("Content-Length", "0")])
                    return [b""]
                start("200 OK", [("Content-Length", "1000000")])
                return [b"cut"]
        return self.application(environ, start)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faulty]]:
    """moto's S3 on loopback, behind a fault."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (requirements-ray.lock)")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    from werkzeug.serving import make_server

    faulty = Faulty(moto.DomainDispatcherApplication(moto.create_backend_app))
    made = make_server("127.0.0.1", 0, faulty, threaded=True)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.port}", faulty
    finally:
        made.shutdown()
        thread.join()


@pytest.fixture
def s3(tmp_path: Path, server: tuple[str, Faulty], monkeypatch: pytest.MonkeyPatch) -> tuple[Bucket, Faulty]:
    address, faulty = server
    for name, value in (
        ("AWS_ENDPOINT_URL", address),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "planted-secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(tmp_path.name.replace("_", "-"))
    faulty.faults = 0
    return Bucket(tmp_path, f"s3://{tmp_path.name.replace('_', '-')}/data"), faulty


def test_s3_gives_the_bytes_of_the_folder_and_keeps_parts(s3: tuple[Bucket, Faulty], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-ray.lock)")
    bucket, _ = s3
    with Store.open(tmp_path / "store") as store:
        rows, output = rows_of(bucket.folder, bucket.names), tmp_path / "out.jsonl"
        extract("captions", MeanColour(), rows, bucket.folder, output, store, 4)
        expected = output.read_bytes()
        for images in ("single", "tars/{00000..00002}.tar"):
            place, parts = bucket.place(f"{bucket.url}/{images}", store), f"{bucket.url}/parts of {images[:4]}"
            assert rows_of(place, bucket.names) == rows
            found = extract("captions", MeanColour(), rows, place, output, Parts(parts), 4)
            assert (found.read, output.read_bytes()) == (COUNT - 2, expected)
            again = extract("captions", extractor := MeanColour(), rows, place, output, Parts(parts), 4)
            assert (again.read, output.read_bytes(), extractor.seen) == (0, expected, [])
            stored = bucket.system.find(parts)
            assert len(stored) == 1
            assert b"planted-secret" not in bucket.system.cat_file(stored[0])


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_what_passes_is_tried_again_and_costs_no_row(s3: tuple[Bucket, Faulty], fault: str, store: Store) -> None:
    bucket, faulty = s3
    expected = rows_of(bucket.folder, bucket.names)
    faulty.faults, faulty.fault = 3, fault
    assert rows_of(bucket.place(f"{bucket.url}/single", store), bucket.names) == expected
    assert faulty.faults == 0


@pytest.mark.slow  # the client tries for a while
def test_a_network_that_stays_away_is_an_error_and_no_row(s3: tuple[Bucket, Faulty], store: Store) -> None:
    bucket, faulty = s3
    place = bucket.place(f"{bucket.url}/single", store)
    faulty.faults, faulty.fault = 10**6, "503"
    message = said(lambda: rows_of(place, bucket.names))
    assert "cannot be read" in message
    assert "run again" in message
    assert "planted-secret" not in message


@pytest.mark.slow  # likewise
def test_a_server_that_is_not_there_is_an_error(
    s3: tuple[Bucket, Faulty], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, _ = s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    message = said(lambda: rows_of(bucket.place(f"{bucket.url}/single", store), bucket.names))
    assert "cannot be read" in message
