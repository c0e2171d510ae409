"""What the adapters on torch and transformers share: device, number format, quiet loading, batches of one shape."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

R = TypeVar("R")

Dtype = Literal["float32", "bfloat16", "float16"]

BACKEND = "pil"
"""transformers' image processors come in two makes whose pixels differ; this one needs no torchvision."""


def device(name: str) -> "torch.device":
    """The device that ``execution.device`` names; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: it is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
             "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, False):
        raise UserError(f"params.yaml: execution.device: {name}: torch {torch.__version__} sees no such device; use "
                        "auto or cpu")
    return chosen


def quiet() -> None:
    """Keep transformers' loading bars off where nobody watches."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def load(model_class: Any, folder: Any, name: str, dtype: Dtype, target: "torch.device") -> Any:
    """A model in evaluation mode, from the safetensors in `folder`; `name` is what params call it.

    Raises:
        UserError: the folder holds something else.
    """
    import torch

    quiet()
    try:
        model = model_class.from_pretrained(folder, use_safetensors=True, dtype=getattr(torch, dtype))
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint {name}: {model_class.__name__} cannot load it: {first}") from None
    return model.eval().to(target)


def in_batches_of_one_shape(tensors: "Sequence[torch.Tensor]", run: "Callable[[torch.Tensor, list[int]], list[R]]",
                            target: "torch.device", dtype: Dtype) -> list[R]:
    """Stack tensors of one shape, run each stack, and put the results back in order.

    Padding pictures to one size would change what the model sees with whatever else is in the batch; so pictures of
    another shape make another batch.

    Args:
        tensors: one picture each, of shape ``(channels, height, width)``.
        run: takes a stack on `target`, of shape ``(batch, channels, height, width)``, and the places of its pictures
            in `tensors`; gives one result for each.
    """
    import torch

    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, tensor in enumerate(tensors):
        shapes.setdefault(tuple(tensor.shape), []).append(index)
    results: dict[int, R] = {}
    for places in shapes.values():
        stack = torch.stack([tensors[place] for place in places])
        if target.type == "cuda":
            stack = stack.pin_memory()
        stack = stack.to(target, getattr(torch, dtype), non_blocking=True)
        results.update(zip(places, run(stack, places), strict=True))
    return [results[index] for index in range(len(tensors))]
