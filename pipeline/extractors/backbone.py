"""Features of any backbone of transformers' ``AutoModel`` that reads pictures: ConvNeXt, Swin, ViT, DINOv2, RegNet, …

Mean and standard deviation are those of the checkpoint's own image processor, or ImageNet's where it has none.
"""

import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.soundness import explained
from pipeline.extractors import _grid, _torch

if TYPE_CHECKING:
    import torch

_MOST_EXTRA = 16
"""Tokens before those of the patches, at most: the class's, registers."""


class BackboneOptions(_grid.GridOptions):
    """``features.backbone`` in params.yaml."""

    revision: str | None = None

    def require(self) -> None:
        """Check that the checkpoint is there."""
        checkpoints.require(self.model, self.revision)


class Backbone(_grid.GridExtractor):
    """The last hidden state as a map: that of a convolutional network as it is, of a transformer patch by patch."""

    Options = BackboneOptions
    NAME = "backbone"
    VERSION = 1

    @cached_property
    def _checkpoint(self) -> checkpoints.Checkpoint:
        return checkpoints.resolve(self._options.model, self._options.revision)

    def _identity(self) -> str:
        return self._checkpoint.identity

    def _load(self, device: "torch.device") -> None:
        from transformers import AutoModel

        self.mean, self.std = _normalisation(self._checkpoint, self._options.model)
        # Nothing reads the pooler, which checkpoints of another task lack.
        self._model: Any = _torch.load(
            AutoModel,
            self._checkpoint.folder,
            self._options.model,
            self._options.dtype,
            device,
            optional=("pooler.",),
        )

    def _map(self, pixels: "torch.Tensor") -> "torch.Tensor":
        try:
            found = self._model(pixel_values=pixels).last_hidden_state
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            if self._tried:
                raise
            raise self._refused(" ".join(str(error).split())[:200]) from None
        self._tried = True
        if found.ndim != 3:
            return found
        side = self._side(found.shape[1], pixels.shape[-1])
        return found[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))

    _tried = False  # whether it has read a picture, so that an error speaks against another

    def _side(self, tokens: int, pixels: int) -> int:
        """Patches a side, of a transformer that gives so many tokens for a picture of so many pixels a side.

        Raises:
            UserError: they are of no square.
        """
        patch = getattr(self._model.config, "patch_size", None)
        if isinstance(patch, int) and 0 <= tokens - (pixels // patch) ** 2 <= _MOST_EXTRA:
            return pixels // patch
        if (side := math.isqrt(tokens)) ** 2 == tokens:  # Swin's stages merge patches
            return side
        raise self._refused(f"{tokens} tokens, which are no square of patches")

    def _refused(self, trouble: str) -> UserError:
        return UserError(
            f"features.backbone.model: {self._options.model} ({type(self._model).__name__}) gives no map of features "
            f"for pictures of {self._options.side} × {self._options.side}: {trouble}; choose a backbone that reads "
            "pictures alone, or another side"
        )


def _normalisation(checkpoint: checkpoints.Checkpoint, name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that the checkpoint's image processor says; ImageNet's where there is none.

    Raises:
        UserError: they are not three numbers each.
    """
    file = checkpoint.folder / "preprocessor_config.json"
    if not file.exists():
        return _grid.IMAGENET_MEAN, _grid.IMAGENET_STD
    with explained(f"checkpoint {name}: {file.name}"):
        own = json.loads(file.read_text(encoding="utf-8"))
        if not own.get("do_normalize", True):
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        mean = [float(value) for value in own.get("image_mean", _grid.IMAGENET_MEAN)]
        std = [float(value) for value in own.get("image_std", _grid.IMAGENET_STD)]
        if (len(mean), len(std)) != (3, 3) or min(std) <= 0:
            raise ValueError(f"image_mean {mean} and image_std {std}; expected three numbers each, std above 0")
    return mean, std
