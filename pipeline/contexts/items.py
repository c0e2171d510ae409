"""What an extractor finds in a picture (object tags, captions, lines of text), as records and as words.

Here stand the three kinds, their JSON, and the template that turns them into the context string of a view. Finding
them is left to the extractors, and cutting the context to the encoder's room to ner/views.py.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.core.errors import UserError
from pipeline.core.records import read_jsonl
from pipeline.settings.params import Kind, TextContextParams, ViewsParams

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
            None if box is None else _numbers(box, "box", 4),
        )  # type: ignore[arg-type]

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

ITEMS: dict[Kind, type[ObjectTag] | type[Caption] | type[TextLine]] = {
    "objects": ObjectTag,
    "captions": Caption,
    "ocr": TextLine,
}
"""What each kind of extractor gives; the kind is also the key of the list in a context record."""


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


def read_contexts(path: Path, kind: Kind) -> Iterator[Context]:
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


# Characters that would end the line or are no text: C0 and C1 controls, line and paragraph separators, byte-order
# marks, halves of surrogate pairs. Joiners stay: emoji are made with them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def _clean(text: str) -> str:
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def render(
    views: ViewsParams,
    objects: Sequence[ObjectTag] = (),
    captions: Sequence[Caption] = (),
    ocr: Sequence[TextLine] = (),
) -> str:
    """The context string of a picture, on one line; empty where nothing was found.

    Each kind in ``views.kinds``, in that order, gives the texts of its items in the order the extractor gave them
    (tags and captions best first, OCR in reading order): those scored below ``min_score`` are left out (an item
    without a score stays), repeated texts are dropped, counted ("2 dog") or kept, and of what remains the first
    ``max`` stand. Texts are the same when they differ in case alone.
    """
    texts: dict[str, list[str]] = {
        "objects": [tag.text(views.objects.attributes) for tag in _passing(objects, views.objects)],
        "captions": [caption.text for caption in _passing(captions, views.captions)],
        "ocr": [line.text for line in _passing(ocr, views.ocr)],
    }
    parts = []
    for kind in views.kinds:
        template: TextContextParams = getattr(views, kind)
        part = template.separator.join(_settle_duplicates(texts[kind], template)[: template.max])
        if part:
            parts.append(part)
    return _UNPRINTABLE.sub(" ", views.separator.join(parts)).strip()


def _passing(items: Sequence[Any], template: TextContextParams) -> Iterator[Any]:
    least = template.min_score
    return (item for item in items if least is None or item.score is None or item.score >= least)


def _settle_duplicates(texts: Sequence[str], template: TextContextParams) -> list[str]:
    cleaned = [text for text in map(_clean, texts) if text]
    if template.duplicates == "keep":
        return cleaned
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for text in cleaned:
        key = text.casefold()
        first.setdefault(key, text)
        counts[key] = counts.get(key, 0) + 1
    if template.duplicates == "drop":
        return list(first.values())
    return [text if counts[key] == 1 else f"{counts[key]} {text}" for key, text in first.items()]
