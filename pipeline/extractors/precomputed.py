"""Tags, captions and OCR text that somebody else computed, read from a file instead of from pictures.

Read here are caption files (``<id>.jpg :caption``), VinVL's TSV (labels, attributes, scores, boxes), Pascal VOC's XML
(boxes that people drew) and context records of our own as JSON Lines. What a picture without an entry becomes is left
to the engine.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.files import numbered_jsonl
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.names import FORMS, composed
from pipeline.core.records import Caption, Item, ObjectTag, as_json
from pipeline.extractors import _voc
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

_NO_ATTRIBUTE = "__no_attribute__"  # what VinVL's label map calls it
Entry = tuple[int, str, list[Item]]
"""Line, picture, and what is said of it."""


class PrecomputedOptions(Options):
    """``captions.precomputed`` and ``ocr.precomputed`` in params.yaml."""

    path: str | None = Field(default=None, min_length=1)

    def require(self) -> None:
        """Check that the file is there."""
        self.file()

    def file(self) -> Path:
        """The file; `path` is relative to the folder that the stage runs in.

        Raises:
            UserError: `path` is null, or there is no such file.
        """
        return existing(self.path)


class PrecomputedObjectsOptions(PrecomputedOptions):
    """``objects.precomputed`` in params.yaml."""

    attribute_threshold: Fraction = 0.0

    def file(self) -> Path:
        """The file, or the folder of XML files; raises as of others."""
        folder = Path(self.path or "").expanduser()
        return folder if self.path and folder.is_dir() else existing(self.path)


class _Precomputed:
    """What a file says of each picture; read when the first is asked for. An entry may be empty.

    An entry is found by the picture's name as it is, else by that without its extension, else by the file's name alone
    without folder and extension; names are compared in Unicode's form NFC. One that lacks the extension must fit one
    picture of the data set only.
    """

    KIND: ClassVar[str]
    Options: ClassVar[type[PrecomputedOptions]] = PrecomputedOptions

    def __init__(self, options: PrecomputedOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._fitting: dict[
            str, list[str]
        ] = {}  # an entry without an extension → the pictures that it fits, two at most

    @property
    def source(self) -> str:
        """The file and what its entries are called, for messages."""
        names = ", ".join(list(self._entries)[:3])
        return f"{self._options.path} (with entries for {names}, …)" if names else f"{self._options.path} (empty)"

    def expect(self, names: Iterable[str]) -> None:
        """Be told the data set's pictures, so that no two of them get the same entry.

        Raises:
            UserError: as :meth:`lookup`.
        """
        self._fitting = {}
        for name in names:
            for key in _without_extension(composed(name)):
                if key in self._entries:
                    fitting = self._fitting.setdefault(key, [])
                    if len(fitting) < 2 and composed(name) not in fitting:
                        fitting.append(composed(name))

    def lookup(self, image_name: str) -> list[Item] | None:
        """The picture's items, or None where the file has no entry for it.

        Raises:
            UserError: the file cannot be read, or the picture's entry fits another picture too; the message names file
                and line.
        """
        name = composed(image_name)
        if name in self._entries:
            return self._entries[name][1]
        for key in _without_extension(name):
            if key in self._entries:
                line, items = self._entries[key]
                if len(pictures := self._fitting.get(key, [])) > 1:
                    first, second = pictures
                    raise UserError(
                        f"{self._options.path}:{line}: the entry {key} fits two pictures of the data set, {first} and "
                        f"{second}; expected one entry for each, under those names"
                    )
                return items
        return None

    @cached_property
    def _entries(self) -> dict[str, tuple[int, list[Item]]]:
        """Line and items of every entry, by its name in NFC."""
        file = self._options.file()
        entries: dict[str, tuple[int, list[Item]]] = {}
        as_written: dict[str, str] = {}
        read = self._read_jsonl if file.is_file() and is_jsonl(file) else self._read_other
        for line, name, items in read(file):
            key = composed(name)
            if key in entries:
                hint = "" if as_written[key] == name else f"; the two names differ {FORMS}"
                raise UserError(
                    f"{file}:{line}: a second entry for {name} (the first is on line {entries[key][0]}); "
                    f"expected one entry a picture{hint}"
                )
            entries[key], as_written[key] = (line, items), name
        return entries

    def _read_jsonl(self, file: Path) -> Iterator[Entry]:
        """Context records; `sha256`, `status` and `error` may be left out, a row with another status than ok is no
        entry."""
        for line, row in numbered_jsonl(file):
            name, items = row.get("image"), row.get(self.KIND)
            if not isinstance(name, str) or not isinstance(items, list):
                raise UserError(
                    f'{file}:{line}: expected {{"image": name, "{self.KIND}": [...]}}, found the keys '
                    f"{', '.join(row) or '(none)'}"
                )
            try:
                as_json(name)  # refuses what cannot be written
                found: list[Item] = TEXT_KINDS[self.KIND].load(items)
            except ValueError as error:
                raise UserError(f"{file}:{line}: {error}") from None
            if row.get("status", "ok") == "ok":
                yield line, name, found

    def _read_other(self, file: Path) -> Iterator[Entry]:
        raise UserError(f'{file}:1: expected JSON Lines of {{"image": name, "{self.KIND}": [...]}}')


class PrecomputedCaptions(_Precomputed):
    """Captions of a file with ``<id>.jpg :caption`` on each line, or of JSON Lines."""

    KIND = "captions"

    def _read_other(self, file: Path) -> Iterator[Entry]:
        """Lines split at the first " :"; nothing behind it is a picture with no caption."""
        for number, line in _lines(file):
            name, separator, text = line.partition(" :")
            if not separator or not name.strip():
                raise UserError(
                    f"{file}:{number}: expected a picture's name, a space, a colon and its caption, found {line[:60]!r}"
                )
            yield number, name.strip(), [Caption(text.strip())] if text.strip() else []


class PrecomputedOcr(_Precomputed):
    """Lines of text, of JSON Lines."""

    KIND = "ocr"


class PrecomputedObjects(_Precomputed):
    """Tags of VinVL's TSV, best first, of a folder of Pascal VOC's XML files, or of JSON Lines.

    A line of the TSV is the picture's key, a tab, and JSON: ``{"objects": [{"class", "conf", "rect", "attributes",
    "attr_scores"}]}``, as scene_graph_benchmark writes predictions.tsv, or that list alone, as in Oscar's label.tsv.
    Of several attributes the likeliest is taken, where it is scored `attribute_threshold` or better.
    """

    KIND = "objects"
    Options = PrecomputedObjectsOptions

    def _read_other(self, file: Path) -> Iterator[Entry]:
        if file.is_dir():
            for _, name, tags in _voc.read(file):
                yield 1, name, [*tags]
            return
        for number, line in _lines(file):
            key, _, payload = line.partition("\t")
            try:
                row = json.loads(payload)
                objects = row["objects"] if isinstance(row, dict) else row
                if not key or not isinstance(objects, list):
                    raise ValueError("objects is no list")
            except (ValueError, KeyError, RecursionError):
                raise UserError(
                    f"{file}:{number}: expected a picture's key, a tab and JSON with its objects, found "
                    f"{line[:60]!r}; a file of features alone has no tags in it, name the one of "
                    "predictions or labels"
                ) from None
            try:
                tags = [self._tag(one) for one in objects]
            except ValueError as error:
                raise UserError(f"{file}:{number}: {error}") from None
            yield number, key, sorted(tags, key=lambda tag: -(tag.score or 0.0))

    def _tag(self, row: Any) -> ObjectTag:
        if not isinstance(row, Mapping) or "class" not in row:
            raise ValueError(f"expected an object with class, conf and rect, found {str(row)[:60]}")
        tag = {
            "label": row["class"],
            "attribute": self._attribute(row),
            "score": row.get("conf"),
            "box": row.get("rect"),
        }
        [found] = TEXT_KINDS[self.KIND].load([tag])
        return found

    def _attribute(self, row: Mapping[str, Any]) -> str | None:
        names, scores = row.get("attributes") or [], row.get("attr_scores")
        if not isinstance(names, list) or not (scores is None or isinstance(scores, list)):
            raise ValueError("attributes, attr_scores: expected lists")
        if scores is not None and not all(isinstance(score, int | float) for score in scores):
            raise ValueError("attr_scores: expected numbers")
        if not all(isinstance(name, str) for name in names):
            raise ValueError("attributes: expected texts")
        if scores is not None and len(scores) != len(names):
            raise ValueError(f"{len(names)} attributes but {len(scores)} attr_scores")
        least = getattr(self._options, "attribute_threshold", 0.0)
        scored = [
            (float(score), name)
            for name, score in zip(names, scores or [1.0] * len(names), strict=True)
            if name != _NO_ATTRIBUTE
        ]
        score, name = max(scored, key=_first, default=(0.0, None))
        return name if score >= least else None


def _without_extension(name: str) -> list[str]:
    """A picture's path without its extension, and where that has a folder, without it too; the most telling first."""
    folder, slash, file = name.rpartition("/")
    stem = PurePosixPath(file).stem
    return [f"{folder}{slash}{stem}", stem] if slash else [stem]


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]


def existing(path: str | None) -> Path:
    """The file that ``precomputed.path`` names.

    Raises:
        UserError: it is null, or there is no such file.
    """
    if path is None:
        raise UserError("precomputed.path: null; expected the file to read, below data.root so that DVC sees it change")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"precomputed.path: {file}: no such file; the path is relative to the folder of dvc.yaml")
    return file


def is_jsonl(file: Path) -> bool:
    """Whether a file seems to hold JSON objects, a line each."""
    with open(file, "rb") as stream:
        return stream.read(4).removeprefix(b"\xef\xbb\xbf").startswith(b"{")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not empty, without their ends and byte-order marks; split at "\\n" alone.

    Raises:
        UserError: the file is not UTF-8.
    """
    number = 0
    try:
        with open(file, encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if stripped := line.rstrip("\r\n").lstrip(
                    "\ufeff"
                ):  # a mark on each line that a joined file began with
                    yield number, stripped
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: after line {number}: not UTF-8 (byte {error.start})") from None
