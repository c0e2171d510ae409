"""A corpus of malformed pictures: each a row with what is wrong, within bounds of time and memory, nothing touched."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.records import ImageRow
from pipeline.images.decoding import DecoderEndedError, Decoders, PictureError, decode
from pipeline.images.listing import list_pictures
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams
from tests.conftest import ROOT
from tests.project import wait_for
from tests.robustness.conftest import light_project
from tests.robustness.corpus import KINDS, encoded, pictures, png, png_chunk, progressive_bomb

LIMITS = ImagesParams(max_pixels=10_000_000, max_bytes=20_000_000, max_seconds=2)
STATUSES = {"ok", "too_large", "too_slow", "truncated", "unreadable"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in a folder, with a secret beside it that no row may know of."""
    folder = tmp_path_factory.mktemp("hostile") / "images"
    folder.mkdir()
    for name, data in pictures():
        (folder / name).write_bytes(data)
    secret = folder.parent / "secret.png"
    secret.write_bytes(encoded_secret())
    (folder / "out.png").symlink_to(secret)
    (folder / "far.png").symlink_to("/etc/passwd")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "round.png").symlink_to("round.png")
    (folder / "door").symlink_to("..")
    os.mkfifo(folder / "pipe.png")
    return folder


def encoded_secret() -> bytes:
    return encoded(Image.new("RGB", (77, 77)), "PNG")


def state(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file below a folder: size, time, content."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_every_malformed_picture_gives_its_row(corpus: Path) -> None:
    names = sorted({*list_pictures(corpus), "door/secret.png", "../secret.png", str(corpus.parent / "secret.png")})
    assert len(list(pictures())) >= 200
    before = state(corpus.parent)
    started = time.monotonic()
    found = {row.image: row for row in manifest(names, corpus, LIMITS)}
    assert time.monotonic() - started < 60
    assert list(found) == names
    for name in (
        "out.png",
        "far.png",
        "device.png",
        "door/secret.png",
        "../secret.png",
        str(corpus.parent / "secret.png"),
    ):
        assert (found[name].status, found[name].sha256) == ("unsafe_name", None)
        del found[name]
    assert found.pop("round.png").status == "unreadable"
    assert found.pop("pipe.png").status == "unreadable"
    assert {row.status for row in found.values()} <= STATUSES
    assert all(bool(row.error) != (row.status == "ok") for row in found.values())
    statuses = {name: row.status for name, row in found.items()}
    assert statuses["bomb_scans.jpg"] == "too_slow"
    assert {name for name, status in statuses.items() if status == "too_slow"} == {"bomb_scans.jpg"}
    for name in (
        "bomb_60000x60000.png",
        "bomb_60000x60000.bmp",
        "bomb_65535x65535.gif",
        "bomb_60000x60000.tiff",
        "bomb_65500x65500.jpg",
        "bomb_7000x7000.jpg",
        "bomb_flat.png",
    ):
        assert statuses[name] == "too_large", found[name]
    assert {status for name, status in statuses.items() if name.startswith("no_picture")} == {"unreadable"}
    assert {status for name, status in statuses.items() if name.startswith("cut_0")} <= {"truncated", "unreadable"}
    for name in (
        "bomb_frames.gif",
        "bomb_frames.png",
        "bomb_frames.webp",
        "bomb_frames.tiff",
        "shape_1x1.png",
        "is_png.jpeg",
        "metadata_exif.jpg",
        "metadata_comments.jpg",
        "metadata_orientation_9.jpg",
    ):
        assert statuses[name] == "ok", found[name]
    assert found["is_png.jpeg"].format == "PNG"
    assert state(corpus.parent) == before, "nothing is written beside the pictures, or to them"


BOUNDED = """
import resource, sys
from pathlib import Path
from pipeline.images.manifest import manifest
from pipeline.images.listing import list_pictures
from pipeline.settings.params import ImagesParams
folder = Path(sys.argv[1])
limits = ImagesParams(max_pixels=10_000_000, max_bytes=20_000_000, max_seconds=2)
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
before = peak()
rows = list(manifest(list_pictures(folder), folder, limits, workers=2))
print(len(rows), peak() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.mark.slow  # the corpus in a process of its own, to see what memory it takes
def test_memory_stays_within_the_bound(corpus: Path) -> None:
    """The bound is 512 MB, max_bytes and 32 bytes for each of max_pixels; what is seen is far less."""
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(corpus)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    count, grown, decoder = map(int, done.stdout.split())
    assert count >= 200
    print(f"{count} pictures; memory grew by {grown} MB here, and to {decoder} MB in a decoder")
    assert grown < 2 * (20 + 4) + 50, "two batches of bytes at a time, and rows"
    assert decoder < 100 + 512 + 20 + 320


def test_a_picture_that_takes_for_ever_is_given_up_and_the_others_are_not(tmp_path: Path) -> None:
    good = encoded(Image.new("RGB", (30, 20), (9, 9, 9)), "PNG")
    bomb = progressive_bomb(3000, 3000, 30_000)
    with Decoders(ImagesParams(max_seconds=0.5)) as decoders:
        started = time.monotonic()
        found = decoders.sizes([good, bomb, good, bomb, good])
        assert time.monotonic() - started < 30
    assert [one for one in found if not isinstance(one, PictureError)] == [(30, 20, "PNG")] * 3
    for place in (1, 3):
        error = found[place]
        assert isinstance(error, DecoderEndedError)
        assert error.status == "too_slow"
        assert "images.max_seconds = 0.5" in str(error)


def test_a_decoder_that_is_killed_costs_one_picture(tmp_path: Path) -> None:
    """What crashes a decoder is the picture's own row; here the crash is a signal from outside."""
    good = encoded(Image.new("RGB", (30, 20)), "PNG")
    with Decoders(ImagesParams()) as decoders:
        assert decoders.sizes([good]) == [(30, 20, "PNG")]
        os.kill(decoders._all[0].process.pid, signal.SIGSEGV)
        broken, after = decoders.sizes([good, good])
    assert isinstance(broken, DecoderEndedError)
    assert "SIGSEGV" in str(broken)
    assert after == (30, 20, "PNG")


def test_a_stop_from_outside_costs_no_picture() -> None:
    """Ctrl-Z, a frozen container: the clock of a picture runs on while its decoder does not."""
    bomb = progressive_bomb(1500, 1500, 600)  # a second or so
    with Decoders(ImagesParams(max_seconds=20)) as decoders:
        decoders.sizes([encoded(Image.new("RGB", (30, 20)), "PNG")])
        child = decoders._all[0].process.pid
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(decoders.sizes, [bomb])
            wait_for(lambda: Path(f"/proc/{child}/stat").read_text().split()[2] == "R")
            os.kill(child, signal.SIGSTOP)
            os.kill(child, signal.SIGALRM)  # as its clock does, after ten times max_seconds
            os.kill(child, signal.SIGCONT)
            assert reading.result() == [(1500, 1500, "JPEG")]
        assert decoders._all[0].process.pid != child, "it was the clock that ended it"


def test_what_is_printed_as_python_starts_disturbs_no_decoder(tmp_path: Path) -> None:
    """A sitecustomize may print, or end the interpreter; the former is nobody's concern, the latter one message."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(sample_of("PNG"))
    code = (
        "import sys; from pathlib import Path; from pipeline.core.errors import run_cli\n"
        "from pipeline.images.manifest import manifest; from pipeline.settings.params import ImagesParams\n"
        "run_cli(lambda: print(*(r.status for r in manifest(['a.png'], Path(sys.argv[1]), ImagesParams()))))"
    )
    for line, expected in (("print('hello', flush=True)", "ok"), ("import os; os._exit(7)", "exit status 7")):
        (tmp_path / "sitecustomize.py").write_text(f"import sys\nif sys.flags.safe_path: {line}\n", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "images")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert expected in done.stdout
        assert "Traceback" not in done.stdout


def test_a_picture_that_needs_too_much_memory_is_a_row() -> None:
    """The children have a limit; here it is lowered to what they take already and a little more."""
    good, large = sample_of("PNG"), encoded(Image.new("RGB", (3000, 3000)), "JPEG", progressive=True)
    with Decoders(LIMITS) as decoders:
        decoders.sizes([good])
        child = decoders._all[0].process.pid
        taken = int(Path(f"/proc/{child}/statm").read_text().split()[0]) * resource.getpagesize()
        limit, _ = resource.prlimit(child, resource.RLIMIT_AS)
        assert 0 < limit - taken <= 512_000_000 + LIMITS.max_bytes + 32 * LIMITS.max_pixels
        resource.prlimit(child, resource.RLIMIT_AS, (taken + 20_000_000, taken + 20_000_000))
        found = decoders.sizes([large, good])
    assert isinstance(found[0], DecoderEndedError)
    assert (found[0].status, str(found[0])) == ("unreadable", "not enough memory to decode it")
    assert found[1] == (24, 16, "PNG")


UNDER_A_LIMIT = """
import resource, sys
from pipeline.images.decoding import Decoders
from pipeline.settings.params import ImagesParams
hard = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
with Decoders(ImagesParams()) as decoders:
    print(*decoders.sizes([open(sys.argv[2], "rb").read()]))
    print(*resource.prlimit(decoders._all[0].process.pid, resource.RLIMIT_AS))
"""


def test_a_limit_from_outside_is_kept(tmp_path: Path) -> None:
    """As `ulimit -v` and batch systems set it; whoever may raise a limit does not, and others could not."""
    hard = 1_500_000_000
    (tmp_path / "a.png").write_bytes(sample_of("PNG"))
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, str(hard), str(tmp_path / "a.png")],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["(24, 16, 'PNG')", f"{hard} {hard}"], done.stderr


def test_what_was_given_up_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    from pipeline.core.store import Store

    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a.jpg"
    path.write_bytes(progressive_bomb(1000, 1000, 3000))
    os.utime(path, (1e9, 1e9))
    with Store.open(tmp_path / "store") as store:

        def row(seconds: float) -> ImageRow:
            return next(manifest(["a.jpg"], tmp_path / "images", ImagesParams(max_seconds=seconds), store))

        assert row(0.05).status == "too_slow"
        assert row(60).status == "ok"
        assert row(0.05).status == "ok", "and now it is known"


@pytest.mark.slow  # runs the models of the sample
@pytest.mark.timeout(900)
def test_the_stages_make_a_row_of_every_malformed_picture(corpus: Path, tmp_path: Path) -> None:
    """Posts → images → objects, captions, OCR on the corpus, by their commands."""
    project = light_project(tmp_path / "project", 0)
    folder = project.folder / "set" / "images"
    folder.rmdir()
    folder.symlink_to(corpus)
    ids = [
        *list_pictures(corpus),
        "../secret.png",
        str(corpus.parent / "secret.png"),
        "door/secret.png",
        "..",
        "a\0b",
        "x" * 300,
    ]
    text = "".join(f"IMGID:{name}\nhello\tO\n\n" for name in ids)
    (project.folder / "set" / "train.txt").write_text(text, encoding="utf-8")
    for split in ("dev", "test"):
        (project.folder / "set" / f"{split}.txt").write_text("IMGID:nowhere\nhello\tO\n\n", encoding="utf-8")
    project.edit(
        data={"image_name": "{id}"}, images={"max_pixels": 10_000_000, "max_bytes": 20_000_000, "max_seconds": 2}
    )
    before = state(corpus.parent)
    for stage in ("posts", "images", "objects", "captions", "ocr"):
        output = project.run("python", "-m", f"stages.{stage}")
        assert "Traceback" not in output
    assert state(corpus.parent) == before
    expected = sorted({*ids, "nowhere"})
    statuses = {row["image"]: row["status"] for row in project.rows("data/images.jsonl")}
    assert list(statuses) == expected
    for kind in ("objects", "captions", "ocr"):
        rows = project.rows(f"data/contexts/{kind}.jsonl")
        assert [row["image"] for row in rows] == expected
        failed = {row["image"]: row["error"] for row in rows if row["status"] == "failed"}
        print(kind, failed)
        assert all(name.startswith("shape_") and error for name, error in failed.items()), "lines a pixel wide, for OCR"
        assert not failed or kind == "ocr"
        assert {row["image"]: row["status"] for row in rows if row["image"] not in failed} == {
            name: status for name, status in statuses.items() if name not in failed
        }
    assert {path.name for path in project.folder.iterdir()} - {"__pycache__"} == {
        "pipeline",
        "stages",
        "ner",
        "checkpoints",
        "params.yaml",
        "faulty.py",
        "set",
        "data",
        "metrics",
    }


def sample_of(kind: str) -> bytes:
    return encoded(Image.linear_gradient("L").resize((24, 16)).convert("RGB"), kind)


def outcome(data: bytes) -> str:
    try:
        picture, kind = decode(data, LIMITS)
    except PictureError as error:
        return error.status if str(error) else "no reason given"
    assert picture.mode == "RGB"
    assert picture.width * picture.height <= LIMITS.max_pixels
    assert kind in (*KINDS, "AVIF")
    picture.getpixel((picture.width - 1, picture.height - 1))
    return "ok"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(KINDS),
    edits=st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=9)), max_size=8),
    cut=st.integers(0, 5000),
)
@example(kind="PNG", edits=[], cut=8)
@example(kind="TIFF", edits=[(4, b"\x08\0\0\0")], cut=5000)  # the directory is within the header
@example(kind="GIF", edits=[(6, b"\0\0\0\0")], cut=5000)  # 0 × 0
@example(kind="BMP", edits=[(14, b"\x0c\0\0\0")], cut=5000)  # another header's size
@example(kind="WEBP", edits=[(4, b"\xff\xff\xff\xff")], cut=5000)
def test_hypothesis_edits_of_pictures(kind: str, edits: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(sample_of(kind))
    for place, change in edits:
        place %= len(data)
        data[place : place + len(change)] = change
    assert outcome(bytes(data[: cut or None])) in STATUSES


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    start=st.sampled_from(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"GIF89a",
            b"BM",
            b"II*\0",
            b"MM\0*",
            b"RIFF",
            b"\0\0\0\x1cftypavif",
            b"II+\0",
        ]
    ),
    rest=st.binary(max_size=400),
)
def test_hypothesis_bytes_behind_a_signature(start: bytes, rest: bytes) -> None:
    assert outcome(start + rest) in STATUSES


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    width=st.integers(0, 2**31),
    height=st.integers(0, 2**31),
    depth=st.sampled_from([0, 1, 2, 4, 8, 16, 255]),
    colour=st.integers(0, 7),
    interlace=st.integers(0, 2),
    data=st.binary(max_size=50),
)
def test_hypothesis_headers_of_png(
    width: int, height: int, depth: int, colour: int, interlace: int, data: bytes
) -> None:
    pixels = png_chunk(b"IDAT", data)
    assert outcome(png(width, height, pixels, depth=depth, colour=colour, interlace=interlace)) in STATUSES
