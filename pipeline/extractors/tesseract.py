"""Lines of text from Tesseract, through the command that Debian's package tesseract-ocr installs."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from PIL import Image
from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.machine import cores
from pipeline.core.records import TextLine
from pipeline.extractors import _lines
from pipeline.extractors._side_by_side import SideBySide
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

VERSION = 1
"""Raised when the same picture, models and options would give another result."""

_SECONDS = 300  # a picture that takes longer is given up
_WORD = "5"  # the level of a TSV row that is a word


class TesseractOptions(Options):
    """``ocr.tesseract`` in params.yaml."""

    languages: list[Annotated[str, Field(pattern=r"^\w[\w/-]*$")]] = Field(default=["eng"], min_length=1)
    page_segmentation: Annotated[int, Field(ge=3, le=13)] = 3
    text_score: Fraction = 0.5

    def require(self) -> None:
        """Check that the program and the languages are there."""
        _models(tuple(self.languages))


class Tesseract(SideBySide[Image.Image, TextLine]):
    """Lines scored `text_score` or better, in reading order; a line's score is the mean of its words'."""

    Options = TesseractOptions

    def __init__(self, options: TesseractOptions, execution: ExecutionParams) -> None:
        super().__init__(execution.ocr_threads or cores())
        self._options = options

    def fingerprint(self) -> Mapping[str, Any]:
        """The program's version, the languages' models, options and version of this adapter."""
        return {
            "extractor": "ocr.tesseract",
            "version": VERSION,
            "program": _version(),
            "models": {file.stem: _digest(file) for file in _models(tuple(self._options.languages))},
            **self._options.model_dump(),
        }

    def _read(self, shown: Image.Image) -> list[TextLine]:
        """Run the program on one picture.

        Raises:
            RuntimeError: it fails; with its own message.
        """
        picture = BytesIO()
        shown.save(picture, "PPM")
        command = [
            _program(),
            "stdin",
            "stdout",
            "-l",
            "+".join(self._options.languages),
            "--psm",
            str(self._options.page_segmentation),
            "tsv",
        ]
        done = subprocess.run(
            command,
            input=picture.getvalue(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )
        if done.returncode:
            raise RuntimeError(f"tesseract ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
        lines = read_tsv(done.stdout.decode("utf-8", errors="replace"))
        return _lines.reading_order([line for line in lines if (line.score or 0.0) >= self._options.text_score])


def read_tsv(table: str) -> Iterator[TextLine]:
    """The lines of Tesseract's TSV: its words put together, without those that are nothing but space.

    Columns: level, page, block, paragraph, line, word, left, top, width, height, confidence in percent, text.
    """
    words: dict[tuple[str, ...], list[tuple[str, float, tuple[int, int, int, int]]]] = {}
    for row in table.split("\n")[1:]:
        columns = row.rstrip("\r").split("\t", 11)
        if len(columns) == 12 and columns[0] == _WORD and columns[11].strip():
            left, top, width, height = map(int, columns[6:10])
            words.setdefault(tuple(columns[1:5]), []).append(
                (columns[11].strip(), float(columns[10]) / 100, (left, top, left + width, top + height))
            )
    for line in words.values():
        texts, scores, boxes = zip(*line, strict=True)
        x0, y0 = (float(min(box[at] for box in boxes)) for at in (0, 1))
        x1, y1 = (float(max(box[at] for box in boxes)) for at in (2, 3))
        yield TextLine(" ".join(texts), round(fmean(scores), 4), ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


def _program() -> str:
    """The program's path.

    Raises:
        UserError: it is not installed.
    """
    program = shutil.which("tesseract")
    if program is None:
        raise UserError(
            "ocr.extractor: tesseract: no program tesseract on the PATH; "
            "run apt-get install tesseract-ocr (Debian, Ubuntu), or choose rapidocr"
        )
    return program


def _asked(*arguments: str) -> str:
    done = subprocess.run(
        [_program(), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=_SECONDS
    )
    return done.stdout + done.stderr  # older versions answer on stderr


@cache
def _version() -> str:
    """The program's and its picture library's versions."""
    return " ".join(re.findall(r"^\s*(?:tesseract|leptonica)\S* ?\S*", _asked("--version"), re.MULTILINE)).strip()


def _models(languages: tuple[str, ...]) -> list[Path]:
    """The models of the languages.

    Raises:
        UserError: the program, or one of them, is not installed.
    """
    answer = _asked("--list-langs")
    folder, _, listed = answer.partition(":\n")
    place = re.search(r'"(.*)"', folder)
    known = listed.split() if place else []
    for language in languages:
        if language not in known:
            package = language.replace("_", "-").lower()
            raise UserError(
                f"ocr.tesseract.languages: {language} is not installed, {', '.join(known) or 'none'} are; "
                f"run apt-get install tesseract-ocr-{package} (Debian, Ubuntu)"
            )
    return [Path(place[1] if place else "") / f"{language}.traineddata" for language in languages]


@cache
def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
