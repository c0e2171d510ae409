"""What the adapters share whose result is a grid of features: resizing, normalising, pooling, half precision.

A picture becomes a square, the square a grid of g × g regions, each a vector; region i · g + j is that of row i and
column j. Which model gives them is left to the adapters.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field, PositiveInt

from pipeline.core.errors import UserError
from pipeline.core.features import Regions
from pipeline.extractors import _torch
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GridOptions(Options):
    """Options of every adapter that gives a grid of features."""

    model: Annotated[str, Field(min_length=1)]
    resize: Literal["squash", "crop"] = "squash"
    side: Annotated[int, Field(ge=32, le=1024)] = 224
    grid: Annotated[PositiveInt, Field(le=64)] = 7
    dtype: _torch.Dtype = "float32"


class GridExtractor:
    """An extractor whose model gives a map of features for a square picture; subclasses load and run it."""

    NAME: ClassVar[str]
    VERSION: ClassVar[int]
    """Raised when the same picture, weights and options would give another result."""

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    """By which a picture's channels, 0 to 1, are normalised."""

    _options: Any  # with what GridOptions has

    def __init__(self, options: GridOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def _identity(self) -> str:
        """Identity of the weights."""
        raise NotImplementedError

    def _load(self, device: "torch.device") -> None:
        """Load the model and, where they are the checkpoint's own, mean and std."""
        raise NotImplementedError

    def _map(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """The model's map of features.

        Args:
            pixels: normalised pictures on the model's device, *Shape:* (batch, 3, side, side).

        Returns:
            *Shape:* (batch, width, rows, columns).
        """
        raise NotImplementedError

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options and version."""
        return {
            "extractor": f"features.{self.NAME}",
            "version": self.VERSION,
            "checkpoint": self._identity(),
            **self._options.model_dump(exclude={"model", "revision"}),
        }

    def load(self) -> None:
        """Load the model, and try it on one picture.

        Raises:
            UserError: device or checkpoint are not available, or the model gives no map for pictures of that side.
        """
        import torch

        self._device = _torch.device(self._device_name)
        self._load(self._device)
        side = self._options.side
        tried = torch.zeros(1, 3, side, side, device=self._device, dtype=getattr(torch, self._options.dtype))
        with torch.inference_mode():
            found = self._map(tried)
        if found.ndim != 4 or min(found.shape) < 1:
            raise UserError(
                f"features.{self.NAME}.model: {self._options.model}: {list(found.shape)} for a picture of {side} × "
                f"{side}; expected a map of features, [1, width, rows, columns]: choose a backbone for pictures"
            )

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """One picture as a normalised square, *Shape:* (3, side, side)."""
        import torch

        pixels = np.asarray(squared(image, self._options.side, self._options.resize), np.float32) / 255
        normal = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(normal.transpose(2, 0, 1).copy())

    def extract(self, images: Sequence[Image.Image]) -> list[Regions]:
        """Features of each picture, float16, *Shape:* (grid · grid, width)."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: "Sequence[torch.Tensor]") -> list[Regions]:
        """Features of each picture, float16, *Shape:* (grid · grid, width)."""
        import torch

        def run(pixels: "torch.Tensor", places: list[int]) -> list[Regions]:
            with torch.inference_mode():
                found = pooled(self._map(pixels), self._options.grid).flatten(2).transpose(1, 2)
                return list(found.half().contiguous().cpu().numpy())

        return _torch.in_batches_of_one_shape(prepared, run, self._device, self._options.dtype)


def squared(image: Image.Image, side: int, resize: str) -> Image.Image:
    """A picture as a square, resized bilinearly.

    Args:
        image: RGB.
        side: of the square, in pixels.
        resize: "squash": the whole picture; "crop": the largest square in its middle, as if the picture were resized by
            its shorter side and then cut.
    """
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short) if resize == "crop" else None
    return image.resize((side, side), Image.Resampling.BILINEAR, box)


def pooled(found: "torch.Tensor", grid: int) -> "torch.Tensor":
    """A map averaged to `grid` rows and columns; one of that size stays as it is.

    Args:
        found: *Shape:* (batch, width, rows, columns).
        grid: rows and columns wanted.

    Returns:
        *Shape:* (batch, width, grid, grid).
    """
    import torch

    if found.shape[2:] == (grid, grid):
        return found
    return torch.nn.functional.adaptive_avg_pool2d(found, grid)
