"""The network EfficientNet-Lite (Lite0 to Lite4) up to its map of features, run from its weights.

Weights are named as in EfficientNet-Lite-PyTorch. Kernels, widths and the number of blocks are read off them; what is
left is the same for all: strides of 2 at the stem and where stages 2, 3, 4 and 6 begin, TensorFlow's padding, ReLU6, no
squeeze and excitation.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

_STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EPSILON = 1e-3  # of batch normalisation
_NORM = ("running_mean", "running_var", "weight", "bias")
_LEFT_OUT = ("_fc.weight", "_fc.bias")  # the classifier's


class _Block(NamedTuple):
    """An inverted bottleneck: expansion where it has one, depthwise convolution, projection, and the way around."""

    prefix: str
    expands: bool
    stride: int
    adds: bool


class EfficientNetLite:
    """From pictures to the map of features, in evaluation mode.

    Args:
        weights: by name; the classifier's are not read.
        device, dtype: where and in which number format it runs.

    Raises:
        ValueError: they are not, or not all, of an EfficientNet-Lite, or not only.
    """

    def __init__(
        self, weights: "Mapping[str, torch.Tensor]", device: "torch.device | str" = "cpu", dtype: str = "float32"
    ) -> None:
        import torch

        needed = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
        self._blocks = list(_blocks(needed))
        names = {name for layer in self._layers() for name in layer}
        if missing := sorted(names - needed.keys()):
            raise ValueError(f"it lacks {missing[0]}")
        if surplus := sorted(needed.keys() - names - set(_LEFT_OUT)):
            raise ValueError(f"it has {surplus[0]} too")
        self._weights = {name: needed[name].to(device, getattr(torch, dtype)) for name in names}

    def _layers(self) -> Iterator[list[str]]:
        """Names of the weights of each layer: a convolution's and its batch normalisation's."""
        yield _names("_conv_stem", "_bn0")
        for block in self._blocks:
            if block.expands:
                yield _names(f"{block.prefix}_expand_conv", f"{block.prefix}_bn0")
            yield _names(f"{block.prefix}_depthwise_conv", f"{block.prefix}_bn1")
            yield _names(f"{block.prefix}_project_conv", f"{block.prefix}_bn2")
        yield _names("_conv_head", "_bn1")

    def __call__(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """The map of features.

        Args:
            pixels: normalised pictures, *Shape:* (batch, 3, height, width).

        Returns:
            *Shape:* (batch, width, height / 32, width / 32).
        """
        from torch.nn.functional import relu6

        found = relu6(self._layer("_conv_stem", "_bn0", pixels, stride=2))
        for prefix, expands, stride, adds in self._blocks:
            before = found
            if expands:
                found = relu6(self._layer(f"{prefix}_expand_conv", f"{prefix}_bn0", found))
            found = relu6(self._layer(f"{prefix}_depthwise_conv", f"{prefix}_bn1", found, stride))
            found = self._layer(f"{prefix}_project_conv", f"{prefix}_bn2", found)
            found = found + before if adds else found
        return relu6(self._layer("_conv_head", "_bn1", found))

    def _layer(self, conv: str, norm: str, pixels: "torch.Tensor", stride: int = 1) -> "torch.Tensor":
        """Convolution and batch normalisation, *Shape:* (batch, channels, rows, columns) of both maps."""
        from torch.nn import functional

        weight = self._weights[f"{conv}.weight"]
        paddings: list[int] = []
        for size, kernel in zip(pixels.shape[:1:-1], weight.shape[:1:-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            paddings += [total // 2, total - total // 2]  # as TensorFlow: where the sum is odd, more behind
        groups = pixels.shape[1] // weight.shape[1]
        found = functional.conv2d(functional.pad(pixels, paddings), weight, stride=stride, groups=groups)
        mean, variance, scale, shift = (self._weights[f"{norm}.{part}"] for part in _NORM)
        return functional.batch_norm(found, mean, variance, scale, shift, eps=_EPSILON)


def _blocks(weights: "Mapping[str, torch.Tensor]") -> Iterator[_Block]:
    """The blocks that weights are of, in order; one that is wider than the one before begins a stage.

    Raises:
        ValueError: there are more stages than an EfficientNet has.
    """
    number, stage, width = 0, -1, 0
    while (name := f"_blocks.{number}._project_conv.weight") in weights:
        wide, within = weights[name].shape[0], width
        begins, width = wide != width, wide
        stage += begins
        if stage == len(_STAGE_STRIDES):
            raise ValueError(f"its blocks have more than {len(_STAGE_STRIDES)} widths")
        prefix = f"_blocks.{number}."
        expands, stride = f"{prefix}_expand_conv.weight" in weights, _STAGE_STRIDES[stage] if begins else 1
        yield _Block(prefix, expands, stride, adds=within == wide)
        number += 1


def _names(conv: str, norm: str) -> list[str]:
    return [f"{conv}.weight", *(f"{norm}.{part}" for part in _NORM)]
