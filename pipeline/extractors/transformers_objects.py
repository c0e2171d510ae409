"""Object tags from any detector of transformers' AutoModelForObjectDetection (RT-DETR, RF-DETR, D-FINE, YOLOS, …).

It also contains what all detectors of transformers share. Finding the weights is left to
:mod:`pipeline.core.checkpoints`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from PIL import Image
from pydantic import Field, PositiveInt

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag
from pipeline.extractors import _boxes, _coco, _rf_detr, _torch
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""


class DetectorOptions(Options):
    """Options of every detector of transformers."""

    model: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    threshold: Fraction = 0.5
    max_objects: PositiveInt = 50
    dtype: _torch.Dtype = "float32"

    def require(self) -> None:
        """Check that the checkpoint is there."""
        checkpoints.require(self.model, self.revision)


class TransformersObjectsOptions(DetectorOptions):
    """``objects.transformers`` in params.yaml."""

    classes: Literal["coco"] | Annotated[list[str], Field(min_length=1)] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture as the model takes it."""

    pixels: "torch.Tensor"  # (channels, height, width), resized and normalised
    size: tuple[int, int]  # height and width of the picture itself
    labels: tuple[str, ...] = ()  # what to look for in it, of a detector that is told


class Detector(_torch.FromCheckpoint):
    """A detector of transformers: pictures as its processor wants them, batches of one shape, sorted tags.

    Running the model and naming what it finds is left to subclasses.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int]
    MODEL: ClassVar[str]
    """The class of transformers that loads it."""

    def __init__(self, options: DetectorOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options, image processor and version."""
        return {
            "extractor": f"objects.{self.NAME}",
            "version": self.VERSION,
            "checkpoint": self._checkpoint.identity,
            "processor": _torch.BACKEND,
            **self._options.model_dump(exclude={"model", "revision"}, exclude_none=True),
        }

    def bucket(self, width: int, height: int) -> Hashable:
        """The size that the processor would give the picture."""
        size = self._processor.size
        if "shortest_edge" not in size:
            return None  # every picture becomes the same size
        from transformers.image_transforms import get_size_with_aspect_ratio

        resized: tuple[int, int] = get_size_with_aspect_ratio(
            (height, width), size["shortest_edge"], size.get("longest_edge")
        )
        return resized

    def prepare(self, image: Image.Image) -> Prepared:
        """Resize and normalise one picture."""
        # Padding to a common size belongs to batches of several sizes, which there are none of here.
        padding = {"do_pad": False} if "shortest_edge" in self._processor.size else {}
        inputs = self._processor(
            images=image, return_tensors="pt", **padding, input_data_format="channels_last"
        )  # else told by size: a strip 3 pixels high
        return Prepared(inputs["pixel_values"][0], (image.height, image.width))

    def extract(self, images: Sequence[Image.Image]) -> list[list[ObjectTag]]:
        """Tags of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[Prepared]) -> list[list[ObjectTag]]:
        """Tags of each picture.

        Raises:
            ValueError: the model gave a score or a box that is NaN.
        """

        def run(pixels: "torch.Tensor", places: list[int]) -> list[list[ObjectTag]]:
            found = self._detect(pixels, [prepared[place] for place in places])
            return [_boxes.best(tags, self._options.max_objects) for tags in found]

        return _torch.in_batches_of_one_shape([one.pixels for one in prepared], run, self._device, self._options.dtype)

    def _detect(self, pixels: "torch.Tensor", prepared: Sequence[Prepared]) -> list[list[ObjectTag]]:
        """Tags of a stack of pictures.

        Args:
            pixels: resized and normalised pictures on the model's device, *Shape:* (batch, channels, height, width).
            prepared: the pictures.

        Returns:
            The tags of each picture, in any order, boxes in pixels of the picture itself.
        """
        raise NotImplementedError

    def load(self) -> None:
        """Load image processor and model.

        Raises:
            UserError: the checkpoint is not available, or is of another kind of model.
        """
        super().load()
        import transformers

        self._model: Any = _torch.load(
            getattr(transformers, self.MODEL),
            self._checkpoint.folder,
            self._options.model,
            self._options.dtype,
            self._device,
        )


class TransformersObjects(Detector):
    """Tags with a score above `threshold`, best first, at most `max_objects`, boxes within the picture."""

    Options = TransformersObjectsOptions
    NAME = "transformers"
    VERSION = VERSION
    MODEL = "AutoModelForObjectDetection"

    _options: TransformersObjectsOptions

    def _image_processor(self) -> Any:
        if self._model_type != _rf_detr.MODEL_TYPE:
            return super()._image_processor()
        return _rf_detr.RfDetrImageProcessor(self._checkpoint.folder, self._options.model)

    def load(self) -> None:
        """Load image processor and model, and name the model's classes.

        Raises:
            UserError: the checkpoint is not available or is of another kind of model, or its classes have no names.
        """
        super().load()
        self._names = self._named_classes()

    def _named_classes(self) -> Mapping[int, str]:
        """The names of the model's classes by their numbers.

        Raises:
            UserError: params name more or fewer than the model has, or neither they nor the checkpoint name any.
        """
        own: Mapping[int, str] = self._model.config.id2label
        classes = self._options.classes
        if classes is None:
            if all(name == f"LABEL_{number}" for number, name in own.items()):
                raise UserError(
                    f"checkpoint {self._options.model}: its config.json names none of its {len(own)} classes; name "
                    "them in objects.transformers.classes: coco, or a list in the model's order"
                )
            return own
        coco = _coco.NUMBERED if len(own) == len(_coco.NUMBERED) else _coco.CLASSES
        names = coco if classes == "coco" else classes
        if len(names) != len(own):
            raise UserError(
                f"objects.transformers.classes: {len(names)} names, and {self._options.model} has {len(own)} classes"
            )
        return dict(enumerate(names))

    def _detect(self, pixels: "torch.Tensor", prepared: Sequence[Prepared]) -> list[list[ObjectTag]]:
        import torch

        sizes = [each.size for each in prepared]
        with torch.inference_mode():
            outputs = self._model(pixel_values=pixels)
        outputs.logits, outputs.pred_boxes = finite(outputs.logits), finite(outputs.pred_boxes)
        found = self._processor.post_process_object_detection(
            outputs, threshold=self._options.threshold, target_sizes=sizes
        )
        return [
            [
                _boxes.tag(str(self._names[label]), score, box, size)
                for score, label, box in zip(
                    one["scores"].tolist(), one["labels"].tolist(), one["boxes"].tolist(), strict=True
                )
            ]
            for one, size in zip(found, sizes, strict=True)
        ]


def finite(values: "torch.Tensor") -> "torch.Tensor":
    """The values in float32 on the CPU.

    Args:
        values: a model's scores or boxes, of any shape.

    Raises:
        ValueError: one is NaN. A threshold would silently leave it out, and the picture would seem empty.
    """
    values = values.float().cpu()
    if values.isnan().any():
        raise ValueError("the detector gave scores or boxes that are NaN")
    return values
