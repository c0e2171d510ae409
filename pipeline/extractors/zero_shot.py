"""Object tags for labels that params list, from transformers' open-vocabulary detectors: Grounding DINO and OWL.

Pictures are prepared and batched as for other detectors of transformers; this module puts the
labels to the model and chooses one for each box.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag
from pipeline.extractors import _boxes, _torch
from pipeline.extractors.transformers_objects import Detector, DetectorOptions, finite

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

    labels: Annotated[list[Annotated[str, AfterValidator(_label)]], Field(min_length=1)]
    template: _torch.Template = "a photo of a {}"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.3


class ZeroShot(Detector):
    """Tags with a score above `threshold`, best first, at most `max_objects`; labels are those of params.

    A box has the label that the model finds likeliest for it, and the probability of that. Grounding DINO gives a
    probability to every sub-token of the labels; a label's is the largest of its own.
    """

    Options = ZeroShotOptions
    NAME = "zero_shot"
    VERSION = VERSION
    MODEL = "AutoModelForZeroShotObjectDetection"

    _options: ZeroShotOptions

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options, image processor and version; the template, where the model is asked with it."""
        found = dict(super().fingerprint())
        if self._family in _GROUNDING:
            del found["template"]
        return found

    def _detect(self, pixels: "torch.Tensor", sizes: list[tuple[int, int]]) -> list[list[ObjectTag]]:
        import torch

        with torch.inference_mode():
            logits, boxes = self._grounded(pixels) if self._family in _GROUNDING else self._asked(pixels)
        scores, labels = finite(logits).sigmoid().max(dim=-1)  # each of shape (batch, boxes)
        centres, extents = finite(boxes)[..., :2], finite(boxes)[..., 2:]
        corners = torch.cat([centres - extents / 2, centres + extents / 2], dim=-1)
        tags = []
        for own_scores, own_labels, own_corners, size in zip(scores, labels, corners, sizes, strict=True):
            # OWL sees the picture in the upper left corner of a square.
            height, width = (max(size), max(size)) if self._family == "owlv2" else size
            places = own_corners * torch.tensor([width, height, width, height])
            tags.append(
                [
                    _boxes.tag(
                        self._options.labels[int(own_labels[at])], float(own_scores[at]), places[at].tolist(), size
                    )
                    for at in (own_scores > self._options.threshold).nonzero()[:, 0].tolist()
                ]
            )
        return tags

    def _grounded(self, pixels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """What Grounding DINO says of a stack of pictures.

        Args:
            pixels: *Shape:* (batch, channels, height, width).

        Returns:
            Logits, *Shape:* (batch, queries, labels), and boxes as centre and size, fractions of the picture's width
            and height, *Shape:* (batch, queries, 4).
        """
        import torch

        ids, spans = self._phrases
        ids = ids.repeat(len(pixels), 1)
        outputs = self._model(
            pixel_values=pixels,
            input_ids=ids,
            token_type_ids=torch.zeros_like(ids),
            attention_mask=torch.ones_like(ids),
        )
        return torch.stack(
            [outputs.logits[..., begin:end].amax(dim=-1) for begin, end in spans], dim=-1
        ), outputs.pred_boxes

    def _asked(self, pixels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """What OWL says, as :meth:`_grounded`. Labels are encoded once; the model's own forward does so per batch."""
        model = self._model
        grid, _ = model.image_embedder(pixel_values=pixels)
        features = grid.flatten(1, 2)
        queries = self._queries.expand(len(pixels), -1, -1)
        logits, _ = model.class_predictor(features, queries, None)
        return logits, model.box_predictor(features, grid)

    def load(self) -> None:
        """Load image processor, tokenizer and model, and encode the labels.

        Raises:
            UserError: the checkpoint is not available or is of another kind of model, or the labels do not fit into it.
        """
        grounding = self._family in _GROUNDING  # first: it refuses other kinds of models
        super().load()
        self._tokenizer = _torch.tokenizer(self._checkpoint.folder, str(self._options.model))
        if grounding:
            self._phrases = self._tokenized_labels()
        else:
            self._queries = self._encoded_labels()

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

    def _tokenized_labels(self) -> "tuple[torch.Tensor, list[tuple[int, int]]]":
        """``[CLS] label . label . [SEP]`` as token ids.

        Returns:
            The ids, *Shape:* (1, length), and of each label the positions of its first token and behind its last.

        Raises:
            UserError: a label has no token, or the model has no room for them all.
        """
        import torch

        tokenizer = self._tokenizer
        stop = tokenizer.convert_tokens_to_ids(".")
        ids, spans = [tokenizer.cls_token_id], []
        for label in self._options.labels:
            words = tokenizer(label.lower(), add_special_tokens=False)["input_ids"]
            if not words:
                raise UserError(f"objects.zero_shot.labels: {label!r} is nothing to the model's tokenizer")
            spans.append((len(ids), len(ids) + len(words)))
            ids += [*words, stop]
        ids.append(tokenizer.sep_token_id)
        room = self._model.config.max_text_len
        if len(ids) > room:
            fit = sum(end < room - 1 for _, end in spans)
            raise UserError(
                f"objects.zero_shot.labels: {len(ids)} sub-tokens with their separators, and "
                f"{self._options.model} takes {room}; the first {fit} labels fit"
            )
        return torch.tensor([ids], device=self._device), spans

    def _encoded_labels(self) -> "torch.Tensor":
        """The labels as unit vectors, *Shape:* (1, labels, width).

        Raises:
            UserError: a label is too long for the model.
        """
        import torch

        texts = [self._options.template.format(label) for label in self._options.labels]
        room = self._model.config.text_config.max_position_embeddings
        _torch.require_room(self._tokenizer, texts, room, "objects.zero_shot.labels", self._options.model)
        inputs = self._tokenizer(texts, padding="max_length", max_length=room, return_tensors="pt")
        inputs = {key: inputs[key].to(self._device) for key in ("input_ids", "attention_mask")}
        base = self._model.base_model
        with torch.inference_mode():
            pooled = base.text_model(**inputs).pooler_output
            features: torch.Tensor = base.text_projection(pooled)
            return (features / features.norm(dim=-1, keepdim=True))[None]
