"""Features of the last stage of a ResNet: any of transformers' ``ResNetModel``, or a file of torchvision's weights.

With ResNet-152 and 224 pixels a side they are [49, 2048], what RpBERT and IIE4MNER read. The network is in evaluation
mode and is not trained further.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest
from pipeline.core.weights import load_weights, weights_file
from pipeline.extractors import _grid, _torch

if TYPE_CHECKING:
    import torch

FILES = (".pth", ".pt", ".safetensors")
"""Endings of files of weights with torchvision's names."""

_NAMES = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d)\.(\d+)\.conv(\d)\.", r"encoder.stages.{0}.layers.\2.layer.{2}.convolution."),
    (r"^layer(\d)\.(\d+)\.bn(\d)\.", r"encoder.stages.{0}.layers.\2.layer.{2}.normalization."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.", r"encoder.stages.{0}.layers.\2.shortcut.convolution."),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", r"encoder.stages.{0}.layers.\2.shortcut.normalization."),
)
"""Beginnings of torchvision's names and of transformers'; ``{n}`` stands for the n-th number less one."""

_LEFT_OUT = re.compile(r"^fc\.|\.num_batches_tracked$")
"""The classifier, and a count that only training reads."""


class ResNetOptions(_grid.GridOptions):
    """``features.resnet`` in params.yaml."""

    revision: str | None = None

    @property
    def file(self) -> Path | None:
        """The file of weights that `model` names; None where that is a folder or a name on the hub."""
        file = Path(self.model).expanduser()
        return file if file.is_file() or file.suffix in FILES else None

    def require(self) -> None:
        """Check that the checkpoint is there."""
        if self.file is not None:
            weights_file(self.model, "features.resnet.model", "expected torchvision's weights of a ResNet")
        else:
            checkpoints.require(self.model, self.revision)


class ResNet(_grid.GridExtractor):
    """The last stage's map, before any pooling but that to `grid`."""

    Options = ResNetOptions
    NAME = "resnet"
    VERSION = 1

    def _identity(self) -> str:
        file = self._options.file
        return self._checkpoint.identity if file is None else f"sha256:{file_digest(file)}"

    @cached_property
    def _checkpoint(self) -> checkpoints.Checkpoint:
        return checkpoints.resolve(self._options.model, self._options.revision)

    def _load(self, device: "torch.device") -> None:
        from transformers import ResNetModel

        options = self._options
        if options.file is not None:
            self._model: Any = from_torchvision(options.file, options.dtype).to(device)
        else:
            self._model = _torch.load(ResNetModel, self._checkpoint.folder, options.model, options.dtype, device)

    def _map(self, pixels: "torch.Tensor") -> "torch.Tensor":
        return self._model(pixels).last_hidden_state


def from_torchvision(file: Path, dtype: _torch.Dtype) -> Any:
    """transformers' ``ResNetModel`` with the weights of a file that has torchvision's names, in evaluation mode.

    Depth, widths and the kind of blocks follow from the weights.

    Raises:
        UserError: the file has not all weights of a ResNet, or others too.
    """
    import torch
    from transformers import ResNetConfig, ResNetModel

    tensors = {renamed(name): value for name, value in load_weights(file).items() if not _LEFT_OUT.search(name)}
    try:
        config = ResNetConfig(**_architecture(tensors))
        with torch.device("meta"):
            model = ResNetModel(config)
        counts = {name: torch.zeros((), dtype=torch.long) for name in model.state_dict() if _LEFT_OUT.search(name)}
        model.load_state_dict(tensors | counts, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        found = next(iter(str(error).splitlines()[-1:]), "").strip()
        raise UserError(
            f"features.resnet.model: {file}: not the weights of a ResNet as torchvision has them ({found[:200]}); "
            "expected conv1.weight, bn1.…, layer1.0.conv1.weight, … of ResNet-18 to ResNet-152"
        ) from None
    return model.eval().to(getattr(torch, dtype))


def renamed(name: str) -> str:
    """transformers' name of a weight, given torchvision's; other names stay."""
    for pattern, target in _NAMES:
        match = re.match(pattern, name)
        if match:
            numbers = [int(number) - 1 for number in match.groups()]
            return match.expand(target).format(*numbers) + name[match.end() :]
    return name


def _architecture(tensors: "Mapping[str, torch.Tensor]") -> dict[str, Any]:
    """Config of the ResNet that has these weights; raises KeyError where there is none."""
    stages: dict[int, int] = {}
    for name in tensors:
        if match := re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.", name):
            stage, block = map(int, match.groups())
            stages[stage] = max(stages.get(stage, 0), block + 1)
    first = "encoder.stages.{}.layers.0.layer.{}.convolution.weight"
    last = 2 if first.format(0, 2) in tensors else 1
    return {
        "embedding_size": tensors["embedder.embedder.convolution.weight"].shape[0],
        "depths": [stages[stage] for stage in range(len(stages))],
        "hidden_sizes": [tensors[first.format(stage, last)].shape[0] for stage in range(len(stages))],
        "layer_type": "bottleneck" if last == 2 else "basic",
    }
