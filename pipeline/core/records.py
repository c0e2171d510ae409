"""The records that stages pass to each other, as types; they are read and written here alone.

One input row gives one output row in every stage. Records are plain dataclasses; pydantic holds them to their types
where they come from a file or go to one. What a kind of context adds to them stands in :mod:`pipeline.core.kinds`,
how a file gets onto the disk in :mod:`pipeline.core.files`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from pipeline.core.errors import absent, damaged
from pipeline.core.files import atomic_write, contents, numbered_lines, write_json

T = TypeVar("T")

Status = Literal["ok", "missing", "unsafe_name", "too_large", "too_slow", "truncated", "unreadable"]
"""What became of a picture."""

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, revalidate_instances="always")


def _one_line(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise ValueError("holds a line break, which ends a line of CoNLL files")
    return value


def _token(value: str) -> str:
    if not value:
        raise ValueError("expected texts that are not empty")
    if "\t" in value or "\n" in value:
        raise ValueError("a token holds a tab or a line break, which ends a token in CoNLL files")
    return value


Id = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
Token = Annotated[str, AfterValidator(_token)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Offset = Annotated[int | None, Field(ge=0, exclude_if=lambda value: value is None)]
"""A place in a text, which a row leaves out where there is none."""
Box = tuple[float, float, float, float]
Polygon = Annotated[tuple[tuple[float, float], ...], Field(min_length=4, max_length=4)]


def _check_lengths(tokens: Sequence[str], labels: Sequence[str] | None) -> None:
    if labels is not None and len(labels) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens but {len(labels)} labels")


@dataclass(frozen=True, slots=True)
class Post:
    """A tweet, with up to four pictures.

    Attributes:
        id: unique within its split.
        tokens: none of them empty.
        labels: IOB2, one a token; None where nobody labelled it.
        images: names in the images folder, in the tweet's order; a picture is named once.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: Id
    tokens: list[Token]
    labels: list[str] | None
    images: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_lengths(self.tokens, self.labels)


@dataclass(frozen=True, slots=True)
class RelationPost:
    """A tweet of which is known whether its pictures add to its meaning (1) or not (0); otherwise as :class:`Post`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: Id
    tokens: list[Token]
    images: list[str]
    relation: Literal[0, 1]


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A picture's row in the manifest; `width` and `height` in pixels of the upright picture."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    image: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    status: Status = "ok"
    error: str | None = None

    def __post_init__(self) -> None:
        if self.status == "ok" and None in (self.sha256, self.width, self.height):
            raise ValueError("a picture whose status is ok needs sha256, width and height")


@dataclass(frozen=True, slots=True)
class ObjectTag:
    """An object: label, attribute ("black") and score or None, box ``(x0, y0, x1, y1)`` in pixels or None."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    label: str
    attribute: str | None = None
    score: float | None = None
    box: Box | None = None

    def text(self, attributes: bool) -> str:
        """The tag in words: "black dog", or "dog" without attributes."""
        return f"{self.attribute} {self.label}" if attributes and self.attribute else self.label


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence about the whole picture, with a score of 0 … 1 or None."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    text: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text in the picture; its four corners in pixels, clockwise from the upper left, or None."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    text: str
    score: float | None = None
    polygon: Polygon | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something known about a post: a text, with a score of 0 … 1 or None, and where it is from or None."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    text: str
    score: float | None = None
    source: str | None = None


Item = ObjectTag | Caption | TextLine | Note


@dataclass(frozen=True, slots=True)
class Context:
    """One row of data/contexts/{kind}.jsonl: what was found in a picture or said of a post, or why nothing (`status`).

    Attributes:
        name: of the picture, or id of the post.
        split: of the post; None for one outside the pipeline, and for a picture.
    """

    name: str
    split: str | None
    status: str
    error: str | None
    items: list[Any]


@dataclass(frozen=True, slots=True)
class View:
    """A tweet and the visual context behind it, in words. An empty context makes a text-only example."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: Id
    tokens: list[Token]
    labels: list[str] | None
    context: str
    images: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_lengths(self.tokens, self.labels)


@dataclass(frozen=True, slots=True)
class FoundEntity:
    """Tokens `start` up to, not including, `end`; `text` joins them by spaces.

    Attributes:
        confidence: probability of exactly this entity under the CRF, 0 to 1, not calibrated.
        start_char, end_char: where it begins and ends in the text, in code points; None where tokens were given, and
            no text.
        calibrated: the same under the temperature that was fitted on dev; None where none was.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    start: Annotated[int, Field(ge=0)]
    end: int
    type: str
    text: str
    confidence: Annotated[float, Field(ge=0, le=1.001)]  # a hair of rounding above 1
    start_char: Offset = None
    end_char: Offset = None
    calibrated: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What data/predictions holds of a post; `labels` are gold (or None), `predicted` the tagger's, both IOB2.

    Attributes:
        relation: how likely its pictures add to its meaning, for systems that ask that; else None.
        attention: how much the found entities' tokens attend to each cell of its pictures' grids, row by row; a list
            for each picture, None for one without features, and for a post where nobody asked.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: Id
    tokens: list[Token]
    labels: list[str] | None
    predicted: list[str]
    entities: list[FoundEntity]
    context_used: str
    relation: Fraction | None = None
    attention: list[list[Fraction] | None] | None = None

    def __post_init__(self) -> None:
        _check_lengths(self.tokens, self.labels)
        _check_lengths(self.tokens, self.predicted)
        if any(not entity.start < entity.end <= len(self.tokens) for entity in self.entities):
            raise ValueError("an entity ends before it starts, or behind the last token")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Tokens `start` up to, not including, `end` are labelled as `type`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    start: Annotated[int, Field(ge=0)]
    end: int
    type: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """A label that a tagger contradicts which was not trained on it: perhaps a mistake of whoever labelled.

    Attributes:
        start, end: the tokens in question, `end` not included.
        gold: what the labels say, or None for no entity.
        predicted: what the tagger says, or None.
        kind: as mistakes are told apart, were gold right (:mod:`ner.scoring.error_analysis`).
        confidence: how likely exactly what the tagger says is, by its CRF.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: Id
    tokens: list[Token]
    start: Annotated[int, Field(ge=0)]
    end: int
    gold: Labelled | None
    predicted: Labelled | None
    kind: str
    confidence: Fraction


@dataclass(frozen=True, slots=True)
class ViewSources:
    """data/views/sources.json: what the views are made of, without a path outside the project.

    Attributes:
        data: the data set's folder.
        contexts: kind → what read it, with the model's name.
        tensors: the same of the kinds that some taggers read as tensors.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    data: str
    contexts: dict[str, str]
    tensors: dict[str, str]


class Score(TypedDict):
    """Scores of one type or of all; fractions of 1. `support` counts gold entities, `f1_ci` is [low, high] or None."""

    precision: Fraction
    recall: Fraction
    f1: Fraction
    support: Annotated[int, Field(ge=0)]
    f1_ci: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None


Scores = dict[str, dict[str, Score]]
"""Scorer → "micro", "seen", "unseen" or type → score."""

Evaluation = dict[str, dict[str, Scores]]
"""metrics/evaluation.json: split → condition → scores. A split without labels has none."""


ErrorCounts = dict[str, dict[str, Annotated[int, Field(ge=0)]]]
"""Type or "micro" → "right" or a kind of mistake (:mod:`ner.scoring.error_analysis`) → how many."""


class Bin(TypedDict):
    """Entities of confidence `low` up to `high`: their mean confidence, and the share of them that is right."""

    low: Fraction
    high: Fraction
    entities: Annotated[int, Field(ge=0)]
    confidence: Fraction
    right: Fraction


class Reliability(TypedDict):
    """How often entities are right, by confidence; `error` is the expected calibration error, None of no entities."""

    bins: list[Bin]
    error: Fraction | None


class Analysis(TypedDict):
    """What is wrong with the predictions of one split under one condition; `calibrated` is None without temperature."""

    errors: ErrorCounts
    confidence: Reliability
    calibrated: Reliability | None


class Analyses(TypedDict):
    """metrics/analysis.json: temperatures by condition, fitted on dev, and analyses by split and condition."""

    temperatures: dict[str, Annotated[float, Field(gt=0)] | None]
    splits: dict[str, dict[str, Analysis]]


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def adapter(record: Any) -> TypeAdapter[Any]:
    """What pydantic holds a record to its type with; made once."""
    if record not in _ADAPTERS:
        _ADAPTERS[record] = TypeAdapter(record)
    return _ADAPTERS[record]


def mistakes(error: ValidationError, *, skip: int = 0) -> str:
    """What pydantic found wrong, on one line: where, what was expected, what was found.

    Args:
        error: what pydantic raised.
        skip: how many steps of the place are left out at its beginning.
    """
    found = []
    for mistake in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in mistake["loc"][skip:])
        message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        if mistake["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            message = "unknown key"
        elif mistake["type"] in ("missing", "missing_argument"):
            message = "missing"
        elif not isinstance(mistake["input"], list | dict) and mistake["type"] not in ("value_error", "json_invalid"):
            message += f", found {mistake['input']!r:.80}"
        found.append(f"{where}: {message}" if where else message)
    return "; ".join(found[:3])


def read(path: str | os.PathLike[str], record: type[T], stage: str) -> Iterator[T]:
    """Read the records that `stage` has written, one a line.

    Raises:
        UserError: the file is missing, or a line is no such record; the message names file, line and stage.
    """
    if not os.path.exists(path):
        raise absent(path, stage)
    return parsed(numbered_lines(path), record, path, stage)


def parsed(lines: Iterable[tuple[int, str]], record: type[T], path: str | os.PathLike[str], stage: str) -> Iterator[T]:
    """As :func:`read`, of some lines of the file with their numbers."""
    parse = adapter(record).validate_json
    for number, line in lines:
        try:
            yield parse(line)
        except ValidationError as error:
            raise damaged(f"{path}:{number}", mistakes(error), stage) from None


def checked(record: T) -> T:
    """The record itself, once it is known to be what its type says.

    Raises:
        ValueError: it is not, or a text of it holds an unpaired surrogate.
    """
    as_json(row(record))
    return record


def row(record: Any) -> Any:
    """The JSON value of a record.

    Raises:
        ValueError: it is not what its type says, such as a number that is not finite or an unpaired surrogate.
    """
    kind = adapter(type(record))
    try:
        return kind.dump_python(kind.validate_python(record), mode="json")
    except ValidationError as error:
        raise ValueError(mistakes(error)) from None


def as_json(value: Any) -> str:
    """A JSON value as text on one line.

    Raises:
        ValueError: a number is not finite, or a text holds an unpaired surrogate.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("an unpaired surrogate (such as \\ud83d), which cannot be written as UTF-8") from None
    return text


def write(path: str | os.PathLike[str], records: Iterable[Any]) -> int:
    """Write records, one a line, atomically; return how many. Raises as :func:`row`."""
    return write_lines(path, map(line, records))


def line(record: Any) -> str:
    """A record as it stands in a file, without the end of the line. Raises as :func:`row`."""
    return as_json(row(record))


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Write what :func:`line` gave, atomically; return how many."""
    count = 0
    with atomic_write(path) as file:
        for text in lines:
            file.write(text + "\n")
            count += 1
    return count


def read_one(path: Path, record: Any, stage: str) -> Any:
    """Read the one record of a JSON file that `stage` has written.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    try:
        return adapter(record).validate_json(contents(path))
    except FileNotFoundError:
        raise absent(path, stage) from None
    except ValidationError as error:
        raise damaged(path, mistakes(error), stage) from None


def write_one(path: Path, record: Any, type_: Any = None) -> None:
    """Write one record as a JSON file, atomically; `type_` is its type where it is no class of its own."""
    kind = adapter(type_ or type(record))
    try:
        value = kind.dump_python(kind.validate_python(record), mode="json")
    except ValidationError as error:
        raise ValueError(mistakes(error)) from None
    write_json(path, value)
