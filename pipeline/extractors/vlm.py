"""Captions and lines of text from a vision-language model in this process: a prompt, a picture, an answer.

Asking the model is left to :mod:`pipeline.extractors._asking`. A model behind a server is asked by
:mod:`pipeline.extractors.http`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image
from pydantic import PositiveInt

from pipeline.core.records import Caption, Item, TextLine
from pipeline.extractors import _said
from pipeline.extractors._asking import Answer, Asking, AskingOptions, Question
from pipeline.extractors._chat import scaled
from pipeline.settings.params import ExecutionParams

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""

T = TypeVar("T", bound=Item)


class VlmCaptionsOptions(AskingOptions):
    """``captions.vlm`` in params.yaml."""


class VlmOcrOptions(AskingOptions):
    """``ocr.vlm`` in params.yaml."""

    max_new_tokens: PositiveInt = 512


@dataclass(slots=True)
class Prepared:
    """A picture as the model is shown it, and what the model said: where one answer of a batch cannot be used, the
    engine asks for the others again, which are there."""

    image: Image.Image
    answer: Answer | None = None


class _Vlm(Generic[T]):
    """What the two share: one question a picture."""

    KIND: ClassVar[str]

    def __init__(self, options: AskingOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._model = Asking(f"{self.KIND}.vlm", options, execution.device)

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, all that the model is asked with, and version."""
        return {"extractor": f"{self.KIND}.vlm", "version": VERSION, **self._model.fingerprint()}

    def load(self) -> None:
        """Load the model.

        Raises:
            UserError: as :meth:`pipeline.extractors._asking.Asking.load`.
        """
        self._model.load(self._question(Image.new("RGB", (64, 64))))

    def prepare(self, image: Image.Image) -> Prepared:
        """Shrink one picture."""
        most = self._options.max_side
        return Prepared(image if most is None else scaled(image, most))

    def extract(self, images: Sequence[Image.Image]) -> list[list[T]]:
        """What is found in each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[Prepared]) -> list[list[T]]:
        """What is found in each picture.

        Raises:
            ValueError: an answer cannot be used.
        """
        open_ = [one for one in prepared if one.answer is None]
        answers = self._model.answer([self._question(one.image) for one in open_])
        for one, answer in zip(open_, answers, strict=True):
            one.answer = answer
        return [self._read(one.answer) for one in prepared if one.answer is not None]

    def _question(self, image: Image.Image) -> Question:
        return Question(self._options.prompt, [image])

    def _read(self, answer: Answer) -> list[T]:
        raise NotImplementedError


class VlmCaptions(_Vlm[Caption]):
    """One caption a picture: the answer, on one line; its score is the geometric mean of its tokens' probabilities."""

    Options = VlmCaptionsOptions
    KIND = "captions"

    def _read(self, answer: Answer) -> list[Caption]:
        if not answer.text:
            limit = self._options.max_new_tokens
            raise ValueError(f"an empty answer, or a model that thinks for longer than max_new_tokens: {limit}")
        return [_said.caption(answer.text, answer.score)]


class VlmOcr(_Vlm[TextLine]):
    """The lines of the answer, without scores and places; none where it is empty or "none"."""

    Options = VlmOcrOptions
    KIND = "ocr"

    def _read(self, answer: Answer) -> list[TextLine]:
        return _said.lines(answer.text)
