"""Captions, lines of text, objects, and knowledge about posts, from a model behind an OpenAI-compatible server.

What each kind asks for and how the answer is read; asking is left to :mod:`pipeline.extractors._chat`. The fingerprint
has the model's name and all that it is asked with, not where the server is, so that a store outlives a server.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar

from PIL import Image
from pydantic import PositiveInt

from pipeline.core.records import Box, Caption, Item, Note, ObjectTag, TextLine
from pipeline.extractors import _boxes, _said
from pipeline.extractors._chat import Chat, ChatOptions, Refused, scaled
from pipeline.extractors._prompts import PostOptions, filled
from pipeline.extractors._side_by_side import SideBySide
from pipeline.extractors.base import PostInput, Wants
from pipeline.settings.params import ExecutionParams

VERSION = 1
"""Raised when the same picture, model and options would give another request, or the same answer another result."""

P = TypeVar("P")
T = TypeVar("T", bound=Item)
S = TypeVar("S", bound=ChatOptions)

_BRACKET = re.compile(r"[\[{]")
_MOST_TRIES = 1000  # brackets in an answer at which JSON may begin
_PLACES = {
    "thousandths": ' and "box": [left, top, right, bottom] in thousandths of the picture\'s width and height',
    "pixels": ' and "box": [left, top, right, bottom] in pixels of the picture, which is {} wide and {} high',
}


class HttpCaptionsOptions(ChatOptions):
    """``captions.http`` in params.yaml."""


class HttpOcrOptions(ChatOptions):
    """``ocr.http`` in params.yaml."""

    max_tokens: PositiveInt = 512


class HttpObjectsOptions(ChatOptions):
    """``objects.http`` in params.yaml."""

    max_tokens: PositiveInt = 1024
    response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    boxes: Literal["thousandths", "pixels"] | None = None
    max_objects: PositiveInt = 20


class HttpKnowledgeOptions(PostOptions, ChatOptions):
    """``knowledge.http`` in params.yaml."""

    max_tokens: PositiveInt = 256


class _Http(SideBySide[P, T], Generic[P, T, S]):
    """What all share: one question a picture or post, ``execution.http.requests`` of them at once."""

    KIND: ClassVar[str]

    def __init__(self, options: S, execution: ExecutionParams) -> None:
        super().__init__(execution.http.requests)
        self._options = options
        self._chat = Chat(f"{self.KIND}.http", options, execution.http)

    def fingerprint(self) -> Mapping[str, Any]:
        """The model's name, all that it is asked with, and version."""
        return {"extractor": f"{self.KIND}.http", "version": VERSION, **self._options.model_dump(mode="json")}

    def load(self) -> None:
        """Look whether the server is there.

        Raises:
            UserError: it is not, or wants another key.
        """
        self._chat.connect()

    def used(self) -> str:
        """Requests, tokens and seconds."""
        return self._chat.used()

    def close(self) -> None:
        """End what is being asked; a later ``load`` begins anew."""
        self._chat.close()
        super().close()


class HttpCaptions(_Http[Image.Image, Caption, HttpCaptionsOptions]):
    """One caption a picture, without a score: the answer, on one line."""

    Options = HttpCaptionsOptions
    KIND = "captions"

    def _read(self, shown: Image.Image) -> list[Caption]:
        return [_said.caption(self._chat.ask(self._options.prompt, [shown]))]


class HttpOcr(_Http[Image.Image, TextLine, HttpOcrOptions]):
    """The lines of the answer, without scores and places; none where it is "none"."""

    Options = HttpOcrOptions
    KIND = "ocr"

    def _read(self, shown: Image.Image) -> list[TextLine]:
        return _said.lines(self._chat.ask(self._options.prompt, [shown]))


class HttpObjects(_Http[Image.Image, ObjectTag, HttpObjectsOptions]):
    """Tags in the order of the answer, without scores, at most `max_objects`; with boxes where they are asked for."""

    Options = HttpObjectsOptions
    KIND = "objects"

    def _read(self, shown: Image.Image) -> list[ObjectTag]:
        options, sent = self._options, scaled(shown, self._options.max_side)
        prompt = options.prompt
        if options.boxes is not None:
            prompt += f'\nGive each object "label", "attribute"{_PLACES[options.boxes].format(*sent.size)}.'
        whole = (1000, 1000) if options.boxes == "thousandths" else sent.size
        answer = self._chat.ask(prompt, [sent], _response_format(options))
        tags = []
        for entry in objects(answer):
            said = entry.get("attribute")
            attribute = " ".join(said.split()) if isinstance(said, str) and said.strip() else None
            box = None if options.boxes is None else _box(entry.get("box"), whole, shown.size)
            tags.append(ObjectTag(" ".join(entry["label"].split()), attribute, None, box))
        return tags[: options.max_objects]


class HttpKnowledge(_Http[PostInput, Note, HttpKnowledgeOptions]):
    """One note a post, without a score: the answer, on one line. A post that shows nothing is not asked about."""

    Options = HttpKnowledgeOptions
    KIND = "knowledge"

    def wants(self) -> Wants:
        """What the prompt names, and pictures."""
        return self._options.wants()

    def _read(self, shown: PostInput) -> list[Note]:
        if not shown.tokens and not shown.pictures and not any(shown.contexts.values()):
            return []
        prompt = filled(self._options.prompt, {"text": shown.text, **shown.contexts})
        return [Note(" ".join(self._chat.ask(prompt, shown.pictures).split()))]


def objects(answer: str) -> list[dict[str, Any]]:
    """The objects with a label in an answer: JSON as it was asked for, or what there is of it.

    Accepted are a list or an object that holds one, in a fence or amid other text, labels alone instead of objects,
    and an answer that was cut off.

    Raises:
        Refused: there is no JSON in it.
    """
    text = _said.unfenced(answer)
    try:
        found = _entries(json.loads(text))
    except (ValueError, RecursionError):
        found = [entry for value in _whole_values(text) for entry in _entries(value)]
        if not found:
            raise Refused(f"no JSON in the answer: {' '.join(answer.split())[:200]}") from None
    return [entry for entry in found if isinstance(entry.get("label"), str) and entry["label"].strip()]


def _entries(value: Any) -> list[dict[str, Any]]:
    """The objects that a JSON value is, or holds in a list."""
    if isinstance(value, dict) and "label" not in value:
        value = next((part for part in value.values() if isinstance(part, list)), [])
    entries = value if isinstance(value, list) else [value]
    entries = [{"label": entry} if isinstance(entry, str) else entry for entry in entries]
    return [entry for entry in entries if isinstance(entry, dict)]


def _whole_values(text: str) -> Iterator[Any]:
    """The objects and lists of JSON in a text that is none as a whole; of one that was cut off, its whole parts."""
    decoder, at = json.JSONDecoder(), 0
    for _ in range(_MOST_TRIES):
        begin = _BRACKET.search(text, at)
        if begin is None:
            return
        try:
            value, at = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            at = begin.end()
        else:
            yield value


def _box(found: Any, whole: tuple[int, int], size: tuple[int, int]) -> Box | None:
    """A box in pixels of a picture of `size` (width, height), or None where `found` is none.

    Args:
        found: left, top, right and bottom, where `whole` is the picture's width and height.
    """
    if not isinstance(found, list) or len(found) != 4:
        return None
    if not all(type(value) in (int, float) and math.isfinite(value) for value in found):
        return None
    scale = (size[0] / whole[0], size[1] / whole[1])
    box = _boxes.clipped([value * scale[at % 2] for at, value in enumerate(found)], (size[1], size[0]))
    return box if box[0] < box[2] and box[1] < box[3] else None


def _response_format(options: HttpObjectsOptions) -> dict[str, Any] | None:
    """The field of that name: a JSON schema with all fields required, as strict servers want it."""
    if options.response_format == "text":
        return None
    if options.response_format == "json_object":
        return {"type": "json_object"}
    fields: dict[str, Any] = {"label": {"type": "string"}, "attribute": {"type": "string"}}
    if options.boxes is not None:
        fields["box"] = {"type": "array", "items": {"type": "number"}}
    entry = _schema(fields)
    return {
        "type": "json_schema",
        "json_schema": {
            "name": "objects",
            "strict": True,
            "schema": _schema({"objects": {"type": "array", "items": entry}}),
        },
    }


def _schema(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(fields), "required": list(fields), "additionalProperties": False}
