"""Small models that give grids of features, of the true architectures, with random weights that differ; references."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional


def shaken(model: nn.Module, seed: int = 0) -> Any:
    """The model with its batch normalisation's statistics and weights moved away from 0 and 1, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.state_dict().items():
            if "running_var" in name or (values.ndim == 1 and name.endswith("weight")):
                values.copy_(0.5 + torch.rand(values.shape, generator=generator))
            elif values.is_floating_point() and values.ndim == 1:
                values.copy_(0.2 * torch.randn(values.shape, generator=generator))
    return model.eval()


class TorchvisionBlock(nn.Module):
    """A block of a ResNet with torchvision's names: two convolutions, or three of which the middle one strides."""

    def __init__(self, within: int, narrow: int, out: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        sizes = [(within, narrow, 1), (narrow, narrow, 3), (narrow, out, 1)]
        if not bottleneck:
            sizes = [(within, out, 3), (out, out, 3)]
        self.count = len(sizes)
        for number, (one, other, kernel) in enumerate(sizes, start=1):
            strides = number == (2 if bottleneck else 1)
            conv = nn.Conv2d(one, other, kernel, stride if strides else 1, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(other))
        self.downsample: nn.Module | None = None
        if stride != 1 or within != out:
            self.downsample = nn.Sequential(nn.Conv2d(within, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, pixels: Tensor) -> Tensor:
        found = pixels
        for number in range(1, self.count + 1):
            found = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(found))
            found = found.relu() if number < self.count else found
        around = pixels if self.downsample is None else self.downsample(pixels)
        return (found + around).relu()


class TorchvisionResNet(nn.Module):
    """A ResNet with torchvision's names and order, up to the map of layer4."""

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        within = 8
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            layer = []
            for block in range(count):
                stride = 2 if block == 0 and number > 1 else 1
                layer.append(TorchvisionBlock(within, width // 4, width, stride, bottleneck))
                within = width
            self.add_module(f"layer{number}", nn.Sequential(*layer))
        self.fc = nn.Linear(within, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        found = functional.max_pool2d(self.bn1(self.conv1(pixels)).relu(), 3, 2, 1)
        for number in (1, 2, 3, 4):
            found = self.get_submodule(f"layer{number}")(found)
        return found


def torchvision_resnet(bottleneck: bool = True) -> TorchvisionResNet:
    torch.manual_seed(0)
    widths = (16, 32, 48, 64) if bottleneck else (8, 16, 24, 32)
    return shaken(TorchvisionResNet((2, 1, 2, 1), widths, bottleneck))


def write_torchvision(file: Path, bottleneck: bool = True) -> Path:
    """A file of weights with torchvision's names."""
    weights = torchvision_resnet(bottleneck).state_dict()
    if file.suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file)
    return file


def write_resnet(folder: Path) -> Path:
    """A ResNet of transformers."""
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 2, 1])
    shaken(ResNetModel(config)).save_pretrained(folder)
    ConvNextImageProcessorPil().save_pretrained(folder)
    return folder


def write_convnext(folder: Path) -> Path:
    """A ConvNeXt whose processor has a mean of its own."""
    from transformers import ConvNextConfig, ConvNextImageProcessorPil, ConvNextModel

    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_scale_init_value=1.0)
    shaken(ConvNextModel(config)).save_pretrained(folder)
    ConvNextImageProcessorPil(image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.5, 0.25]).save_pretrained(folder)
    return folder


def write_vit(folder: Path) -> Path:
    """A ViT that was trained to classify: without a pooler, with a token before those of the patches."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=64)
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


LITE = ((3, 1, 16), (3, 6, 24), (3, 6, 24), (5, 6, 40), (3, 6, 80), (5, 6, 112), (5, 6, 192), (3, 6, 32))
"""Blocks of a small EfficientNet-Lite: kernel, expansion, width."""


def lite_weights(width: int = 64) -> dict[str, Tensor]:
    """Random weights of a small EfficientNet-Lite with a classifier."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}

    def conv(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / torch.tensor(shape[1:]).prod()) ** 0.5

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "running_var"):
            found[f"{name}.{part}"] = 0.5 + torch.rand(channels, generator=generator)
        for part in ("bias", "running_mean"):
            found[f"{name}.{part}"] = 0.2 * torch.randn(channels, generator=generator)
        found[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", 8, 3, 3, 3)
    norm("_bn0", 8)
    within = 8
    for number, (kernel, expansion, out) in enumerate(LITE):
        wide = within * expansion
        if expansion > 1:
            conv(f"_blocks.{number}._expand_conv", wide, within, 1, 1)
            norm(f"_blocks.{number}._bn0", wide)
        conv(f"_blocks.{number}._depthwise_conv", wide, 1, kernel, kernel)
        norm(f"_blocks.{number}._bn1", wide)
        conv(f"_blocks.{number}._project_conv", out, wide, 1, 1)
        norm(f"_blocks.{number}._bn2", out)
        within = out
    conv("_conv_head", width, within, 1, 1)
    norm("_bn1", width)
    found["_fc.weight"], found["_fc.bias"] = torch.zeros(10, width), torch.zeros(10)
    return found


def lite_map(weights: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """What an EfficientNet-Lite with :data:`LITE` makes of pictures whose side is a multiple of 32, step by step."""

    def conv(name: str, found: Tensor, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        kernel, groups = weight.shape[-1], found.shape[1] // weight.shape[1]
        before = (kernel - stride) // 2  # of an even side, TensorFlow pads less before than behind
        found = functional.pad(found, (before, kernel - stride - before) * 2)
        return functional.conv2d(found, weight, stride=stride, groups=groups)

    def norm(name: str, found: Tensor) -> Tensor:
        parts = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        mean, variance, scale, shift = (part[:, None, None] for part in parts)
        return (found - mean) / (variance + 1e-3).sqrt() * scale + shift

    found = norm("_bn0", conv("_conv_stem", pixels, 2)).clamp(0, 6)
    for number, stride in enumerate((1, 2, 1, 2, 2, 1, 2, 1)):
        before, name = found, f"_blocks.{number}"
        if number:
            found = norm(f"{name}._bn0", conv(f"{name}._expand_conv", found)).clamp(0, 6)
        found = norm(f"{name}._bn1", conv(f"{name}._depthwise_conv", found, stride)).clamp(0, 6)
        found = norm(f"{name}._bn2", conv(f"{name}._project_conv", found))
        found = found + before if number == 2 else found
    return norm("_bn1", conv("_conv_head", found)).clamp(0, 6)


def write_effnet_lite(file: Path) -> Path:
    """A file of the weights of a small EfficientNet-Lite."""
    torch.save(lite_weights(), file)
    return file
