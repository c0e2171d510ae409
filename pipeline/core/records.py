"""The records that stages pass to each other, as types; they are read and written here alone.

One input row gives one output row in every stage. How a file gets onto the disk is left to :mod:`pipeline.core.files`.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pipeline.core.errors import UserError
from pipeline.core.files import numbered_jsonl, read_jsonl

Status = Literal["ok", "missing", "unsafe_name", "too_large", "too_slow", "truncated", "unreadable"]


@dataclass(frozen=True, slots=True)
class Post:
    """A tweet. `labels` are IOB2, or None where nobody labelled it; `image` names a picture in the images folder."""

    id: str
    tokens: list[str]
    labels: list[str] | None
    image: str | None


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


Box = tuple[float, float, float, float]
Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class ObjectTag:
    """An object: label, attribute ("black") and score or None, box ``(x0, y0, x1, y1)`` in pixels or None."""

    label: str
    attribute: str | None = None
    score: float | None = None
    box: Box | None = None

    def to_row(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "label": self.label,
            "attribute": self.attribute,
            "score": self.score,
            "box": None if self.box is None else list(self.box),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read the JSON object.

        Raises:
            ValueError: a key is missing, unknown or of the wrong type, or a text holds half a character.
        """
        _expect_keys(row, ("label",), ("attribute", "score", "box"))
        box = row.get("box")
        return cls(
            _text(row, "label"),
            None if row.get("attribute") is None else _text(row, "attribute"),
            _score(row),
            None if box is None else _numbers(box, "box", 4),  # type: ignore[arg-type]
        )

    def text(self, attributes: bool) -> str:
        """The tag in words: "black dog", or "dog" without attributes."""
        return f"{self.attribute} {self.label}" if attributes and self.attribute else self.label


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence about the whole picture, with a score of 0 … 1 or None."""

    text: str
    score: float | None = None

    def to_row(self) -> dict[str, Any]:
        """The JSON object."""
        return {"text": self.text, "score": self.score}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read the JSON object.

        Raises:
            ValueError: a key is missing, unknown or of the wrong type, or a text holds half a character.
        """
        _expect_keys(row, ("text",), ("score",))
        return cls(_text(row, "text"), _score(row))


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text in the picture; its four corners in pixels, clockwise from the upper left, or None."""

    text: str
    score: float | None = None
    polygon: Polygon | None = None

    def to_row(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "text": self.text,
            "score": self.score,
            "polygon": None if self.polygon is None else [list(point) for point in self.polygon],
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read the JSON object.

        Raises:
            ValueError: a key is missing, unknown or of the wrong type, or a text holds half a character.
        """
        _expect_keys(row, ("text",), ("score", "polygon"))
        polygon = row.get("polygon")
        if polygon is not None:
            if not isinstance(polygon, list) or len(polygon) != 4:
                raise ValueError(f"polygon: expected 4 points, found {polygon!r}")
            polygon = tuple(_numbers(point, "polygon", 2) for point in polygon)
        return cls(_text(row, "text"), _score(row), polygon)


Item = ObjectTag | Caption | TextLine

ITEMS: dict[str, type[ObjectTag] | type[Caption] | type[TextLine]] = {
    "objects": ObjectTag,
    "captions": Caption,
    "ocr": TextLine,
}
"""What each kind of extractor gives; the kind is also the key of the list in a context record."""


@dataclass(frozen=True, slots=True)
class View:
    """A tweet and the visual context behind it, in words. An empty context makes a text-only example."""

    id: str
    tokens: list[str]
    labels: list[str] | None
    context: str


def require_whole(text: str, what: str) -> None:
    """Check that a text can be written.

    Raises:
        ValueError: it cannot; the message begins with `what`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{what}: holds half a character (a lone surrogate, such as \\ud83d), which cannot be written as UTF-8"
        ) from None


def _expect_keys(row: Mapping[str, Any], needed: Sequence[str], others: Sequence[str]) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"expected an object with {', '.join([*needed, *others])}, found {row!r}")
    missing = [key for key in needed if key not in row]
    unknown = sorted(set(row) - {*needed, *others})
    if missing or unknown:
        raise ValueError(
            f"expected the keys {', '.join([*needed, *others])}; "
            + (f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown")
        )


def _text(row: Mapping[str, Any], key: str) -> str:
    text = row[key]
    if not isinstance(text, str):
        raise ValueError(f"{key}: expected text, found {text!r}")
    require_whole(text, key)
    return text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _score(row: Mapping[str, Any]) -> float | None:
    score = row.get("score")
    if score is None:
        return None
    if not _is_number(score):
        raise ValueError(f"score: expected a number or null, found {score!r}")
    return float(score)


def _numbers(values: object, key: str, count: int) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != count or not all(map(_is_number, values)):
        raise ValueError(f"{key}: expected {count} numbers, found {values!r}")
    return tuple(float(value) for value in values)


@dataclass(frozen=True, slots=True)
class Context:
    """One row of data/contexts/{kind}.jsonl: what was found in a picture, or why nothing could be (`status`)."""

    image: str
    sha256: str | None
    status: str
    error: str | None
    items: list[Item]


def read_contexts(path: Path, kind: str) -> Iterator[Context]:
    """Read a file of context records.

    Raises:
        UserError: a row is no context record of this kind; the message names file and line.
    """
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            _expect_keys(row, ("image", "sha256", "status", "error", kind), ())
            items = row[kind]
            if not isinstance(items, list):
                raise ValueError(f"{kind}: expected a list, found {items!r}")
            yield Context(
                row["image"], row["sha256"], row["status"], row["error"], [ITEMS[kind].from_row(item) for item in items]
            )
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}; run dvc repro {kind} to write the file anew") from None


def read_views(path: str | os.PathLike[str]) -> list[View]:
    """Read data/views/{split}.jsonl.

    Raises:
        UserError: a row lacks a key of the record, has one too many, or has labels of another length than its tokens.
    """
    views = []
    for number, row in numbered_jsonl(path):
        try:
            view = View(**row)
        except TypeError:
            found = ", ".join(row)
            raise UserError(f"{path}:{number}: expected the keys id, tokens, labels, context; found {found}") from None
        lists = [view.tokens] if view.labels is None else [view.tokens, view.labels]
        if not (
            isinstance(view.id, str)
            and isinstance(view.context, str)
            and all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists)
        ):
            raise UserError(
                f"{path}:{number}: expected texts as id and context, and lists of texts as tokens and "
                "labels; run dvc repro views"
            )
        if view.labels is not None and len(view.labels) != len(view.tokens):
            raise UserError(f"{path}:{number}: {len(view.tokens)} tokens but {len(view.labels)} labels")
        views.append(view)
    return views


def view_row(view: View) -> dict[str, Any]:
    """The JSON object of a view."""
    return asdict(view)
