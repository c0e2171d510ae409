"""Bytes of a picture → upright RGB, or what is wrong with them; and processes that do it under limits.

A decoder that is fed hostile bytes may take forever, eat all memory or crash. The manifest therefore has every
picture decoded once in a child process that the system ends at a limit; what has passed there is decoded again, for
the models, in threads. Files and names are left to :mod:`pipeline.images.pictures`.
"""

import fcntl
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from json import dumps, loads
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from PIL import AvifImagePlugin, Image, ImageFile, UnidentifiedImageError

if TYPE_CHECKING:  # a child starts faster without pydantic, and without numpy
    from pipeline.settings.params import ImagesParams

Status = Literal["ok", "missing", "unsafe_name", "too_large", "too_slow", "truncated", "unreadable"]

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
"""What is decoded. Pillow reads more (EPS through Ghostscript, FITS, …), but no tweet has them."""

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRUNCATED = re.compile(r"truncat|unexpected end|EOF|premature|not enough", re.IGNORECASE)

# Pillow warns of pictures beyond its own limit as it reads their header; ours is checked right after, picture by
# picture, before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # damaged metadata, which is not used


class PictureError(Exception):
    """Why a picture cannot be read."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status: Status = status


def decode(data: bytes, limits: "ImagesParams") -> tuple[Image.Image, str]:
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
        raise PictureError(
            "unreadable", f"no picture of a kind that is read ({', '.join(FORMATS)}){_looks_like(data)}"
        ) from None
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
        return _eight_bits(picture).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits as 8: the upper byte of 16, a float picture by its range (0 … 1 or 0 … 255)."""
    import numpy as np

    values: np.ndarray[Any, Any] = np.asarray(picture)
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


class DecoderEndedError(PictureError):
    """The picture took its decoder to a limit, or down; on another machine, or another day, it might not."""


Found = tuple[int, int, str]
_PIPE_BYTES = 1 << 20  # a pipe that takes most pictures at once
_MESSAGE = 300  # characters: answers must fit into a pipe before anybody reads them
_READY = b"ready\n"
_MEMORY = 512_000_000
_MEMORY_PER_PIXEL = 32
"""A decoding process may take so much memory beyond what it starts with, and so much more for each of ``max_pixels``;
turning a 16-bit picture upright takes the most, some 24 bytes a pixel."""


class Decoders:
    """Decodes in child processes, each ended by the system when a picture takes too long or too much memory.

    Safe to use from several threads; there are as many processes as threads that wait for one at a time, each started
    when it is needed. The children get bytes, not files, and end with this process, however it ends. A UserError says
    that none could be started.
    """

    def __init__(self, limits: "ImagesParams") -> None:
        self._limits = limits
        self._idle: list[_Child] = []
        self._all: list[_Child] = []
        self._guard = threading.Lock()
        self._closed = False

    def sizes(self, pictures: Sequence[bytes]) -> list[Found | PictureError]:
        """Decode pictures in full; give for each width and height in pixels of it upright, and its real format.

        Where one cannot be decoded, the error that :func:`decode` raises takes its place, ``too_slow`` where it
        takes more than ``limits.max_seconds`` of the processor. Many at once go faster than one by one, as processes
        then wait less for each other.
        """
        found: list[Found | PictureError] = []
        waited = -1  # the picture that was last in hand when the clock, not the processor's time, ran out
        while len(found) < len(pictures):
            with self._guard:
                child = self._idle.pop() if self._idle else None
            child = child or self._start()
            found += map(_understood, child.answers(pictures[len(found) :]))
            if len(found) == len(pictures):
                with self._guard:
                    self._idle.append(child)
                continue
            code = self._ended(child)
            if code == -signal.SIGALRM and waited != len(found):
                waited = len(found)  # it may have been stopped (Ctrl-Z, a frozen container), and the clock was not
            else:
                found.append(self._error(code))  # pictures are taken in turn: the first without an answer it was
        return found

    def _start(self) -> "_Child":
        child = _Child(self._limits)
        with self._guard:
            self._all.append(child)
            closed = self._closed
        if closed:
            child.process.kill()
        if not child.ready() and not closed:
            from pipeline.core.errors import UserError  # not at the top: this file is a program as well, without ours

            child.process.kill()
            code = self._ended(child)
            raise UserError(
                f"{sys.executable}: the process that decodes pictures did not start ({_how(code)}); what it wrote is "
                "above: see that this Python starts without errors"
            )
        return child

    def _ended(self, child: "_Child") -> int:
        """The exit status of a process that has ended, or is about to."""
        code = child.process.wait()
        child.close()
        with self._guard:
            if child in self._all:
                self._all.remove(child)
        return code

    def _error(self, code: int) -> PictureError:
        if -code in (signal.SIGPROF, signal.SIGALRM):
            return DecoderEndedError(
                "too_slow", f"decoding took more than images.max_seconds = {self._limits.max_seconds:g}"
            )
        return DecoderEndedError("unreadable", f"the decoder broke down ({_how(code)})")

    def close(self) -> None:
        """End the processes, at once; whoever waits for one gets an error."""
        with self._guard:
            self._closed, children, self._idle = True, [*self._all], []
        for child in children:
            child.process.kill()
        for child in children:
            child.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        for child in [*self._all]:
            self._ended(child)


class _Child:
    """A decoding process: pictures go in by a pipe, answers come by another, which nothing else can print to."""

    def __init__(self, limits: "ImagesParams") -> None:
        environment = {
            **os.environ,
            "PILLOW_BLOCKS_MAX": "8",  # memory of one picture serves the next, which halves the time
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
        }  # else memory is reserved for each core
        ours, theirs = os.pipe()
        try:
            # By its file, which imports nothing of ours: no path needs to be handed over, whatever characters it has.
            self.process = subprocess.Popen(
                [sys.executable, "-P", os.path.abspath(__file__), limits.model_dump_json(), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs,),
                env=environment,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)  # so that the answers end with the child
        self._answers = os.fdopen(ours, "rb")
        if self.process.stdin is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # a user may have used up what pipes may take
                fcntl.fcntl(self.process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def ready(self) -> bool:
        """Wait until it has started; False where it has ended instead."""
        return self._answers.readline() == _READY

    def answers(self, pictures: Sequence[bytes]) -> Iterator[bytes]:
        """The answers for `pictures`; fewer where the process ends before the last."""
        source = self.process.stdin
        if source is None:
            raise RuntimeError("the decoding process has no pipe")
        with suppress(BrokenPipeError):
            for data in pictures:
                source.write(len(data).to_bytes(8, "big"))
                source.write(data)
            source.flush()
        for _ in pictures:
            answer = self._answers.readline()
            if not answer.endswith(b"\n"):
                return
            yield answer

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        with suppress(BrokenPipeError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self._answers.close()


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _understood(answer: bytes) -> Found | PictureError:
    status, *found = loads(answer)
    if status == "ok":
        width, height, kind = found
        return width, height, kind
    return (DecoderEndedError if status == "memory" else PictureError)(
        "unreadable" if status == "memory" else status, *found
    )


def _serve(limits: Any, answers: int) -> None:
    """The child: for each length and bytes on stdin a line of JSON to the pipe `answers`, until stdin ends."""
    source, sink = sys.stdin.buffer, os.fdopen(answers, "wb")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process for every core
    _limit_memory(limits)
    sink.write(_READY)
    sink.flush()
    while header := source.read(8):
        length = int.from_bytes(header, "big")
        data = source.read(length)
        if len(data) < length:
            return
        # Nothing handles these signals: they end the process even while a decoder's C code runs. Time of the
        # processor is what counts, so that a busy machine gives no other rows; the clock is for what merely waits.
        signal.setitimer(signal.ITIMER_PROF, limits.max_seconds)
        signal.setitimer(signal.ITIMER_REAL, 10 * limits.max_seconds)
        answer = _answer(data, limits)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.write(dumps(answer).encode() + b"\n")
        sink.flush()


def _answer(data: bytes, limits: "ImagesParams") -> list[Any]:
    try:
        picture, kind = decode(data, limits)
    except PictureError as error:
        return [error.status, str(error)[:_MESSAGE]]
    except MemoryError:
        return ["memory", "not enough memory to decode it"]
    return ["ok", picture.width, picture.height, kind]


def _limit_memory(limits: "ImagesParams") -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # no Linux: only Linux keeps to the limit, and only there is it known what has been taken already
    most = pages * resource.getpagesize() + _MEMORY + limits.max_bytes + _MEMORY_PER_PIXEL * limits.max_pixels
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:  # set from outside, such as by ulimit -v: it can only be lowered
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve(SimpleNamespace(**loads(sys.argv[1])), int(sys.argv[2]))
