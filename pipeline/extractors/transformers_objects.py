"""Object tags from any detector of transformers' AutoModelForObjectDetection (DETR, RT-DETR, D-FINE, YOLOS, …).

Where the weights are is pipeline/checkpoints.py's business, which pictures to read the engine's.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import Field, PositiveInt

from pipeline import checkpoints
from pipeline.contexts import ObjectTag
from pipeline.errors import UserError
from pipeline.extractors import Options, _torch
from pipeline.params import ExecutionParams, Fraction

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""


class TransformersObjectsOptions(Options):
    """``objects.transformers`` in params.yaml."""

    model: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    threshold: Fraction = 0.5
    max_objects: PositiveInt = 50
    dtype: _torch.Dtype = "float32"

    def require(self) -> None:
        """Check that the checkpoint is there."""
        checkpoints.require(self.model, self.revision)


@dataclass(frozen=True, slots=True)
class _Prepared:
    pixels: "torch.Tensor"  # (channels, height, width), resized and normalised
    size: tuple[int, int]  # height and width of the picture itself


class TransformersObjects:
    """Tags with a score above `threshold`, best first, at most `max_objects`, boxes within the picture."""

    Options = TransformersObjectsOptions

    def __init__(self, options: TransformersObjectsOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options, image processor and version."""
        return {"extractor": "objects.transformers", "version": VERSION, "checkpoint": self._checkpoint.identity,
                "processor": _torch.BACKEND, **self._options.model_dump(exclude={"model", "revision"})}

    def bucket(self, width: int, height: int) -> Hashable:
        """The size that the processor would give the picture."""
        size = self._processor.size
        if "shortest_edge" not in size:
            return None  # every picture becomes the same size
        from transformers.image_transforms import get_size_with_aspect_ratio

        resized: tuple[int, int] = get_size_with_aspect_ratio((height, width), size["shortest_edge"],
                                                              size.get("longest_edge"))
        return resized

    def prepare(self, image: Image.Image) -> _Prepared:
        """Resize and normalise one picture."""
        # Padding belongs to batches of several sizes, which there are none of here.
        inputs = self._processor(images=image, return_tensors="pt", do_pad=False,
                                 input_data_format="channels_last")  # else told by size: a strip 3 pixels high
        return _Prepared(inputs["pixel_values"][0], (image.height, image.width))

    def extract(self, images: Sequence[Image.Image]) -> list[list[ObjectTag]]:
        """Tags of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[_Prepared]) -> list[list[ObjectTag]]:
        """Tags of each picture.

        Raises:
            ValueError: the model gave a score or a box that is NaN.
        """
        import torch

        def run(pixels: "torch.Tensor", places: list[int]) -> list[list[ObjectTag]]:
            with torch.inference_mode():
                outputs = self._model(pixel_values=pixels)
            outputs.logits, outputs.pred_boxes = outputs.logits.float().cpu(), outputs.pred_boxes.float().cpu()
            # A threshold leaves NaN out without a word, and the picture would seem to be empty.
            if torch.isnan(outputs.logits).any() or torch.isnan(outputs.pred_boxes).any():
                raise ValueError("the detector gave scores or boxes that are NaN")
            sizes = [prepared[place].size for place in places]
            found = self._processor.post_process_object_detection(
                outputs, threshold=self._options.threshold, target_sizes=sizes)
            return [self._tags(one, size) for one, size in zip(found, sizes, strict=True)]

        return _torch.in_batches_of_one_shape([one.pixels for one in prepared], run, self._device, self._options.dtype)

    def _tags(self, found: Mapping[str, "torch.Tensor"], size: tuple[int, int]) -> list[ObjectTag]:
        """Sorted tags. Rounding keeps the noise of float arithmetic, which varies with the batch, out of the record."""
        height, width = size
        names = self._model.config.id2label
        tags = []
        for score, label, (x0, y0, x1, y1) in zip(found["scores"].tolist(), found["labels"].tolist(),
                                                  found["boxes"].tolist(), strict=True):
            box = (_within(x0, width), _within(y0, height), _within(x1, width), _within(y1, height))
            tags.append(ObjectTag(str(names[label]), None, round(score, 4), box))
        tags.sort(key=lambda tag: (-(tag.score or 0.0), tag.label, tag.box))
        return tags[: self._options.max_objects]

    @cached_property
    def _checkpoint(self) -> checkpoints.Checkpoint:
        return checkpoints.resolve(self._options.model, self._options.revision)

    @cached_property
    def _device(self) -> "torch.device":
        return _torch.device(self._device_name)

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        _torch.quiet()
        try:
            return AutoImageProcessor.from_pretrained(self._checkpoint.folder, backend=_torch.BACKEND)
        except (OSError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"checkpoint {self._options.model}: no image processor: {first}") from None

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForObjectDetection

        return _torch.load(AutoModelForObjectDetection, self._checkpoint.folder, self._options.model,
                           self._options.dtype, self._device)


def _within(value: float, limit: int) -> float:
    """A coordinate in pixels, clipped to the picture, to a tenth."""
    return round(min(max(value, 0.0), float(limit)), 1)
