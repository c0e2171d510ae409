"""Captions, objects and lines of text from one model, Florence-2 (Xiao et al., CVPR 2024), through transformers.

The model reads a picture and one of its task's prompts, and writes text in which places are words, ``<loc_0>`` to
``<loc_999>``: thousandths of the picture's width and height. Reading them is done here, on the tokens, as a label may
itself contain such characters.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from PIL import Image
from pydantic import Field, PositiveInt

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.records import Box, Caption, Item, ObjectTag, TextLine
from pipeline.core.soundness import explained
from pipeline.extractors import _boxes, _generation, _lines, _torch
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""

T = TypeVar("T", bound=Item)

_FAMILY = "florence2"
_PLACE = re.compile(r"<loc_(\d+)>")
_BINS = 1000  # that a side is divided into
_BOX, _CORNERS = 4, 8  # numbers of a box, and of a line of text's four corners


class Florence2Options(Options):
    """What is said of the model, whatever it is asked."""

    model: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    num_beams: PositiveInt = 3
    max_new_tokens: PositiveInt = 1024
    dtype: _torch.Dtype = "float32"

    def require(self) -> None:
        """Check that the checkpoint is there."""
        checkpoints.require(self.model, self.revision)


class Florence2CaptionsOptions(Florence2Options):
    """``captions.florence2`` in params.yaml."""

    task: Literal["caption", "detailed_caption", "more_detailed_caption"] = "caption"
    max_new_tokens: PositiveInt = 256


class Florence2ObjectsOptions(Florence2Options):
    """``objects.florence2`` in params.yaml."""

    task: Literal["od", "dense_region_caption"] = "od"
    max_objects: PositiveInt = 50


class Florence2OcrOptions(Florence2Options):
    """``ocr.florence2`` in params.yaml."""


class Prepared(NamedTuple):
    """A picture made ready: pixels *Shape:* (channels, height, width), and the picture's own width and height."""

    pixels: "torch.Tensor"
    size: tuple[int, int]


class _Florence2(_torch.FromCheckpoint, Generic[T]):
    """What the three share: one task's prompt, and every picture made a square of one size."""

    KIND: ClassVar[str]

    def __init__(self, options: Florence2Options, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options, image processor and version."""
        return {
            "extractor": f"{self.KIND}.florence2",
            "version": VERSION,
            "checkpoint": self._checkpoint.identity,
            "processor": _torch.BACKEND,
            **self._options.model_dump(exclude={"model", "revision"}),
        }

    def prepare(self, image: Image.Image) -> Prepared:
        """Resize and normalise one picture."""
        inputs = self._processor(images=image, return_tensors="pt", input_data_format="channels_last")
        return Prepared(inputs["pixel_values"][0], image.size)

    def extract(self, images: Sequence[Image.Image]) -> list[list[T]]:
        """What is found in each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[Prepared]) -> list[list[T]]:
        """What is found in each picture.

        Raises:
            ValueError: the model gave numbers that are not finite.
        """

        def run(pixels: "torch.Tensor", places: list[int]) -> list[list[T]]:
            sizes = [prepared[place].size for place in places]
            return [
                self._read(tokens, likelihood, size)
                for (tokens, likelihood), size in zip(self._generate(pixels), sizes, strict=True)
            ]

        return _torch.in_batches_of_one_shape([one.pixels for one in prepared], run, self._device, self._options.dtype)

    def load(self) -> None:
        """Load image processor, tokenizer and model, and encode the task's prompt.

        Raises:
            UserError: the checkpoint is not available or is of another kind of model, or has no room for the answer.
        """
        super().load()
        from transformers import AutoConfig, AutoProcessor, Florence2ForConditionalGeneration

        options, folder, name = self._options, self._checkpoint.folder, str(self._options.model)
        config = self._loaded(AutoConfig, "configuration")
        if config.model_type != _FAMILY:
            raise UserError(
                f"checkpoint {name}: its model_type is {config.model_type}; {self.KIND}.florence2 takes {_FAMILY}, "
                "such as florence-community/Florence-2-base"
            )
        room = config.text_config.max_position_embeddings
        if options.max_new_tokens > room:
            raise UserError(
                f"{self.KIND}.florence2.max_new_tokens: found {options.max_new_tokens}; {name} has room for {room}"
            )
        self._tokenizer = _torch.tokenizer(folder, name)
        processor = _torch.part(AutoProcessor, "processor", folder, name)
        with explained(f"checkpoint {name}: its processor makes no prompt"):
            inputs = processor(images=Image.new("RGB", (8, 8)), text=f"<{self._task.upper()}>", return_tensors="pt")
        self._prompt = inputs["input_ids"].to(self._device)
        self._model = _torch.load(Florence2ForConditionalGeneration, folder, name, options.dtype, self._device)

    @property
    def _task(self) -> str:
        return str(self._options.task)

    def _generate(self, pixels: "torch.Tensor") -> list[tuple[list[int], float]]:
        """What the model writes about a stack of pictures: token ids, and how likely they are.

        Args:
            pixels: pictures on the model's device, *Shape:* (batch, channels, height, width).
        """
        import torch

        options, greedy = self._options, _generation.Likelihoods()
        with torch.inference_mode():
            output = self._model.generate(
                pixel_values=pixels,
                input_ids=self._prompt.repeat(len(pixels), 1),
                do_sample=False,
                num_beams=options.num_beams,
                length_penalty=1.0,
                max_new_tokens=options.max_new_tokens,
                logits_processor=[greedy] if options.num_beams == 1 else [],
                output_scores=options.num_beams > 1,
                return_dict_in_generate=True,
            )
        new = output.sequences[:, 1:].cpu()  # behind the token that the decoder starts with
        if options.num_beams == 1:
            means = greedy.means(new, _generation.ends_of(self._model))
        else:
            means = output.sequences_scores.float().cpu().tolist()
        if not all(map(math.isfinite, means)):
            raise ValueError("the model gave numbers that are not finite")
        return [(tokens, round(math.exp(mean), 4)) for tokens, mean in zip(new.tolist(), means, strict=True)]

    def _read(self, tokens: Sequence[int], likelihood: float, size: tuple[int, int]) -> list[T]:
        """The items of an answer about a picture of `size` (width, height) in pixels."""
        raise NotImplementedError

    def _text(self, tokens: Sequence[int]) -> str:
        """Tokens as text on one line, without those that stand for something else."""
        return " ".join(self._tokenizer.decode(tokens, skip_special_tokens=True).split())

    def _regions(self, tokens: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """Each text of an answer with the places behind it, from 0 to 999, across and down by turns."""
        text: list[int] = []
        places: list[int] = []
        for token, word in zip(tokens, self._tokenizer.convert_ids_to_tokens(tokens), strict=True):
            if place := _PLACE.fullmatch(word):
                places.append(int(place[1]))
                continue
            if places:
                yield self._text(text), places
                text, places = [], []
            text.append(token)
        if places:
            yield self._text(text), places


class Florence2Captions(_Florence2[Caption]):
    """One caption a picture; its score is the geometric mean of its tokens' probabilities, the end included."""

    Options = Florence2CaptionsOptions
    KIND = "captions"

    def _read(self, tokens: Sequence[int], likelihood: float, size: tuple[int, int]) -> list[Caption]:
        return [Caption(self._text(tokens), likelihood)]


class Florence2Objects(_Florence2[ObjectTag]):
    """Tags in the order of the answer, at most `max_objects`, with boxes; of scores the model gives none."""

    Options = Florence2ObjectsOptions
    KIND = "objects"

    def _read(self, tokens: Sequence[int], likelihood: float, size: tuple[int, int]) -> list[ObjectTag]:
        tags = []
        for label, places in self._regions(tokens):
            for start in range(0, len(places) - _BOX + 1, _BOX):
                if label:
                    tags.append(ObjectTag(label, None, None, _box(places[start : start + _BOX], size)))
        return tags[: self._options.max_objects]


class Florence2Ocr(_Florence2[TextLine]):
    """Lines in reading order, with their corners; of scores the model gives none.

    A line that `max_new_tokens` cuts off, so that it has no place, is left out.
    """

    Options = Florence2OcrOptions
    KIND = "ocr"

    @property
    def _task(self) -> str:
        return "ocr_with_region"

    def _read(self, tokens: Sequence[int], likelihood: float, size: tuple[int, int]) -> list[TextLine]:
        lines = []
        for text, places in self._regions(tokens):
            if text and len(places) >= _CORNERS:
                pixels = [round(value, 1) for value in _pixels(places[:_CORNERS], size)]
                lines.append(TextLine(text, None, tuple(zip(pixels[::2], pixels[1::2], strict=True))))
        return _lines.reading_order(lines)


def _box(places: Sequence[int], size: tuple[int, int]) -> Box | None:
    """A box in pixels of a picture of `size` (width, height), or None where it holds nothing."""
    box = _boxes.clipped(_pixels(places, size), (size[1], size[0]))
    return box if box[0] < box[2] and box[1] < box[3] else None


def _pixels(places: Sequence[int], size: tuple[int, int]) -> list[float]:
    """The middles of the bins that places name, across and down by turns, in pixels."""
    return [(place + 0.5) / _BINS * size[at % 2] for at, place in enumerate(places)]
