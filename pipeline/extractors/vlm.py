"""Captions, lines of text, and knowledge about posts, from a vision-language model in this process.

Asking the model is left to :mod:`pipeline.extractors._asking`. A model behind a server is asked by
:mod:`pipeline.extractors.http`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image
from pydantic import PositiveInt

from pipeline.core.records import Caption, Item, Note, TextLine
from pipeline.extractors import _said
from pipeline.extractors._asking import Answer, Asking, AskingOptions, Question
from pipeline.extractors._chat import scaled
from pipeline.extractors._prompts import PLACES, PostOptions, PostPrompt, filled
from pipeline.extractors.base import PostInput, Wants
from pipeline.settings.params import ExecutionParams

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""

P = TypeVar("P")
T = TypeVar("T", bound=Item)

_BLANK = Image.new("RGB", (64, 64))  # in the place of pictures to come


class VlmCaptionsOptions(AskingOptions):
    """``captions.vlm`` in params.yaml."""


class VlmOcrOptions(AskingOptions):
    """``ocr.vlm`` in params.yaml."""

    max_new_tokens: PositiveInt = 512


class VlmKnowledgeOptions(PostOptions, AskingOptions):
    """``knowledge.vlm`` in params.yaml."""

    prompt: PostPrompt  # unlike that about pictures never None
    max_new_tokens: PositiveInt = 256


@dataclass(slots=True)
class Prepared:
    """A question, None where there is nothing to ask, and what the model said: where one answer of a batch cannot be
    used, the engine asks for the others again, which are there."""

    question: Question | None
    answer: Answer | None = None


class _Vlm(Generic[P, T]):
    """What all share: one question a picture or post."""

    KIND: ClassVar[str]

    def __init__(self, options: AskingOptions, execution: ExecutionParams) -> None:
        self._options: Any = options
        self._model = Asking(f"{self.KIND}.vlm", options, execution.device)

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, all that the model is asked with, and version."""
        return {"extractor": f"{self.KIND}.vlm", "version": VERSION, **self._model.fingerprint()}

    def load(self) -> None:
        """Load the model.

        Raises:
            UserError: as :meth:`pipeline.extractors._asking.Asking.load`.
        """
        self._model.load(self._sample())

    def prepare(self, shown: P) -> Prepared:
        """The question about one picture or post, its pictures shrunk."""
        return Prepared(self._question(shown))

    def extract(self, shown: Sequence[P]) -> list[list[T]]:
        """What is said of each picture or post."""
        return self.extract_prepared([self.prepare(one) for one in shown])

    def extract_prepared(self, prepared: Sequence[Prepared]) -> list[list[T]]:
        """What is said of each picture or post.

        Raises:
            ValueError: an answer cannot be used.
        """
        unanswered = [(one, one.question) for one in prepared if one.question is not None and one.answer is None]
        answers = self._model.answer([question for _, question in unanswered])
        for (one, _), answer in zip(unanswered, answers, strict=True):
            one.answer = answer
        return [[] if one.answer is None else self._read(one.answer) for one in prepared]

    def _sample(self) -> Question:
        """A question like those to come."""
        return Question(self._options.prompt, [_BLANK])

    def _question(self, shown: P) -> Question | None:
        raise NotImplementedError

    def _read(self, answer: Answer) -> list[T]:
        raise NotImplementedError

    def _shrunk(self, image: Image.Image) -> Image.Image:
        most = self._options.max_side
        return image if most is None else scaled(image, most)

    def _some(self, answer: Answer) -> Answer:
        """The answer.

        Raises:
            ValueError: it is empty.
        """
        if not answer.text:
            limit = self._options.max_new_tokens
            raise ValueError(f"an empty answer, or a model that thinks for longer than max_new_tokens: {limit}")
        return answer


class _VlmPictures(_Vlm[Image.Image, T]):
    """One question a picture, the same for all."""

    def _question(self, shown: Image.Image) -> Question:
        return Question(self._options.prompt, [self._shrunk(shown)])


class VlmCaptions(_VlmPictures[Caption]):
    """One caption a picture: the answer, on one line; its score is the geometric mean of its tokens' probabilities."""

    Options = VlmCaptionsOptions
    KIND = "captions"

    def _read(self, answer: Answer) -> list[Caption]:
        return [_said.caption(self._some(answer).text, answer.score)]


class VlmOcr(_VlmPictures[TextLine]):
    """The lines of the answer, without scores and places; none where it is empty or "none"."""

    Options = VlmOcrOptions
    KIND = "ocr"

    def _read(self, answer: Answer) -> list[TextLine]:
        return _said.lines(answer.text)


class VlmKnowledge(_Vlm[PostInput, Note]):
    """One note a post: the answer, on one line, scored as a caption is. A post that shows nothing is not asked about.

    What the model would take for a sign of its own is made harmless in the post's text and contexts.
    """

    Options = VlmKnowledgeOptions
    KIND = "knowledge"

    def wants(self) -> Wants:
        """What the prompt names, and pictures."""
        wants: Wants = self._options.wants()
        return wants

    def _sample(self) -> Question:
        return Question(filled(self._options.prompt, dict.fromkeys(PLACES, "a")), [_BLANK] * self._options.pictures)

    def _question(self, shown: PostInput) -> Question | None:
        if not shown.tokens and not shown.pictures and not any(shown.contexts.values()):
            return None
        values = {name: self._model.harmless(said) for name, said in {"text": shown.text, **shown.contexts}.items()}
        return Question(filled(self._options.prompt, values), [self._shrunk(image) for image in shown.pictures])

    def _read(self, answer: Answer) -> list[Note]:
        return [Note(" ".join(self._some(answer).text.split()), answer.score)]
