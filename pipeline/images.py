"""Pictures as they come: found inside their folder, checked before they are decoded, turned into upright RGB.

Whatever is wrong with a picture becomes a status in its row of the manifest, never a crash and never a substitute.
What is read off the pictures is left to the extractors, and who reads them when to pipeline/extraction.py.
"""

import errno
import hashlib
import os
import re
import stat
import struct
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from json import dumps, loads
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.params import ImagesParams
from pipeline.store import Store, batched, digest

Status = Literal["ok", "missing", "unsafe_name", "too_large", "truncated", "unreadable"]

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
"""What is decoded. Pillow reads more (EPS through Ghostscript, FITS, …), but no tweet has them."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif")
"""The names that :func:`list_pictures` takes for pictures; elsewhere the content alone decides."""

VERSION = 1
"""Raised when the same bytes would give another row, so that rows kept from earlier runs are not used."""

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRUNCATED = re.compile(r"truncat|unexpected end|EOF|premature|not enough", re.IGNORECASE)
_DRIVE = re.compile(r"^[A-Za-z]:")
_SETTLED_NS = 2_000_000_000  # a file younger than its file system's clock tick may change without a new time stamp
_WINDOW = 2048  # names looked up at a time

# Pillow warns of pictures beyond its own limit as it reads their header; ours is checked right after, picture by
# picture, before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # damaged metadata, which is not used


class PictureError(Exception):
    """Why a picture cannot be read."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status: Status = status


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A picture's row in the manifest; `width` and `height` in pixels of the upright picture."""

    image: str
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    status: Status = "ok"
    error: str | None = None


def locate(folder: Path, name: str) -> Path:
    """The file of picture `name`, a path with ``/`` below `folder`.

    Args:
        folder: the pictures' folder, already resolved (``folder.resolve()``).
        name: as a data set gives it, so anything.

    Raises:
        PictureError: the name would lead out of the folder, by ``..``, a root, a drive or a link.
    """
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or _DRIVE.match(name) or any(p in ("", ".", "..") for p in parts):
        raise PictureError("unsafe_name", "the name does not stay in the images folder")
    path = os.path.join(folder, name)
    try:
        if len(parts) > 1 or stat.S_ISLNK(os.lstat(path).st_mode):
            target = os.path.realpath(path, strict=True)
            if os.path.commonpath((folder, target)) != str(folder):
                raise PictureError("unsafe_name", "a link leads out of the images folder")
    except OSError as error:
        raise _unopened(error) from None
    return Path(path)


def _unopened(error: OSError) -> PictureError:
    absent = isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG
    return PictureError("missing" if absent else "unreadable", error.strerror or type(error).__name__)


def read_bytes(path: Path, limits: ImagesParams) -> bytes:
    """A picture's bytes.

    Raises:
        PictureError: it is not there, is no regular file, may not be read, or is larger than ``limits.max_bytes``.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise PictureError("unreadable", "not a regular file")
            if status.st_size > limits.max_bytes:
                raise PictureError("too_large", f"{status.st_size} bytes; images.max_bytes is {limits.max_bytes}")
            return file.read(limits.max_bytes)
    except OSError as error:
        raise _unopened(error) from None


def decode(data: bytes, limits: ImagesParams) -> tuple[Image.Image, str]:
    """Turn a picture's bytes into upright RGB; the first frame where there are several.

    Alpha is laid on white, 16-bit grey loses its lower byte, the EXIF orientation is applied. Safe to call from
    several threads: no setting of Pillow's is touched.

    Returns:
        The picture, and its real format, from its content.

    Raises:
        PictureError: no picture, a damaged or truncated one, or one with more than ``limits.max_pixels``.
    """
    if not data:
        raise PictureError("unreadable", "the file is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > limits.max_pixels:
                raise PictureError("too_large", f"{width}×{height} pixels; images.max_pixels is {limits.max_pixels}")
            kind = "JPEG" if picture.format == "MPO" else str(picture.format)  # MPO: a JPEG with more JPEGs behind
            picture.load()
            rgb = _rgb(picture)
            turn = _UPRIGHT.get(_orientation(picture))
            return (rgb.transpose(turn) if turn is not None else rgb), kind
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise PictureError("unreadable", f"no picture of a kind that is read ({', '.join(FORMATS)})"
                                         f"{_looks_like(data)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("too_large", str(error)) from None
    except Exception as error:  # a damaged picture makes Pillow raise whatever its decoder came upon; it is recorded
        message = " ".join(str(error).split()) or type(error).__name__
        status: Status = "truncated" if isinstance(error, EOFError) or _TRUNCATED.search(message) else "unreadable"
        raise PictureError(status, message) from None


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none. Asked after load(): PNG may have it behind the pixels, and TIFF
    has by then been turned by Pillow itself."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, OSError, RuntimeError, struct.error):
        return 1  # damaged metadata does not sink a picture whose pixels are fine


def _rgb(picture: ImageFile.ImageFile) -> Image.Image:
    mode = picture.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        return _eight_bits(np.asarray(picture)).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return picture.convert("RGB")


def _eight_bits(values: "np.ndarray[Any, Any]") -> Image.Image:
    """Grey levels of 16 or 32 bits as 8: the upper byte of 16, a float picture by its range (0 … 1 or 0 … 255)."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
        grey = np.clip(values * (255.0 if values.size and values.max() <= 1.0 else 1.0), 0, 255)
    else:
        grey = np.clip(values.astype(np.int64), 0, 0xFFFF) >> 8
    return Image.fromarray(grey.astype(np.uint8))


def _looks_like(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"heim", b"hevc"):
        return "; this is HEIC: convert it to JPEG"
    if data.lstrip()[:1] == b"<":
        return "; this looks like HTML, XML or SVG"
    return ""


def load(folder: Path, row: "ImageRow | dict[str, Any]", limits: ImagesParams) -> Image.Image:
    """Decode the picture of a manifest row.

    Raises:
        PictureError: it cannot be read, or is no longer the file that the manifest describes; what is read off it
            must not be kept under the old file's hash.
    """
    name, sha256 = (row.image, row.sha256) if isinstance(row, ImageRow) else (row["image"], row["sha256"])
    data = read_bytes(locate(folder, name), limits)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PictureError("unreadable", "the file has changed since the images stage; run dvc repro images")
    return decode(data, limits)[0]


def list_pictures(folder: Path) -> list[str]:
    """Names of the pictures below `folder`, by their suffix; hidden files and folders are left out.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    names = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(folder)
        names += [(below / name).as_posix() for name in files
                  if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
    if not names:
        raise UserError(f"{folder}: no pictures; expected files named {', '.join(SUFFIXES)}")
    return sorted(names)


def manifest(names: Iterable[str], folder: Path | None, limits: ImagesParams, store: Store | None = None,
             workers: int | None = None) -> Iterator[ImageRow]:
    """One row for each distinct name, sorted by name.

    Every picture is hashed and decoded in full, in threads, so that its status is true. With a store, the row of a
    file whose path, size, inode and times are as they were is taken from there, and none of its bytes are read.

    Raises:
        UserError: `folder` is not there, or a name cannot be written as UTF-8.
    """
    ordered = sorted(set(names))
    for name in ordered:
        if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            raise UserError(f"picture {name!r}: the name holds half a character (a lone surrogate) and cannot be "
                            "written as UTF-8; mend the id in the data set")
    if folder is None:
        return (ImageRow(name, status="missing", error="the data set has no pictures (data.images is null)")
                for name in ordered)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures (data.root and data.images in params.yaml)")
    return _manifest(ordered, folder.resolve(), limits, store, workers or os.cpu_count() or 1)


def _manifest(names: list[str], folder: Path, limits: ImagesParams, store: Store | None,
              workers: int) -> Iterator[ImageRow]:
    key = digest({"rows of the manifest": VERSION, "max_pixels": limits.max_pixels, "max_bytes": limits.max_bytes})
    pending: deque[ImageRow | Future[tuple[ImageRow, str | None]]] = deque()
    fresh: dict[str, str] = {}

    def settle(row: "ImageRow | Future[tuple[ImageRow, str | None]]") -> ImageRow:
        if isinstance(row, ImageRow):
            return row
        done, stamp = row.result()
        if stamp is not None:
            values = asdict(done)
            del values["image"]
            fresh[stamp] = dumps(values, ensure_ascii=False)
        return done

    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    try:
        with tqdm(total=len(names), desc="images", unit="picture", disable=None) as progress:
            for window in batched(names, _WINDOW):
                stamps = {name: stamp for name in window if (stamp := _stamp(folder, name))}
                known = store.get_many(key, list(stamps.values())) if store and stamps else {}
                for name in window:
                    stamp = stamps.get(name)
                    kept = known.get(stamp) if stamp else None
                    pending.append(ImageRow(name, **loads(kept)) if kept
                                   else pool.submit(_examine, folder, name, limits, stamp))
                    while len(pending) > 16 * workers:
                        yield settle(pending.popleft())
                        progress.update()
                if store and len(fresh) >= 256:
                    store.put_many(key, fresh)
                    fresh.clear()
            while pending:
                yield settle(pending.popleft())
                progress.update()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if store and fresh:
            store.put_many(key, fresh)


def _stamp(folder: Path, name: str) -> str | None:
    """What tells a file's state without reading it, hashed; None where it cannot be told, or is too young to."""
    try:
        path = locate(folder, name)
        status = os.stat(path)
    except (PictureError, OSError):
        return None
    if not stat.S_ISREG(status.st_mode) or time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
        return None
    state = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0{status.st_ino}"
    return hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()


def _examine(folder: Path, name: str, limits: ImagesParams, stamp: str | None) -> tuple[ImageRow, str | None]:
    """A picture's row, and the stamp to keep it under; None where another try may end otherwise."""
    try:
        data = read_bytes(locate(folder, name), limits)
    except PictureError as error:
        return ImageRow(name, status=error.status, error=str(error)), None
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        picture, kind = decode(data, limits)
    except PictureError as error:
        return ImageRow(name, sha256, status=error.status, error=str(error)), stamp
    except MemoryError:
        return ImageRow(name, sha256, status="unreadable", error="not enough memory to decode it"), None
    if stamp != _stamp(folder, name):  # written to while it was read
        stamp = None
    return ImageRow(name, sha256, picture.width, picture.height, kind, "ok"), stamp
