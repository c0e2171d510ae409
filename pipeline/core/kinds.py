"""The kinds of context that are read off a picture: one entry each, and all else follows from it.

An entry says which record an item is, how it turns into words, and what the report calls it. The sections of
params.yaml, the context records, the template and the report are made from the entries. To add a kind, add an entry,
a stage that runs it (``stages/NAME.py``, a stage in dvc.yaml) and its extractors.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, create_model

from pipeline.core.errors import UserError
from pipeline.core.files import numbered_lines
from pipeline.core.records import STRICT, Caption, Context, ObjectTag, TextLine, adapter, as_json, mistakes


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


@dataclass(frozen=True)
class Kind:
    """A kind of context.

    Attributes:
        name: its section in params.yaml, its stage, and the key of the list in its context records.
        item: the record of one item; it has a `score`, and may have a `box` or a `polygon` to draw.
        words: an item in words, given the kind's section of `views`.
        template: the type of that section.
        called: what the report calls its items.
        batch_size: pictures a batch, where `execution.batch_size` says nothing.
    """

    name: str
    item: type[Any]
    words: Callable[[Any, Any], str]
    template: type[TextTemplate] = TextTemplate
    called: str = ""
    batch_size: int = 16

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
            "image": (str, ...),
            "sha256": (str | None, ...),
            "status": (str, ...),
            "error": (str | None, ...),
            self.name: (list[self.item], ...),  # type: ignore[name-defined]
        }
        return create_model(f"{self.name} row", __config__=STRICT, **fields)

    def dump(self, items: Sequence[Any]) -> bytes:
        """The JSON list of what was found in a picture, as UTF-8: what the store keeps.

        Raises:
            TypeError: something else than a list of this kind's items.
            ValueError: a number is not finite, or a text holds an unpaired surrogate.
        """
        if not isinstance(items, list | tuple) or not all(isinstance(item, self.item) for item in items):
            raise TypeError(
                f"{type(items).__name__} {str(items)[:80]!r} for a picture; expected a list of {self.item.__name__}"
            )
        try:
            value = self._items.dump_python(self._items.validate_python(list(items)), mode="json")
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

    def line(self, row: Mapping[str, Any], status: str, error: str | None, items: bytes) -> str:
        """The context record of a manifest's row as a line of JSON Lines; `items` is what :meth:`dump` gave."""
        head = {"image": row["image"], "sha256": row["sha256"], "status": status, "error": error}
        return f'{json.dumps(head, ensure_ascii=False)[:-1]}, "{self.name}": {items.decode()}}}\n'

    def read(self, path: Path) -> Iterator[Context]:
        """Read data/contexts/{name}.jsonl.

        Raises:
            UserError: a line is no context record of this kind; the message names file and line.
        """
        parse = self._row.model_validate_json
        for number, line in numbered_lines(path):
            try:
                row: Any = parse(line)
            except ValidationError as error:
                raise UserError(
                    f"{path}:{number}: {mistakes(error)}; to write the file again: dvc repro --force --single-item "
                    f"{self.name}"
                ) from None
            yield Context(row.image, row.sha256, row.status, row.error, getattr(row, self.name))


def _text(item: Caption | TextLine, _template: TextTemplate) -> str:
    return item.text


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("objects", ObjectTag, lambda tag, template: tag.text(template.attributes), ObjectTemplate, "objects"),
        Kind("captions", Caption, _text, called="captions"),
        Kind("ocr", TextLine, _text, called="words", batch_size=8),
    )
}
"""By name, in the order of the pipeline."""
