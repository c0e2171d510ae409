"""The kinds of results that extractors give: one entry each, and all else follows from it.

An entry says what one result is, what it is about (a picture or a post) and how results are written: in words
(:class:`TextKind`: a JSON list of items, which the context of a tweet is made of) or as numbers (:class:`TensorKind`: a
tensor, in shards). The sections of params.yaml and the engine follow from all entries; the context records, the
template and the report from those in words. To add a kind, add an entry, a stage that runs it (``stages/NAME.py``, a
stage in dvc.yaml) and its extractors.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, create_model

from pipeline.core.errors import damaged
from pipeline.core.files import atomic_write, numbered_lines
from pipeline.core.records import STRICT, Caption, Context, Note, ObjectTag, TextLine, adapter, as_json, mistakes

if TYPE_CHECKING:
    from pipeline.core.features import FeatureWriter


class TextTemplate(BaseModel):
    """How a kind's items are rendered: of those scored `min_score` or more, the first `max`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max: PositiveInt
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    duplicates: Literal["drop", "count", "keep"] = "drop"
    separator: str = " "


class ObjectTemplate(TextTemplate):
    """How object tags are rendered; with their attributes, where they have any."""

    attributes: bool = True


Subject = Literal["picture", "post"]
"""What a row of results is about."""

_NAMED: dict[Subject, dict[str, Any]] = {
    "picture": {"image": (str, ...), "sha256": (str | None, ...)},
    "post": {"id": (str, ...), "split": (str | None, ...)},
}
"""The fields of a row that say which picture or post: name → type and default, as pydantic takes them."""

Key = tuple[str, str]
"""Name and split, or "", of a context record: data/contexts/{kind}.jsonl is in their order."""

_PLAIN_HEAD: dict[Subject, re.Pattern[str]] = {
    "picture": re.compile(r'\{"image": "([^"\\]*)", '),
    "post": re.compile(r'\{"id": "([^"\\]*)", "split": "([^"\\]*)", '),
}
"""How a line with these fields begins, where nothing in them is escaped."""

Row = Mapping[str, Any]
"""A row of what is read, such as one of the manifest: the fields that say which picture or post, `status`, `error`."""


class Sink(Protocol):
    """Takes the rows of a kind's output, one for each row of what is read, in its order."""

    def add(self, row: Row, status: str, error: str | None, result: bytes | None) -> None:
        """Write a row; `result` is what :meth:`Kind.dump` gave, or None where there is none."""
        ...


@dataclass(frozen=True)
class Kind(ABC):
    """A kind of results.

    Attributes:
        name: its section in params.yaml and its stage.
        batch_size: pictures or posts a batch, where `execution.batch_size` says nothing.
        about: what an extractor is shown, and a row is about.
        optional: whether its section may be left out of params.yaml, and the kind is then off.
    """

    name: str
    batch_size: int = field(default=16, kw_only=True)
    about: Subject = field(default="picture", kw_only=True)
    optional: bool = field(default=False, kw_only=True)

    WINDOW: ClassVar[int]
    """Results that are taken from the store at a time."""
    OUTPUT: ClassVar[str]
    """What a command line calls the place where results are written."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """What an extractor gives for each picture or post, for messages."""

    @abstractmethod
    def dump(self, result: Any) -> bytes:
        """What was found in a picture or said of a post, as bytes: what the store keeps.

        Raises:
            TypeError: it is no result of this kind.
            ValueError: a number is not finite, or a text holds an unpaired surrogate.
        """

    @abstractmethod
    def writing(self, output: Path, fingerprint: str | None) -> AbstractContextManager[Sink]:
        """Write results to `output`, whole or not at all: the body of the `with` hands the rows to the sink.

        Args:
            output: what the stage writes.
            fingerprint: digest of the extractor's fingerprint; None where it is off, or looks up others' results.
        """


@dataclass(frozen=True)
class TextKind(Kind):
    """A kind of context: its results are lists of items that can be said in words.

    Attributes:
        item: the record of one item; it has a `score`, and may have a `box` or a `polygon` to draw.
        words: an item in words, given the kind's section of `views`.
        template: the type of that section.
        called: what the report calls its items.
    """

    item: type[Any]
    words: Callable[[Any, Any], str]
    template: type[TextTemplate] = TextTemplate
    called: str = ""

    WINDOW = 2048
    OUTPUT = "FILE.jsonl"

    @property
    def expected(self) -> str:
        """What an extractor gives for each picture or post, for messages."""
        return f"one list of {self.item.__name__}"

    @property
    def drawn(self) -> bool:
        """Whether its items have an outline in the picture."""
        return bool({"box", "polygon"} & self.item.__dataclass_fields__.keys())

    @cached_property
    def _items(self) -> Any:
        return adapter(list[self.item])  # type: ignore[name-defined]

    @cached_property
    def _row(self) -> type[BaseModel]:
        fields: dict[str, Any] = {
            **_NAMED[self.about],
            "status": (str, ...),
            "error": (str | None, ...),
            self.name: (list[self.item], ...),  # type: ignore[name-defined]
        }
        return create_model(f"{self.name} row", __config__=STRICT, **fields)

    def dump(self, result: Any) -> bytes:
        """The JSON list of what was found, as UTF-8: what the store keeps."""
        if not isinstance(result, list | tuple) or not all(isinstance(item, self.item) for item in result):
            raise TypeError(
                f"{type(result).__name__} {str(result)[:80]!r} for a {self.about}; expected a list of "
                f"{self.item.__name__}"
            )
        try:
            value = self._items.dump_python(self._items.validate_python(list(result)), mode="json")
        except ValidationError as error:
            raise ValueError(mistakes(error, skip=1)) from None
        return as_json(value).encode()

    def load(self, rows: Any) -> list[Any]:
        """The items of a JSON list.

        Raises:
            ValueError: it is no list of this kind's items.
        """
        try:
            found: list[Any] = self._items.validate_json(as_json(rows))
        except ValidationError as error:
            raise ValueError(mistakes(error, skip=1)) from None
        return found

    @contextmanager
    def writing(self, output: Path, fingerprint: str | None) -> Iterator[Sink]:
        """Write context records as JSON Lines, or an empty line: DVC warns of a file of 0 bytes."""
        with atomic_write(output) as file:
            yield _Lines(self.name, tuple(_NAMED[self.about]), file)
            if not file.tell():
                file.write("\n")

    def read(self, path: Path) -> Iterator[Context]:
        """Read data/contexts/{name}.jsonl.

        Raises:
            UserError: a line is no context record of this kind; the message names file and line.
        """
        for number, line in numbered_lines(path):
            if line:
                try:
                    yield self.parse(line)
                except ValueError as error:
                    raise damaged(f"{path}:{number}", error, self.name) from None

    def parse(self, line: str) -> Context:
        """The context record of a line; raises ValueError where it is none of this kind."""
        try:
            row: Any = self._row.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(mistakes(error)) from None
        name, split = (row.image, None) if self.about == "picture" else (row.id, row.split)
        return Context(name, split, row.status, row.error, getattr(row, self.name))

    def key(self, line: str) -> Key:
        """The key of a line's record; raises ValueError where it has none."""
        if found := _PLAIN_HEAD[self.about].match(line):  # without reading the rest of it, as of most lines
            return found[1], found[2] if self.about == "post" else ""
        row = self.parse(line)
        return row.name, row.split or ""


@dataclass(frozen=True, slots=True)
class _Lines:
    """Writes context records of a kind, one a line; `named` are the fields that say of what."""

    kind: str
    named: tuple[str, ...]
    file: IO[str]

    def add(self, row: Row, status: str, error: str | None, result: bytes | None) -> None:
        """Write a line; without a result its list is empty."""
        head = {**{name: row[name] for name in self.named}, "status": status, "error": error}
        items = "[]" if result is None else result.decode()
        self.file.write(f'{json.dumps(head, ensure_ascii=False)[:-1]}, "{self.kind}": {items}}}\n')


@dataclass(frozen=True)
class TensorKind(Kind):
    """A kind whose results are tensors: float16, [regions, width], of one shape for all pictures.

    They are written by :mod:`pipeline.core.features`; no text is made of them.
    """

    WINDOW = 64  # of 200 KB each, as a rule
    OUTPUT = "FOLDER"

    @property
    def expected(self) -> str:
        """What an extractor gives for each picture, for messages."""
        return "a float16 array of shape [regions, width]"

    def dump(self, result: Any) -> bytes:
        """Shape, type and numbers of what was found in a picture: what the store keeps."""
        from pipeline.core.features import as_bytes  # which loads NumPy, as do those below

        return as_bytes(result)

    @contextmanager
    def writing(self, output: Path, fingerprint: str | None) -> Iterator[Sink]:
        """Write shards of tensors and an index."""
        from pipeline.core.features import writing

        with writing(output, fingerprint) as writer:
            yield _Shards(writer)


@dataclass(frozen=True, slots=True)
class _Shards:
    """Writes the tensors of a kind."""

    writer: "FeatureWriter"

    def add(self, row: Row, status: str, error: str | None, result: bytes | None) -> None:
        """Write a row of the index, and the tensor if there is one."""
        from pipeline.core.features import from_bytes

        regions = None if result is None else from_bytes(result)
        self.writer.add(row["image"], row["sha256"], status, error, regions)


def _text(item: Caption | TextLine | Note, _template: TextTemplate) -> str:
    return item.text


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        TextKind("objects", ObjectTag, lambda tag, template: tag.text(template.attributes), ObjectTemplate, "objects"),
        TextKind("captions", Caption, _text, called="captions"),
        TextKind("ocr", TextLine, _text, called="words", batch_size=8),
        TensorKind("features", batch_size=32, optional=True),
        TextKind("knowledge", Note, _text, called="knowledge", batch_size=32, about="post", optional=True),
    )
}
"""By name, in the order of the pipeline."""

TEXT_KINDS: dict[str, TextKind] = {name: kind for name, kind in KINDS.items() if isinstance(kind, TextKind)}
"""Of these, the kinds of context."""

PICTURE_KINDS, POST_KINDS = (
    {name: kind for name, kind in TEXT_KINDS.items() if kind.about == subject} for subject in ("picture", "post")
)
"""Of these, those about pictures and those about posts."""
