"""Hostile input, made from a seed: malformed pictures by name, malformed text files with what is to become of them."""

import io
import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def progressive_bomb(width: int, height: int, scans: int) -> bytes:
    """A small JPEG whose last scan comes again and again; each costs a pass over all of its pixels."""
    data = encoded(Image.new("RGB", (width, height), (200, 30, 30)), "JPEG", progressive=True, quality=50)
    last = data.rindex(b"\xff\xda")
    table = data.rindex(b"\xff\xc4", 0, last)
    return data[:-2] + data[table:-2] * scans + data[-2:]


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG of these chunks behind its header."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IEND", b"")


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 154, 0, 0, 54, 40, width, height, 1, 24, 0, 100, 0, 0, 0, 0)


def gif_header(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0, 0, 0)
        + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x08\x01\0\0\x3b"
    )


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A TIFF of one directory: (tag, type, count, value) each."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def pictures(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Some 320 malformed or extreme pictures, name → bytes. Some can be read all the same."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8))
    whole = {kind: encoded(noise, kind) for kind in KINDS}
    for kind, data in whole.items():
        suffix = kind.lower()
        for number in range(20):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 1 + number):
                damaged[place] ^= int(rng.integers(1, 256))
            yield f"flips_{number:02}.{suffix}", bytes(damaged)
        for number, share in enumerate(np.linspace(0.01, 0.99, 12)):
            yield f"cut_{number:02}.{suffix}", data[: int(len(data) * share)]
        yield f"doubled.{suffix}", data + data
        yield f"zeros_behind.{suffix}", data + bytes(100_000)
        yield f"head_alone.{suffix}", data[:16] + bytes(2000)
        for other in KINDS:
            if other != kind:
                yield f"is_{kind.lower()}.{other.lower()}", data
    yield from _bombs()
    yield from _metadata(noise)
    for width, height in [(1, 1), (1, 2), (65_535, 1), (1, 65_500), (40_000, 2), (1, 40_000), (3, 20_000)]:
        for kind in ("PNG", "JPEG", "BMP", "TIFF"):
            if max(width, height) <= 65_500 or kind in ("PNG", "TIFF"):
                yield f"shape_{width}x{height}.{kind.lower()}", encoded(Image.new("RGB", (width, height)), kind)
    yield "shape_1x1.gif", encoded(Image.new("P", (1, 1)), "GIF")
    yield "shape_16383x1.webp", encoded(Image.new("RGB", (16_383, 1)), "WEBP")
    for name, data in [
        ("empty", b""),
        ("one_byte", b"\xff"),
        ("text", b"hello " * 1000),
        ("html", b"<!DOCTYPE html>"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("pdf", b"%PDF-1.7\n" * 50),
        ("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nsystemdict /quit get exec\n"),
        ("zip", b"PK\3\4" + bytes(500)),
        ("pickle", b"\x80\4cos\nsystem\n(S'id'\ntR."),
        ("elf", b"\x7fELF" + bytes(500)),
        ("nul", bytes(5000)),
        ("heic", b"\0\0\0\x18ftypheic" + bytes(99)),
        ("jpeg_markers", b"\xff\xd8" + b"\xff\xe0\0\x02" * 20_000),
        ("icns", b"icns" + bytes(99)),
        ("avif_empty", b"\0\0\0\x1cftypavif" + bytes(99)),
    ]:
        yield f"no_picture_{name}.jpg", data


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that claim, or unfold to, a lot."""
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0"))
    for width, height in [
        (60_000, 60_000),
        (2_000_000_000, 2),
        (2**31 - 1, 2**31 - 1),
        (0, 10),
        (10, 0),
        (7_000, 7_000),
    ]:
        yield f"bomb_{width}x{height}.png", png(width, height, pixels)
    yield "bomb_interlaced.png", png(7_000, 7_000, pixels, interlace=1)
    yield "bomb_unfolds.png", png(10, 10, png_chunk(b"IDAT", zlib.compress(bytes(200_000_000), 9)))
    yield "bomb_flat.png", png(7_000, 7_000, png_chunk(b"IDAT", zlib.compress(bytes(7_000 * 21_001), 9)))
    for width, height in [(60_000, 60_000), (2**31 - 1, 1), (-5, 5), (5, -(2**31)), (0, 0)]:
        yield f"bomb_{width}x{height}.bmp", bmp_header(width, height) + bytes(100)
    for width, height in [(65_535, 65_535), (65_535, 1), (0, 0)]:
        yield f"bomb_{width}x{height}.gif", gif_header(width, height)
    frames = [Image.new("P", (300, 300), number % 200) for number in range(500)]
    yield "bomb_frames.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield (
        "bomb_frames.png",
        encoded(
            frames[0].convert("RGB"),
            "PNG",
            save_all=True,
            append_images=[frame.convert("RGB") for frame in frames[1:100]],
        ),
    )
    yield (
        "bomb_frames.webp",
        encoded(
            frames[0].convert("RGB"),
            "WEBP",
            save_all=True,
            method=0,
            append_images=[frame.convert("RGB") for frame in frames[1:60]],
        ),
    )
    yield "bomb_frames.tiff", encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:200])
    size = [(256, 4, 1, 60_000), (257, 4, 1, 60_000)]
    rest = [(258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1)]
    yield "bomb_60000x60000.tiff", tiff([*size, *rest, (278, 4, 1, 60_000), (279, 4, 1, 10)])
    yield "bomb_loop.tiff", tiff([(256, 4, 1, 9), (257, 4, 1, 9), *rest], following=8)
    yield "bomb_count.tiff", tiff([(256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 2**32 - 1, 8), *rest])
    yield (
        "bomb_tiles.tiff",
        tiff(
            [
                (256, 4, 1, 9),
                (257, 4, 1, 9),
                *rest[:3],
                (277, 3, 1, 1),
                (322, 4, 1, 2**31),
                (323, 4, 1, 2**31),
                (324, 4, 1, 8),
                (325, 4, 1, 4),
            ]
        ),
    )
    yield "bomb_scans.jpg", progressive_bomb(3_000, 3_000, 20_000)
    large = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    place = large.index(b"\xff\xc0") + 5
    large[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    yield "bomb_65500x65500.jpg", bytes(large)
    large[place : place + 4] = struct.pack(">HH", 7_000, 7_000)
    yield "bomb_7000x7000.jpg", bytes(large)


def _metadata(noise: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Pictures with far more, or far stranger, about them than in them."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 900_000, zip=True)
    yield "metadata_text.png", encoded(noise, "PNG", pnginfo=text)
    unfolding = zlib.compress(bytes(100_000_000), 9)
    for name, chunk in [
        ("ztxt", png_chunk(b"zTXt", b"Comment\0\0" + unfolding)),
        ("itxt", png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + unfolding)),
        ("iccp", png_chunk(b"iCCP", b"name\0\0" + unfolding)),
        ("texts", b"".join(png_chunk(b"tEXt", b"k%d\0" % n + b"v" * 900_000) for n in range(80))),
    ]:
        yield f"metadata_{name}.png", png(1, 1, chunk, png_chunk(b"IDAT", zlib.compress(b"\0\0\0\0")))
    yield (
        "metadata_chunks.png",
        png(1, 1, png_chunk(b"abCd", b"") * 200_000, png_chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))),
    )
    plain = encoded(noise, "JPEG")
    for name, segment in [
        ("exif", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 60_000),
        ("icc", b"ICC_PROFILE\0\1\xff"),
        ("xmp", b"http://ns.adobe.com/xap/1.0/\0" + b"<" * 60_000),
        ("adobe", b"Adobe"),
        ("mpo", b"MPF\0II*\0\x08\0\0\0\2\0" + b"\0\xb0\7\0\4\0\0\0" + b"\xff" * 40),
    ]:
        marker = {"icc": 0xE2, "mpo": 0xE2, "adobe": 0xEE}.get(name, 0xE1)
        header = bytes([0xFF, marker]) + struct.pack(">H", len(segment) + 2)
        yield f"metadata_{name}.jpg", plain[:2] + (header + segment) * (1 if name != "exif" else 30) + plain[2:]
    yield "metadata_comments.jpg", plain[:2] + (b"\xff\xfe\xff\xff" + b"x" * 65_533) * 60 + plain[2:]
    for orientation in (0, 9, 65_535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"metadata_orientation_{orientation}.jpg", encoded(noise, "JPEG", exif=exif)


def texts() -> Iterator[tuple[str, str, bytes, str]]:
    """Over 100 text files: name, format, bytes, and ``ok`` or what the error is to name.

    Whatever is ``ok`` has at least one post.
    """
    good = "IMGID:1\nhello\tO\nParis\tB-LOC\n\n"
    for name, text in [
        ("bom", "\ufeff" + good),
        ("crlf", good.replace("\n", "\r\n")),
        ("no_last_line_end", good.rstrip("\n")),
        ("nul", "IMGID:1\nhel\0lo\tO\n\n"),
        ("nul_id", "IMGID:1\0\nhello\tO\n\n"),
        ("u2028", "IMGID:1\na\u2028b\tO\n\n"),
        ("u0085", "IMGID:1\na\x85b\tO\n\n"),
        ("form_feed", "IMGID:1\na\x0cb\tO\n\n"),
        ("cr_within", "IMGID:1\na\rb\tO\n\n"),
        ("invisible", "IMGID:1\n\u200b\tO\n\ufe0f\tO\n\u00a0\tO\n\n"),
        ("bidi", "IMGID:1\n\u202eabc\tO\n\n"),
        ("astral", "IMGID:1\n\U0001f468\u200d\U0001f469\tO\n\n"),
        ("combining", "IMGID:1\n" + "e" + "\u0301" * 5000 + "\tO\n\n"),
        ("million", "IMGID:1\n" + "x" * 1_000_000 + "\tO\n\n"),
        ("long_id", "IMGID:" + "9" * 100_000 + "\na\tO\n\n"),
        ("up_id", "IMGID:../../etc/passwd\na\tO\n\n"),
        ("absolute_id", "IMGID:/etc/passwd\na\tO\n\n"),
        ("brace_id", "IMGID:{0.__class__}\na\tO\n\n"),
        ("percent_id", "IMGID:%s%n\na\tO\n\n"),
        ("space_id", "IMGID: \na\tO\n\n"),
        ("backslash_id", "IMGID:..\\..\\x\na\tO\n\n"),
        ("dot_id", "IMGID:.\na\tO\n\n"),
        ("same_ids", good * 20),
        ("many_blank", "\n" * 50_000 + good + "\n" * 50_000),
        ("tabs_between", good.replace("\n\n", "\n\t\t\n") * 2),
        ("no_ids", "a\tO\nb\tO\n\nc\tO\n"),
        ("no_labels", "IMGID:1\na\nb\n\n"),
        ("orphan", "IMGID:1\na\tI-LOC\n\n"),
        ("long_type", "IMGID:1\na\tB-" + "T" * 10_000 + "\n\n"),
        ("third_column", "IMGID:1\na\tO\tx\n\n"),
        ("empty", ""),
        ("blank", "\n\n\n"),
        ("space_line", "IMGID:1\na\tO\n \tO\n\n"),
        ("many_tokens", "IMGID:1\n" + "a\tO\n" * 100_000 + "\n"),
    ]:
        expected = {"empty": "no posts", "blank": "no posts"}.get(name, "ok")
        yield f"{name}.txt", "conll", text.encode(), expected
    for name, text, message in [
        ("missing_label", "IMGID:1\na\tO\nb\n\n", "2columns"),
        ("label_late", "IMGID:1\na\nb\tO\n\n", "has a label"),
        ("no_token", "IMGID:1\n\tO\n\n", "no token"),
        ("bad_label", "IMGID:1\na\tLOC\n\n", "LOC"),
        ("bad_prefix", "IMGID:1\na\tX-LOC\n\n", "X-LOC"),
        ("no_type", "IMGID:1\na\tB-\n\n", "B-"),
        ("lower", "IMGID:1\na\tb-loc\n\n", "b-loc"),
        ("empty_id", "IMGID:\na\tO\n\n", "without an id"),
        ("no_tokens", "IMGID:1\n\nIMGID:2\na\tO\n\n", "no tokens"),
        ("label_space", "IMGID:1\na\tO \n\n", "O "),
        ("spaces_for_tabs", "IMGID:1\na O\nb\tO\n\n", "has a label"),
        ("label_is_million", "IMGID:1\na\t" + "y" * 10**6 + "\n", "y"),
        ("nul_label", "IMGID:1\na\tO\0\n\n", "O"),
        ("cr_alone", "IMGID:1\ra\tO\r\r", "carriage return"),
        ("many_bad", "IMGID:1\n" + "a\tZ\n" * 50_000, "more in"),
    ]:
        yield f"bad_{name}.txt", "conll", text.encode(), message if message != "2columns" else "has no label"
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "shift_jis", "cp500"):
        text = good.replace("hello", {"shift_jis": "東京"}.get(encoding, "né"))
        yield f"in_{encoding}.txt", "conll", text.encode(encoding), "not UTF-8" if encoding != "utf-16-le" else "any"
    for name, data in [
        ("cut_character", good.encode() + b"\xe2\x82"),
        ("overlong", b"IMGID:1\na\xc0\x80\tO\n\n"),
        ("surrogate", b"IMGID:1\na\xed\xa0\x80\tO\n\n"),
        ("random", bytes(range(256)) * 100),
        ("jpeg", encoded(Image.new("RGB", (9, 9)), "JPEG")),
        ("gzip", b"\x1f\x8b\x08" + bytes(99)),
    ]:
        yield f"bytes_{name}.txt", "conll", data, "not UTF-8"
    yield from _json_texts()


def _json_texts() -> Iterator[tuple[str, str, bytes, str]]:
    post = {"id": "1", "tokens": ["hello", "Paris"], "labels": ["O", "B-LOC"]}
    rows: list[tuple[str, object, str]] = [
        ("plain", post, "ok"),
        ("number_id", {**post, "id": 7}, "ok"),
        ("no_labels", {**post, "labels": None}, "ok"),
        ("u2028", {**post, "tokens": ["a\u2028b", "c"]}, "ok"),
        ("nul", {**post, "tokens": ["a\0b", "c"]}, "ok"),
        ("up_image", {**post, "image": "../../x"}, "ok"),
        ("absolute_image", {**post, "image": "/etc/passwd"}, "ok"),
        ("million", {**post, "tokens": ["x" * 10**6, "y"]}, "ok"),
        ("empty_image", {**post, "image": ""}, "ok"),
        ("half_token", {**post, "tokens": ["\ud800", "c"]}, "surrogate"),
        ("half_id", {**post, "id": "\udfff"}, "surrogate"),
        ("half_label", {**post, "labels": ["O", "B-\ud800"]}, "surrogate"),
        ("half_image", {**post, "image": "\ud83d.jpg"}, "surrogate"),
        ("null", None, "JSON object"),
        ("list", [1, 2], "JSON object"),
        ("text", "x", "JSON object"),
        ("number", 3, "JSON object"),
        ("bare", {}, "keys"),
        ("no_id", {"tokens": ["a"]}, "keys"),
        ("no_tokens", {"id": "1"}, "keys"),
        ("unknown", {**post, "x": 1}, "keys"),
        ("null_id", {**post, "id": None}, "id"),
        ("true_id", {**post, "id": True}, "id"),
        ("empty_id", {**post, "id": ""}, "id"),
        ("list_id", {**post, "id": ["1"]}, "id"),
        ("text_tokens", {**post, "tokens": "hello"}, "tokens"),
        ("number_tokens", {**post, "tokens": [1, 2]}, "tokens"),
        ("nested_tokens", {**post, "tokens": [["a"], "b"]}, "tokens"),
        ("empty_token", {**post, "tokens": ["", "b"]}, "tokens"),
        ("tab_token", {**post, "tokens": ["a\tb", "c"]}, "tab"),
        ("line_token", {**post, "tokens": ["a\nb", "c"]}, "line break"),
        ("short_labels", {**post, "labels": ["O"]}, "labels"),
        ("text_labels", {**post, "labels": "OO"}, "labels"),
        ("bad_labels", {**post, "labels": ["O", "LOC"]}, "LOC"),
        ("number_image", {**post, "image": 3}, "image"),
        ("no_token_at_all", {"id": "1", "tokens": []}, "no tokens"),
    ]
    for name, row, expected in rows:
        yield f"{name}.jsonl", "jsonl", json.dumps(row).encode() + b"\n", expected
    good = json.dumps(post).encode()
    for name, data, expected in [
        ("bom", b"\xef\xbb\xbf" + good, "ok"),
        ("crlf", good + b"\r\n" + good + b"\r\n", "ok"),
        ("blank", b"\n \n" + good, "ok"),
        ("deep", b"[" * 100_000, "jsonl:1"),
        ("deep_object", b'{"id":' * 100_000, "jsonl:1"),
        ("digits", b'{"id": ' + b"9" * 10_000 + b', "tokens": ["a"]}', "jsonl:1"),
        ("cut", good[:-5], "jsonl:1"),
        ("two", good + good, "jsonl:1"),
        ("single_quotes", good.replace(b'"', b"'"), "jsonl:1"),
        ("nul", b"\0" * 100, "jsonl:1"),
        ("trailing", good + b",", "jsonl:1"),
        ("nan", b'{"id": NaN, "tokens": ["a"]}', "id"),
        ("doubled_key", b'{"id": "1", "id": "2", "tokens": ["a"]}', "ok"),
        ("utf16", good.decode().encode("utf-16"), "not UTF-8"),
        ("utf16_no_bom", good.decode().encode("utf-16-le"), "jsonl:1"),
        ("latin1", b'{"id": "\xe9", "tokens": ["a"]}', "not UTF-8"),
        ("comment", b"// x\n" + good, "jsonl:1"),
        ("infinity", b'{"id": "1", "tokens": ["a"], "labels": Infinity}', "labels"),
    ]:
        yield f"json_{name}.jsonl", "jsonl", data, expected
