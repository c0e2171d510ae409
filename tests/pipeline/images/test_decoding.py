"""Decoding of pictures as they come: whole in every format, cut, damaged, too large."""

import struct
import threading
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.images.decoding import PictureError, decode
from pipeline.settings.params import ImagesParams
from tests.pipeline.images.made import LIMITS, RED, WHITE, close, encoded, two_halves


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
