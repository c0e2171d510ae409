"""Object tags for labels that it is told, from transformers' open-vocabulary detectors: Grounding DINO and OWL.

The labels are those of params, or phrases of the posts that show a picture (:mod:`pipeline.extractors._phrases`).
Pictures are prepared and batched as for other detectors of transformers; this module puts the labels to the model and
chooses one for each box.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import AfterValidator, Field, PositiveInt

from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag
from pipeline.extractors import _boxes, _phrases, _torch
from pipeline.extractors.base import LabelledPicture
from pipeline.extractors.transformers_objects import Detector, DetectorOptions, Prepared, finite

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""

_GROUNDING = ("grounding-dino", "mm-grounding-dino")
_OWL = ("owlv2", "owlvit")


def _label(text: str) -> str:
    if not text.strip() or set(text) & set(".?"):
        raise ValueError("expected words without full stop and question mark, which separate labels")
    return text.strip()


class ZeroShotOptions(DetectorOptions):
    """``objects.zero_shot`` in params.yaml."""

    labels: Literal["from_text"] | Annotated[list[Annotated[str, AfterValidator(_label)]], Field(min_length=1)]
    max_labels: PositiveInt = 16
    template: _torch.Template = "a photo of a {}"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.3


@dataclass(frozen=True, slots=True)
class _Text:
    """Labels as Grounding DINO reads them: the token ids of ``[CLS] label . label . [SEP]``."""

    ids: list[int]
    spans: list[tuple[int, int]]  # of each label, the positions of its first token and behind its last


class ZeroShot(Detector):
    """Tags with a score above `threshold`, best first, at most `max_objects`; labels are those that it is told.

    A box has the label that the model finds likeliest for it, and the probability of that. Grounding DINO gives a
    probability to every sub-token of the labels; a label's is the largest of its own.
    """

    Options = ZeroShotOptions
    NAME = "zero_shot"
    VERSION = VERSION
    MODEL = "AutoModelForZeroShotObjectDetection"

    _options: ZeroShotOptions
    _left_out = 0

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options, image processor and version; the template, where the model is asked with it."""
        found = dict(super().fingerprint())
        del found["max_labels"]  # of phrases, each picture's come with it
        if self._family in _GROUNDING:
            del found["template"]
        return found

    def labels_of(self, posts: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
        """Phrases of the posts that show a picture, where params say so."""
        return _phrases.phrases(posts, self._options.max_labels) if self._options.labels == "from_text" else None

    def prepare(self, image: Image.Image | LabelledPicture) -> Prepared:
        """Resize and normalise one picture, and choose the labels that the model has room for."""
        if isinstance(image, LabelledPicture):
            fitting = self._fitting(image.labels)
            with self._guard:
                self._left_out += len(image.labels) - len(fitting)
            return replace(super().prepare(image.picture), labels=fitting)
        if self._options.labels == "from_text":
            raise ValueError("expected a picture with labels, as objects.zero_shot.labels is from_text")
        return replace(super().prepare(image), labels=tuple(self._options.labels))

    def used(self) -> str:
        """How many phrases were not looked for, as the model has no room for them."""
        return f"{self._left_out:,} phrases left out, as the model has no room for them" if self._left_out else ""

    def extract(self, images: Sequence[Image.Image | LabelledPicture]) -> list[list[ObjectTag]]:
        """Tags of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[Prepared]) -> list[list[ObjectTag]]:
        """Tags of each picture; none where there is nothing to look for."""
        found = iter(super().extract_prepared([each for each in prepared if each.labels]))
        return [next(found) if each.labels else [] for each in prepared]

    def _detect(self, pixels: "torch.Tensor", prepared: Sequence[Prepared]) -> list[list[ObjectTag]]:
        import torch

        labels = [each.labels for each in prepared]
        with torch.inference_mode():
            logits, boxes = (self._grounded if self._family in _GROUNDING else self._asked)(pixels, labels)
        scores, best = finite(logits).sigmoid().max(dim=-1)  # each of shape (batch, boxes)
        centres, extents = finite(boxes)[..., :2], finite(boxes)[..., 2:]
        corners = torch.cat([centres - extents / 2, centres + extents / 2], dim=-1)
        tags = []
        for own_scores, own_best, own_corners, each in zip(scores, best, corners, prepared, strict=True):
            # OWL sees the picture in the upper left corner of a square.
            height, width = (max(each.size), max(each.size)) if self._family == "owlv2" else each.size
            places = own_corners * torch.tensor([width, height, width, height])
            tags.append(
                [
                    _boxes.tag(each.labels[int(own_best[at])], float(own_scores[at]), places[at].tolist(), each.size)
                    for at in (own_scores > self._options.threshold).nonzero()[:, 0].tolist()
                ]
            )
        return tags

    def _grounded(
        self, pixels: "torch.Tensor", labels: Sequence[tuple[str, ...]]
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """What Grounding DINO says of a stack of pictures.

        Args:
            pixels: *Shape:* (batch, channels, height, width).
            labels: of each picture, at most `labels` of them.

        Returns:
            Logits, -inf behind a picture's last label, *Shape:* (batch, queries, labels), and boxes as centre and size,
            fractions of the picture's width and height, *Shape:* (batch, queries, 4).
        """
        import torch

        texts = [self._texts.get(each) or self._text(each) for each in labels]
        longest = max(len(text.ids) for text in texts)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[*text.ids, *[pad] * (longest - len(text.ids))] for text in texts], device=self._device)
        mask = torch.tensor([[place < len(text.ids) for place in range(longest)] for text in texts])
        outputs = self._model(
            pixel_values=pixels,
            input_ids=ids,
            token_type_ids=torch.zeros_like(ids),
            attention_mask=mask.long().to(self._device),
        )
        most = max(map(len, labels))
        logits = outputs.logits.new_full((*outputs.logits.shape[:2], most), -torch.inf)
        for text in {id(each): each for each in texts}.values():  # one alone, where the labels are those of params
            rows = [row for row, each in enumerate(texts) if each is text]
            own = outputs.logits[rows]
            for number, (begin, end) in enumerate(text.spans):
                logits[rows, :, number] = own[..., begin:end].amax(dim=-1)
        return logits, outputs.pred_boxes

    def _asked(self, pixels: "torch.Tensor", labels: Sequence[tuple[str, ...]]) -> "tuple[torch.Tensor, torch.Tensor]":
        """What OWL says, as :meth:`_grounded`; labels of params are encoded once, others with each stack."""
        import torch

        model, most = self._model, max(map(len, labels))
        grid, _ = model.image_embedder(pixel_values=pixels)
        features = grid.flatten(1, 2)
        distinct = list(dict.fromkeys(label for each in labels for label in each))
        encoded = self._queries if distinct == self._distinct else self._encoded(distinct)
        row_of = {label: row for row, label in enumerate(distinct)}
        there = torch.tensor([[number < len(each) for number in range(most)] for each in labels], device=self._device)
        rows = [[row_of[label] for label in each] + [0] * (most - len(each)) for each in labels]
        logits, _ = model.class_predictor(features, encoded[torch.tensor(rows, device=self._device)], None)
        return logits.masked_fill(~there[:, None], -torch.inf), model.box_predictor(features, grid)

    def load(self) -> None:
        """Load image processor, tokenizer and model, and encode the labels of params.

        Raises:
            UserError: the checkpoint is not available or is of another kind of model, or the labels do not fit into it.
        """
        grounding = self._family in _GROUNDING  # first: it refuses other kinds of models
        super().load()
        self._tokenizer = _torch.tokenizer(self._checkpoint.folder, str(self._options.model))
        self._guard = threading.Lock()  # a fast tokenizer is not to be called by two threads at once
        self._texts: dict[tuple[str, ...], _Text] = {}  # of params
        self._distinct: list[str] = []  # likewise
        if self._options.labels == "from_text":
            return
        labels = tuple(self._options.labels)
        self._distinct = list(dict.fromkeys(labels))
        if grounding:
            self._texts[labels] = self._checked_text(labels)
        else:
            key, name = "objects.zero_shot.labels", self._options.model
            _torch.require_room(self._tokenizer, self._sentences(labels), self._room, key, name)
            self._queries = self._encoded(self._distinct)

    @cached_property
    def _family(self) -> str:
        """The model's type.

        Raises:
            UserError: it is none that can be asked for labels here.
        """
        family = self._model_type
        if family not in (*_GROUNDING, *_OWL):
            raise UserError(
                f"checkpoint {self._options.model}: its model_type is {family}; objects.zero_shot takes "
                f"{', '.join((*_GROUNDING, *_OWL))}, objects.transformers detectors with labels of their "
                "own"
            )
        return str(family)

    @property
    def _room(self) -> int:
        """Sub-tokens that the model reads: of all labels together (Grounding DINO), of each (OWL)."""
        config = self._model.config
        room: int = config.max_text_len if self._family in _GROUNDING else config.text_config.max_position_embeddings
        return room

    def _fitting(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The labels that the model has room for: of Grounding DINO the first, of OWL those that are short enough."""
        if self._family not in _GROUNDING:
            lengths = [len(ids) for ids in self._ids(self._sentences(labels))]
            return tuple(label for label, length in zip(labels, lengths, strict=True) if length <= self._room)
        lengths = [len(ids) for ids in self._ids(labels, special=False)]
        known = [(label, length) for label, length in zip(labels, lengths, strict=True) if length]
        total, fitting = 2, []  # with what begins and ends the text
        for label, length in known:
            total += length + 1
            if total > self._room:
                break
            fitting.append(label)
        return tuple(fitting)

    def _ids(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        if not texts:
            return []
        lowered = texts if special else [text.lower() for text in texts]
        with self._guard:
            found: list[list[int]] = self._tokenizer(list(lowered), add_special_tokens=special)["input_ids"]
        return found

    def _text(self, labels: tuple[str, ...]) -> _Text:
        """Labels as Grounding DINO reads them."""
        stop = self._tokenizer.convert_tokens_to_ids(".")
        ids, spans = [self._tokenizer.cls_token_id], []
        for words in self._ids(labels, special=False):
            spans.append((len(ids), len(ids) + len(words)))
            ids += [*words, stop]
        return _Text([*ids, self._tokenizer.sep_token_id], spans)

    def _checked_text(self, labels: tuple[str, ...]) -> _Text:
        """As :meth:`_text`, of the labels of params.

        Raises:
            UserError: a label has no token, or the model has no room for them all.
        """
        text = self._text(labels)
        for label, (begin, end) in zip(labels, text.spans, strict=True):
            if begin == end:
                raise UserError(f"objects.zero_shot.labels: {label!r} is nothing to the model's tokenizer")
        if len(text.ids) > self._room:
            fit = sum(end < self._room - 1 for _, end in text.spans)
            raise UserError(
                f"objects.zero_shot.labels: {len(text.ids)} sub-tokens with their separators, and "
                f"{self._options.model} takes {self._room}; the first {fit} labels fit"
            )
        return text

    def _sentences(self, labels: Sequence[str]) -> list[str]:
        return [self._options.template.format(label) for label in labels]

    def _encoded(self, labels: Sequence[str]) -> "torch.Tensor":
        """Labels as OWL's text model has them: unit vectors, *Shape:* (labels, width)."""
        import torch

        room, pad = self._room, self._tokenizer.pad_token_id
        ids = self._ids(self._sentences(labels))
        padded = torch.tensor([[*each, *[pad] * (room - len(each))] for each in ids], device=self._device)
        mask = torch.tensor([[place < len(each) for place in range(room)] for each in ids], device=self._device)
        base = self._model.base_model
        with torch.inference_mode():
            pooled = base.text_model(input_ids=padded, attention_mask=mask.long()).pooler_output
            features: torch.Tensor = base.text_projection(pooled)
            return features / features.norm(dim=-1, keepdim=True)
