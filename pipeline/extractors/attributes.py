"""Attributes of objects ("black" dog) for any detector: CLIP or SigLIP compares each box with what params list.

Off unless ``objects.attributes.model`` names a checkpoint. Finding the objects is left to the detector that is wrapped.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import Field

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag
from pipeline.extractors import _torch
from pipeline.extractors.base import (
    BucketingExtractor,
    Extractor,
    LabelledExtractor,
    LabelledPicture,
    LoadingExtractor,
    MeteredExtractor,
    Options,
    PreparingExtractor,
    fingerprint_of,
)
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights, tags and options would give another result."""

_FAMILIES = ("clip", "siglip")
_BOXES = 64  # compared at a time
_THIN = 20  # longer sides over shorter ones


class AttributesOptions(Options):
    """``objects.attributes`` in params.yaml."""

    model: Annotated[str, Field(min_length=1)] | None = None
    revision: str | None = None
    labels: list[Annotated[str, Field(min_length=1)]] = Field(
        default=["black", "white", "red", "blue", "green", "yellow", "brown", "wooden", "young", "old"], min_length=1
    )
    template: _torch.Template = "a photo of a {}"
    threshold: Fraction = 0.5
    dtype: _torch.Dtype = "float32"

    def require(self) -> None:
        """Check that the checkpoint is there."""
        if self.model is not None:
            checkpoints.require(self.model, self.revision)


class WithAttributes(_torch.FromCheckpoint):
    """A detector whose tags get an attribute each, where one is likely.

    Of a dog's box, the model is asked which of "a photo of a black dog", "a photo of a white dog", … and "a photo of a
    dog" describes it; the attribute of the likeliest is taken where its probability among them all is `threshold` or
    more. A tag that has an attribute, or no box, stays as it is.
    """

    Options = AttributesOptions

    def __init__(self, detector: Extractor, options: AttributesOptions, execution: ExecutionParams) -> None:
        self._detector, self._options = detector, options
        self._device_name = execution.device
        self._texts: dict[str, torch.Tensor] = {}

    def fingerprint(self) -> Mapping[str, Any]:
        """The detector's, with the weights, options and version of what looks for attributes."""
        own = {
            "version": VERSION,
            "checkpoint": self._checkpoint.identity,
            "processor": _torch.BACKEND,
            **self._options.model_dump(exclude={"model", "revision"}),
        }
        return {**fingerprint_of(self._detector), "attributes": own}

    def bucket(self, width: int, height: int) -> Hashable:
        """The detector's."""
        return self._detector.bucket(width, height) if isinstance(self._detector, BucketingExtractor) else None

    def labels_of(self, posts: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
        """The detector's."""
        return self._detector.labels_of(posts) if isinstance(self._detector, LabelledExtractor) else None

    def prepare(self, image: Image.Image | LabelledPicture) -> tuple[Any, Image.Image]:
        """What the detector makes ready, and the picture, which the boxes are cut from."""
        picture = image.picture if isinstance(image, LabelledPicture) else image
        return self._detector.prepare(image) if isinstance(self._detector, PreparingExtractor) else image, picture

    def extract(self, images: Sequence[Image.Image | LabelledPicture]) -> list[list[ObjectTag]]:
        """Tags of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[tuple[Any, Image.Image]]) -> list[list[ObjectTag]]:
        """Tags of each picture."""
        run = (
            self._detector.extract_prepared
            if isinstance(self._detector, PreparingExtractor)
            else self._detector.extract
        )
        found: list[list[ObjectTag]] = [list(tags) for tags in run([one for one, _ in prepared])]  # type: ignore[arg-type]
        places, crops = [], []
        for at, (tags, (_, image)) in enumerate(zip(found, prepared, strict=True)):
            for number, tag in enumerate(tags):
                if tag.box is not None and tag.attribute is None and (crop := _crop(image, tag.box)) is not None:
                    places.append((at, number))
                    crops.append(crop)
        for start in range(0, len(crops), _BOXES):
            part = places[start : start + _BOXES]
            labels = [found[at][number].label for at, number in part]
            attributes = self._attributes(crops[start : start + _BOXES], labels)
            for (at, number), attribute in zip(part, attributes, strict=True):
                found[at][number] = replace(found[at][number], attribute=attribute)
        return found

    def used(self) -> str:
        """What the detector's work has taken."""
        return self._detector.used() if isinstance(self._detector, MeteredExtractor) else ""

    def close(self) -> None:
        """Close the detector."""
        if hasattr(self._detector, "close"):
            self._detector.close()

    def _attributes(self, crops: Sequence[Image.Image], labels: Sequence[str]) -> list[str | None]:
        """The likeliest attribute of each crop, or None.

        Args:
            crops: what the boxes show.
            labels: the tag's label of each crop.

        Raises:
            ValueError: the model gave probabilities that are NaN.
        """
        for label in sorted(set(labels) - self._texts.keys()):
            self._texts[label] = self._encoded(label)
        pixels = [
            self._processor(images=crop, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]
            for crop in crops
        ]

        def run(stack: "torch.Tensor", places: list[int]) -> list[str | None]:
            import torch

            with torch.inference_mode():
                seen = _unit(self._model.get_image_features(pixel_values=stack))
                texts = torch.stack([self._texts[labels[place]] for place in places])
                probabilities = (
                    (torch.einsum("nd,ntd->nt", seen, texts) * self._model.logit_scale.exp())
                    .float()
                    .softmax(dim=-1)
                    .cpu()
                )
            if probabilities.isnan().any():
                raise ValueError("the model of attributes gave probabilities that are NaN")
            scores, best = (values.tolist() for values in probabilities.max(dim=-1))
            names = [*self._options.labels, None]
            return [
                names[index] if score >= self._options.threshold else None
                for score, index in zip(scores, best, strict=True)
            ]

        return _torch.in_batches_of_one_shape(pixels, run, self._device, self._options.dtype)

    def _encoded(self, label: str) -> "torch.Tensor":
        """A label with each attribute, and last without any, as unit vectors, *Shape:* (attributes + 1, width).

        Raises:
            UserError: with one of them, it is too long for the model.
        """
        import torch

        texts = [self._options.template.format(f"{name} {label}") for name in self._options.labels]
        texts.append(self._options.template.format(label))
        room = self._model.config.text_config.max_position_embeddings
        _torch.require_room(self._tokenizer, texts, room, "objects.attributes", str(self._options.model))
        # SigLIP was trained on texts padded to its full length, and sees the padding.
        inputs = self._tokenizer(texts, padding="max_length", max_length=room, return_tensors="pt")
        given = {
            key: inputs[key].to(self._device)
            for key in ("input_ids", "attention_mask")
            if key in inputs and (key == "input_ids" or self._model.config.model_type == "clip")
        }
        with torch.inference_mode():
            return _unit(self._model.get_text_features(**given))

    def load(self) -> None:
        """Load the detector, and the model that looks for attributes.

        Raises:
            UserError: the checkpoint is not available, or is of another kind of model.
        """
        if isinstance(self._detector, LoadingExtractor):
            self._detector.load()
        super().load()
        from transformers import AutoConfig, AutoModel

        family = self._loaded(AutoConfig, "configuration").model_type
        if family not in _FAMILIES:
            raise UserError(
                f"checkpoint {self._options.model}: its model_type is {family}; objects.attributes takes "
                f"{', '.join(_FAMILIES)}"
            )
        self._tokenizer = _torch.tokenizer(self._checkpoint.folder, str(self._options.model))
        self._model = _torch.load(
            AutoModel, self._checkpoint.folder, str(self._options.model), self._options.dtype, self._device
        )


def _unit(features: Any) -> "torch.Tensor":
    """Vectors scaled to length 1, along the last dimension.

    Args:
        features: a tensor, *Shape:* (n, width), or a model's output that has it as `pooler_output`.
    """
    vectors: torch.Tensor = getattr(features, "pooler_output", features)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _crop(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image | None:
    """What the box shows; None where that is less than a pixel, or so thin that nothing is left of it in a square."""
    x0, y0, x1, y1 = box
    edges = (max(0, int(x0)), max(0, int(y0)), min(image.width, round(x1)), min(image.height, round(y1)))
    short, long = sorted((edges[2] - edges[0], edges[3] - edges[1]))
    return image.crop(edges) if short > 0 and long <= _THIN * short else None
