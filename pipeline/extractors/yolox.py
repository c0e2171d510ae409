"""Object tags from a YOLOX detector in an ONNX file, on the CPU's cores through onnxruntime.

The pictures' way into the model and its boxes' way out follow the demo that YOLOX ships for its ONNX files, which are
exported without decoding.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import Field, PositiveInt

from pipeline.core import onnx_files
from pipeline.core.errors import UserError
from pipeline.core.machine import cores
from pipeline.core.records import ObjectTag
from pipeline.extractors import _boxes, _coco
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
"""Raised when the same picture, model and options would give another result."""

_GREY = 114  # what fills the input where the picture does not
_STRIDES = ((8, 16, 32), (8, 16, 32, 64))


class YoloxOptions(Options):
    """``objects.yolox`` in params.yaml."""

    model: Annotated[str, Field(min_length=1)]
    threshold: Fraction = 0.3
    nms: Fraction = 0.45
    class_agnostic: bool = True
    max_objects: PositiveInt = 50
    classes: Literal["coco"] | Annotated[list[str], Field(min_length=1)] = "coco"

    def require(self) -> None:
        """Check that the model is there, and the files of weights that it names."""
        if not self.file.is_file():
            raise UserError(
                f"yolox.model: {self.file}: no such file; expected a YOLOX model in ONNX format, as the "
                "releases of YOLOX have them; put it below checkpoints/, so that DVC sees it change"
            )
        onnx_files.external_files(self.file)

    @property
    def file(self) -> Path:
        """The ONNX file."""
        return Path(self.model).expanduser()

    @property
    def names(self) -> Sequence[str]:
        """What the classes are called, in the model's order."""
        return _coco.CLASSES if self.classes == "coco" else self.classes


@dataclass(frozen=True, slots=True)
class _Prepared:
    pixels: "NDArray[np.uint8]"  # (height, width, 3) of the model, blue, green, red
    ratio: float  # the picture's size times this is its size in there
    size: tuple[int, int]  # height and width of the picture itself


class Yolox:
    """Tags scored `threshold` or better, best first, at most `max_objects`, boxes within the picture.

    A score is the box's objectness times the probability of its class. Of boxes that overlap by more than `nms`
    (intersection over union) the best stays: whatever their classes where `class_agnostic`, else one of each class.
    """

    Options = YoloxOptions

    def __init__(self, options: YoloxOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._pool = _new_pool()

    def fingerprint(self) -> Mapping[str, Any]:
        """The digest of the model's files, options and version."""
        self._options.require()
        return {
            "extractor": "objects.yolox",
            "version": VERSION,
            "checkpoint": f"sha256:{onnx_files.digest(self._options.file)}",
            **self._options.model_dump(exclude={"model", "classes"}),
            "classes": list(self._options.names),
        }

    def prepare(self, image: Image.Image) -> _Prepared:
        """Scale one picture into the upper left corner of the model's input."""
        import cv2
        import numpy as np

        height, width = self._input_size
        ratio = min(height / image.height, width / image.width)
        scaled = (max(1, int(image.width * ratio)), max(1, int(image.height * ratio)))
        pixels = np.full((height, width, 3), _GREY, np.uint8)
        pixels[: scaled[1], : scaled[0]] = cv2.resize(np.asarray(image), scaled, interpolation=cv2.INTER_LINEAR)[
            :, :, ::-1
        ]
        return _Prepared(pixels, ratio, (image.height, image.width))

    def extract(self, images: Sequence[Image.Image]) -> list[list[ObjectTag]]:
        """Tags of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[_Prepared]) -> list[list[ObjectTag]]:
        """Tags of each picture; as many pictures side by side as there are cores.

        Raises:
            ValueError: the model gave numbers that are not finite.
        """
        return list(self._pool.map(self._detect, prepared))

    def close(self) -> None:
        """Drop what has not been read yet; a later call starts again."""
        pool, self._pool = self._pool, _new_pool()
        pool.shutdown(wait=True, cancel_futures=True)

    def load(self) -> None:
        """Load the model and work out the geometry of its input and output.

        Raises:
            UserError: the file is missing, is no ONNX model, or its input has no fixed size.
        """
        self._session = self._open()
        self._input_size = self._find_input_size()
        self._cells = self._find_cells()

    def _detect(self, prepared: _Prepared) -> list[ObjectTag]:
        import numpy as np

        pixels = np.ascontiguousarray(prepared.pixels.transpose(2, 0, 1)[None], dtype=np.float32)
        output = self._session.run(None, {self._session.get_inputs()[0].name: pixels})[0][0]
        if output.shape != (len(self._cells), 5 + len(self._options.names)):
            raise UserError(
                f"objects.yolox: {self._options.model} gives {' × '.join(map(str, output.shape))} numbers, "
                f"expected {len(self._cells)} × {5 + len(self._options.names)}, of {len(self._cells)} "
                f"places and {len(self._options.names)} classes; list the model's classes in "
                "objects.yolox.classes"
            )
        boxes, scores = self._decoded(output)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(
                "the detector gave numbers that are not finite; expected a model exported without --decode_in_inference"
            )
        return self._tags(boxes / prepared.ratio, scores, prepared.size)

    def _decoded(self, output: "NDArray[np.float32]") -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Boxes and scores from the model's output for one picture.

        Args:
            output: by place the box's centre as an offset from its cell, in cells, the logarithm of its width and
                height in cells, its objectness, and the probability of each class, *Shape:* (places, 5 + classes).

        Returns:
            Corners in pixels of the input, *Shape:* (places, 4), and scores, *Shape:* (places, classes).
        """
        import numpy as np

        cells, strides = self._cells[:, :2], self._cells[:, 2:]
        centre = (output[:, :2] + cells) * strides
        with np.errstate(over="ignore"):
            half = np.exp(output[:, 2:4]) * strides / 2
        return np.concatenate([centre - half, centre + half], axis=1), output[:, 4:5] * output[:, 5:]

    def _tags(
        self, boxes: "NDArray[np.float32]", scores: "NDArray[np.float32]", size: tuple[int, int]
    ) -> list[ObjectTag]:
        """The tags of a picture.

        Args:
            boxes: corners in pixels of the picture, *Shape:* (places, 4).
            scores: *Shape:* (places, classes).
            size: height and width of the picture in pixels.
        """
        import numpy as np

        options = self._options
        if options.class_agnostic:  # each place tells of one object
            places = np.flatnonzero(scores.max(axis=1) >= options.threshold)
            labels = scores[places].argmax(axis=1)
        else:
            places, labels = np.nonzero(scores >= options.threshold)
        own = scores[places, labels]
        kept = _boxes.suppress(boxes[places], own, options.nms, None if options.class_agnostic else labels)
        tags = [_boxes.tag(options.names[labels[at]], float(own[at]), boxes[places[at]].tolist(), size) for at in kept]
        return _boxes.best(tags, options.max_objects)

    def _find_cells(self) -> "NDArray[np.float32]":
        """Column, row and stride in pixels of each place of the output, in its order, *Shape:* (places, 3)."""
        import numpy as np

        height, width = self._input_size
        places = self._session.get_outputs()[0].shape[1]
        by_count = {}
        for strides in _STRIDES:
            grids = [
                np.stack(
                    [
                        *np.meshgrid(np.arange(width // stride), np.arange(height // stride)),
                        np.full((height // stride, width // stride), stride),
                    ],
                    axis=-1,
                ).reshape(-1, 3)
                for stride in strides
            ]
            cells = np.concatenate(grids).astype(np.float32)
            by_count[len(cells)] = cells
        return by_count.get(places, by_count[min(by_count)])

    def _find_input_size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        shape = self._session.get_inputs()[0].shape
        if len(shape) != 4 or shape[1] != 3 or not all(isinstance(side, int) and side >= 64 for side in shape[2:]):
            raise UserError(
                f"objects.yolox: {self._options.model} takes input of shape {shape}, expected "
                "[1, 3, height, width] with a fixed size; export the model with one"
            )
        return shape[2], shape[3]

    def _open(self) -> Any:
        import onnxruntime

        self._options.require()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1  # a picture a core, not a core a part of one
        settings.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(self._options.file), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes stand in its binary module
            first = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"objects.yolox: {self._options.model} is no ONNX model that onnxruntime loads: {first}"
            ) from None


def _new_pool() -> ThreadPoolExecutor:
    """A pool, whose threads start when there is work for them."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="yolox")
