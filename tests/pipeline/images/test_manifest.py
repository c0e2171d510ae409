"""Decoding of pictures as they come, and the manifest of what they are."""

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import ImageRow
from pipeline.core.store import Store
from pipeline.images import manifest as images
from pipeline.images.decoding import PictureError, decode
from pipeline.images.manifest import manifest
from pipeline.images.pictures import read_bytes
from pipeline.settings.params import ImagesParams
from tests.conftest import ROOT

LIMITS = ImagesParams()
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def two_halves(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    picture = Image.new("RGB", (width, height), (0, 0, 255))
    picture.paste(RED, (0, 0, width // 2, height))
    return picture


def close(found: object, expected: tuple[int, int, int], tolerance: int = 6) -> bool:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= tolerance  # type: ignore[call-overload]


def png_header_alone(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0"))
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_every_format_becomes_rgb_and_is_told_by_content(kind: str) -> None:
    picture, found = decode(encoded(two_halves(), kind), LIMITS)
    assert (picture.mode, picture.size, found) == ("RGB", (40, 20), kind)
    assert close(picture.getpixel((5, 10)), RED, 40)


def test_exif_orientation_is_applied() -> None:
    upright = two_halves()
    for orientation, back in [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ]:
        stored = upright.transpose(back)
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
            picture, _ = decode(encoded(stored, kind, exif=exif, **options), LIMITS)
            assert picture.size == (40, 20), (kind, orientation)
            assert close(picture.getpixel((5, 10)), RED), (kind, orientation)
            assert close(picture.getpixel((35, 10)), (0, 0, 255)), (kind, orientation)


def test_damaged_exif_does_not_sink_the_picture() -> None:
    data = encoded(two_halves(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert decode(data, LIMITS)[0].size == (40, 20)


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 4, 8))
    grey = Image.new("LA", (8, 8), (0, 0))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.paste(0, (0, 0, 4, 8))
    colour_key = Image.new("RGB", (8, 8), (0, 255, 0))
    colour_key.paste(RED, (0, 0, 4, 8))
    for data in [
        encoded(clear, "PNG"),
        encoded(clear, "WEBP", lossless=True),
        encoded(grey, "PNG"),
        encoded(palette, "PNG", transparency=1),
        encoded(palette, "GIF", transparency=1),
        encoded(colour_key, "PNG", transparency=(0, 255, 0)),
    ]:
        picture, _ = decode(data, LIMITS)
        assert picture.mode == "RGB"
        assert picture.getpixel((6, 4)) == WHITE
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert close(decode(encoded(half, "PNG"), LIMITS)[0].getpixel((0, 0)), (127, 127, 127), 1)


def reds(picture: Image.Image) -> list[int]:
    """The red values of the first row."""
    return [int(value) for value in np.asarray(picture)[0, :, 0]]


def test_cmyk_grey_bilevel_and_16_bit_become_rgb() -> None:
    assert close(decode(encoded(two_halves().convert("CMYK"), "JPEG"), LIMITS)[0].getpixel((5, 10)), RED, 12)
    assert close(decode(encoded(two_halves().convert("CMYK"), "TIFF"), LIMITS)[0].getpixel((5, 10)), RED)
    assert decode(encoded(Image.new("L", (4, 4), 77), "PNG"), LIMITS)[0].getpixel((0, 0)) == (77, 77, 77)
    assert decode(encoded(Image.new("1", (4, 4), 1), "PNG"), LIMITS)[0].getpixel((0, 0)) == WHITE
    deep = Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16))
    for kind in ("PNG", "TIFF"):
        picture, _ = decode(encoded(deep, kind), LIMITS)
        assert reds(picture) == [0, 0, 1, 255], kind
    wide = Image.fromarray(np.array([[0, 65535, 1 << 20, -5]], np.int32))
    assert reds(decode(encoded(wide, "TIFF"), LIMITS)[0]) == [0, 255, 255, 0]
    for values, expected in [
        ([[0.0, 0.5, 1.0, np.nan]], [0, 127, 255, 0]),
        ([[0.0, 100.0, 300.0, -1]], [0, 100, 255, 0]),
    ]:
        data = encoded(Image.fromarray(np.array(values, np.float32)), "TIFF")
        assert reds(decode(data, LIMITS)[0]) == expected


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_stands_for_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (16, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    picture, _ = decode(data, LIMITS)
    assert close(picture.getpixel((8, 4)), RED, 10)


def test_a_jpeg_with_jpegs_behind_is_a_jpeg() -> None:
    data = encoded(two_halves(), "MPO", save_all=True, append_images=[two_halves()])
    assert decode(data, LIMITS)[1] == "JPEG"


def failure(data: bytes, limits: ImagesParams = LIMITS) -> PictureError:
    with pytest.raises(PictureError) as caught:
        decode(data, limits)
    return caught.value


def test_what_is_no_picture_is_unreadable() -> None:
    for data, hint in [
        (b"", "empty"),
        (b"not a picture at all", "no picture"),
        (b"<html>404</html>", "HTML"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\xff\xd8\xff", ""),
        (b"%PDF-1.4", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "no picture"),
    ]:
        error = failure(data)
        assert error.status in ("unreadable", "truncated")
        assert hint in str(error)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_cut_picture_is_reported(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for share in (0.2, 0.5, 0.8):
        assert failure(data[: int(len(data) * share)]).status in ("truncated", "unreadable")
    if kind in ("JPEG", "PNG", "BMP"):
        assert failure(data[: len(data) * 3 // 4]).status == "truncated"


def test_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = png_header_alone(60_000, 60_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert failure(bomb).status == "too_large"
    loaded: list[object] = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: loaded.append(self))
    error = failure(png_header_alone(8000, 8000))
    assert (error.status, loaded) == ("too_large", [])
    assert "8000×8000" in str(error)
    assert "max_pixels" in str(error)
    assert failure(encoded(two_halves(), "GIF"), ImagesParams(max_pixels=799)).status == "too_large"


def test_limits_are_each_pictures_own() -> None:
    """Threads with different limits do not see each other's, and no setting of Pillow's changes."""
    before = (Image.MAX_IMAGE_PIXELS, __import__("PIL.ImageFile").ImageFile.LOAD_TRUNCATED_IMAGES)
    data = encoded(two_halves(100, 100), "PNG")
    outcomes: dict[int, set[str]] = {9_999: set(), 10_000: set()}

    def work(limit: int) -> None:
        for _ in range(50):
            try:
                decode(data, ImagesParams(max_pixels=limit))
                outcomes[limit].add("ok")
            except PictureError as error:
                outcomes[limit].add(error.status)

    threads = [threading.Thread(target=work, args=(limit,)) for limit in outcomes for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {9_999: {"too_large"}, 10_000: {"ok"}}
    assert before == (Image.MAX_IMAGE_PIXELS, __import__("PIL.ImageFile").ImageFile.LOAD_TRUNCATED_IMAGES)


def rows(folder: Path, *names: str, store: Store | None = None, limits: ImagesParams = LIMITS) -> dict[str, ImageRow]:
    return {row.image: row for row in manifest(names, folder, limits, store)}


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "images", tmp_path / "secret"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for place in (folder, folder / "sub", outside):
        (place / "a.png").write_bytes(encoded(two_halves(), "PNG"))
    (folder / "in.png").symlink_to(folder / "sub" / "a.png")
    (folder / "out.png").symlink_to(outside / "a.png")
    (folder / "door").symlink_to(outside)
    (folder / "beside").symlink_to(tmp_path / "images_not")
    names = [
        "a.png",
        "sub/a.png",
        "in.png",
        "out.png",
        "door/a.png",
        "../secret/a.png",
        "sub/../../secret/a.png",
        str(outside / "a.png"),
        "..",
        ".",
        "",
        "a\0.png",
        "..\\secret\\a.png",
        "C:/a.png",
        "./a.png",
        "sub//a.png",
    ]
    found = rows(folder, *names)
    inside = {"a.png", "sub/a.png", "in.png"}
    assert {name for name, row in found.items() if row.status == "ok"} == inside
    assert {row.status for name, row in found.items() if name not in inside} == {"unsafe_name"}
    assert all(row.sha256 is None for row in found.values() if row.status != "ok")


def test_manifest_rows_are_sorted_unique_and_true(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(encoded(two_halves(40, 20), "JPEG", exif=exif))
    (tmp_path / "png.jpg").write_bytes(encoded(two_halves(), "PNG"))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(encoded(two_halves(200, 200), "JPEG")[:-200])
    (tmp_path / "big.jpg").write_bytes(b"\0" * 2000)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    names = [
        "turned.jpg",
        "png.jpg",
        "empty.jpg",
        "text.jpg",
        "cut.jpg",
        "big.jpg",
        "folder.jpg",
        "pipe.jpg",
        "nowhere.jpg",
        "x" * 300,
        "png.jpg",
    ]
    found = list(manifest(names, tmp_path, ImagesParams(max_bytes=1999)))
    assert [row.image for row in found] == sorted(set(names))
    by_name = {row.image: row for row in found}
    turned = by_name["turned.jpg"]
    assert (turned.width, turned.height, turned.format, turned.status, turned.error) == (20, 40, "JPEG", "ok", None)
    assert by_name["png.jpg"].format == "PNG"
    assert {name: row.status for name, row in by_name.items() if row.status != "ok"} == {
        "empty.jpg": "unreadable",
        "text.jpg": "unreadable",
        "cut.jpg": "truncated",
        "big.jpg": "too_large",
        "folder.jpg": "unreadable",
        "pipe.jpg": "unreadable",
        "nowhere.jpg": "missing",
        "x" * 300: "missing",
    }
    assert all(row.error for row in found if row.status != "ok")
    assert by_name["cut.jpg"].sha256
    assert by_name["cut.jpg"].width is None


def test_manifest_without_a_folder(tmp_path: Path) -> None:
    assert [row.status for row in manifest(["b.jpg", "a.jpg"], None, LIMITS)] == ["missing", "missing"]
    with pytest.raises(UserError, match="no such folder"):
        manifest(["a.jpg"], tmp_path / "none", LIMITS)
    with pytest.raises(UserError, match="surrogate"):
        manifest(["\ud800.jpg"], tmp_path, LIMITS)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    real = read_bytes

    def counting(path: Path, limits: ImagesParams) -> bytes:
        read.append(path)
        return real(path, limits)

    monkeypatch.setattr(images, "read_bytes", counting)
    return read


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.png").write_bytes(encoded(two_halves(20 + number, 20), "PNG"))
        os.utime(folder / f"{number:02}.png", (1e9, 1e9))
    (folder / "30.png").write_text("no picture")
    os.utime(folder / "30.png", (1e9, 1e9))
    names = [f"{number:02}.png" for number in range(31)]
    read = count_reads(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        first = rows(folder, *names, store=store)
        assert len(read) == 31
        assert rows(folder, *names, store=store) == first
        assert len(read) == 31
        (folder / "07.png").write_bytes(encoded(two_halves(99, 20), "PNG"))
        os.utime(folder / "07.png", (1e9, 1e9))  # same time, and other bytes: the change of the inode tells
        (folder / "08.png").unlink()
        (folder / "08.png").write_bytes((folder / "09.png").read_bytes())
        second = rows(folder, *names, store=store)
        assert sorted(path.name for path in read[31:]) == ["07.png", "08.png"]
        assert second["07.png"].width == 99
        assert second["08.png"].sha256 == second["09.png"].sha256
        assert rows(folder, *names, store=store, limits=ImagesParams(max_pixels=500))["20.png"].status == "too_large"


def test_a_file_just_written_is_not_trusted_to_its_time_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new.png").write_bytes(encoded(two_halves(), "PNG"))
    read = count_reads(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        rows(tmp_path, "new.png", store=store)
        rows(tmp_path, "new.png", store=store)
    assert len(read) == 2


def test_damage_of_any_kind_gives_a_picture_or_a_status() -> None:
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    whole: list[Callable[[], bytes]] = [
        lambda kind=kind: encoded(noise, kind)  # type: ignore[misc]
        for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
    ]
    for make in whole:
        data = make()
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), rng.integers(1, 6)):
                damaged[place] = rng.integers(0, 256)
            try:
                outcome = decode(bytes(damaged[: rng.integers(1, len(data) + 1)]), LIMITS)[0].mode
            except PictureError as error:
                outcome = error.status
            assert outcome in ("RGB", "unreadable", "truncated", "too_large")


def test_there_is_a_decoder_for_each_core_that_the_process_may_use(tmp_path: Path) -> None:
    """Bound to one core, the stage starts one child, however many cores the machine has."""
    for number in range(64):
        (tmp_path / f"{number:02}.png").write_bytes(encoded(two_halves(20 + number, 20), "PNG"))
    code = """
import os, sys
from pathlib import Path
from pipeline.images.decoding import Decoders
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
started = []
class Counted(Decoders):
    def _start(self):
        started.append(self)
        return super()._start()
sys.modules["pipeline.images.manifest"].Decoders = Counted
folder = Path(sys.argv[1])
assert {row.status for row in manifest(sorted(os.listdir(folder)), folder, ImagesParams())} == {"ok"}
print(len(started))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"]
