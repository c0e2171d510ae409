"""The network EfficientNet-Lite (Lite0 to Lite4) up to its map of features, built from its weights.

Names of modules are those of the weights: of EfficientNet-Lite-PyTorch, which has TensorFlow's. Kernels, widths and the
number of blocks are read off the weights, what is left is the same for all: strides of 2 at the stem and where stages
2, 3, 4 and 6 begin, TensorFlow's padding, ReLU6, no squeeze and excitation.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

_STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EPSILON = 1e-3  # of batch normalisation

LEFT_OUT = ("_fc.",)
"""Beginnings of the names of weights that are not part of the map: the classifier's."""


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: one side gets a pixel more where the sum is odd."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Convolve.

        Args:
            pixels: *Shape:* (batch, channels, height, width).
        """
        paddings = []
        for size, kernel, stride in zip(pixels.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            paddings += [total // 2, total - total // 2]
        return super().forward(functional.pad(pixels, paddings))


def _conv(weight: Tensor, stride: int = 1) -> _SameConv:
    """The convolution that has a weight of this shape; of one input channel a filter, it is depthwise."""
    out, within, kernel, _ = weight.shape
    groups = out if within == 1 else 1
    return _SameConv(within * groups, out, kernel, stride, groups=groups, bias=False)


class _Block(nn.Module):
    """An inverted bottleneck: expansion where it has one, depthwise convolution, projection, and the way around."""

    def __init__(self, weights: Mapping[str, Tensor], stride: int) -> None:
        super().__init__()
        self.expands = "_expand_conv.weight" in weights
        if self.expands:
            self._expand_conv = _conv(weights["_expand_conv.weight"])
            self._bn0 = nn.BatchNorm2d(self._expand_conv.out_channels, _EPSILON)
        self._depthwise_conv = _conv(weights["_depthwise_conv.weight"], stride)
        self._bn1 = nn.BatchNorm2d(self._depthwise_conv.out_channels, _EPSILON)
        self._project_conv = _conv(weights["_project_conv.weight"])
        self._bn2 = nn.BatchNorm2d(self._project_conv.out_channels, _EPSILON)
        first = self._expand_conv if self.expands else self._depthwise_conv
        self.adds = stride == 1 and first.in_channels == self._project_conv.out_channels

    def forward(self, pixels: Tensor) -> Tensor:
        """The block's map, *Shape:* (batch, channels, height, width) like its input's."""
        found = functional.relu6(self._bn0(self._expand_conv(pixels))) if self.expands else pixels
        found = functional.relu6(self._bn1(self._depthwise_conv(found)))
        found = self._bn2(self._project_conv(found))
        return found + pixels if self.adds else found


class EfficientNetLite(nn.Module):
    """From pictures to the map of features.

    Args:
        weights: by name; what :data:`LEFT_OUT` names is not among them.

    Raises:
        KeyError, RuntimeError, ValueError: they are not, or not all, of an EfficientNet-Lite.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._conv_stem = _conv(weights["_conv_stem.weight"], stride=2)
        self._bn0 = nn.BatchNorm2d(self._conv_stem.out_channels, _EPSILON)
        self._blocks = nn.ModuleList()
        stage, width = -1, 0
        while own := _below(weights, f"_blocks.{len(self._blocks)}."):
            wide = own["_project_conv.weight"].shape[0]
            begins, width = wide != width, wide
            stage += begins
            if stage == len(_STAGE_STRIDES):
                raise ValueError(f"more than {len(_STAGE_STRIDES)} stages")
            self._blocks.append(_Block(own, _STAGE_STRIDES[stage] if begins else 1))
        self._conv_head = _conv(weights["_conv_head.weight"])
        self._bn1 = nn.BatchNorm2d(self._conv_head.out_channels, _EPSILON)
        self.load_state_dict(dict(weights))

    def forward(self, pixels: Tensor) -> Tensor:
        """The map of features.

        Args:
            pixels: normalised pictures, *Shape:* (batch, 3, height, width).

        Returns:
            *Shape:* (batch, width, height / 32, width / 32).
        """
        found = functional.relu6(self._bn0(self._conv_stem(pixels)))
        for block in self._blocks:
            found = block(found)
        return functional.relu6(self._bn1(self._conv_head(found)))


def _below(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The weights whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
