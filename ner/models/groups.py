"""Groups of a tagger's parameters for the optimizer: which learning rate and weight decay each has."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from pipeline.settings.training import TrainParams


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], params: TrainParams) -> list[dict[str, Any]]:
    """As :meth:`ner.models.base.TaggerModel.parameter_groups`, of parameters by their names."""
    parts: dict[str, list[nn.Parameter]] = {"encoder": [], "new": [], "crf": []}
    for name, parameter in named:
        modules = name.split(".")[:-1]
        part = "crf" if any(module.endswith("crf") for module in modules) else name.partition(".")[0]
        parts[part if part in parts else "new"].append(parameter)
    new_rate = params.new_learning_rate or params.learning_rate
    groups = []
    for part, rate in (("encoder", params.learning_rate), ("new", new_rate)):
        matrices = [parameter for parameter in parts[part] if parameter.ndim > 1]
        others = [parameter for parameter in parts[part] if parameter.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": params.weight_decay, "lr": rate})
        groups.append({"params": others, "weight_decay": 0.0, "lr": rate})
    return [*groups, {"params": parts["crf"], "weight_decay": 0.0, "lr": params.crf_learning_rate}]
