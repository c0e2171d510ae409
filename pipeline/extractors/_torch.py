"""What the adapters on torch and transformers share: device, number format, quiet loading, batches of one shape."""

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator

from pipeline.core import checkpoints, memory, trust
from pipeline.core.errors import UserError
from pipeline.core.machine import cores
from pipeline.core.soundness import explained, refuse_unsound, require_words

if TYPE_CHECKING:
    import torch

R = TypeVar("R")

Dtype = Literal["float32", "bfloat16", "float16"]


def _with_place(text: str) -> str:
    if text.count("{}") != 1 or set(text.replace("{}", "")) & set("{}"):
        raise ValueError('expected a text with {} in it once, as in "a photo of a {}"')
    return text


Template = Annotated[str, AfterValidator(_with_place)]
"""A text that a label is put into."""

BACKEND = "pil"
"""transformers' image processors come in two versions whose pixels differ; this one needs no torchvision."""


def device(name: str) -> "torch.device":
    """The device that ``execution.device`` names, for a model that is about to be loaded.

    ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: it is not available.
    """
    import torch

    memory.keep_few_kernels()

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(name)
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, False):
        raise UserError(
            f"params.yaml: execution.device: {name}: torch {torch.__version__} sees no such device; use auto or cpu"
        )
    return chosen


def quiet() -> None:
    """Keep transformers from showing bars where nobody watches, and from asking whether to run a model's own code."""
    from transformers.utils import logging

    trust.never_ask()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def part(loader: Any, what: str, folder: Any, name: str, **options: Any) -> Any:
    """A tokenizer, image processor or configuration, loaded by transformers' `loader`; `name` is what params call it.

    Raises:
        UserError: the folder holds none.
    """
    quiet()
    with explained(f"checkpoint {name}: no {what}"):
        return loader.from_pretrained(folder, trust_remote_code=False, **options)


def tokenizer(folder: Any, name: str) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        UserError: the folder holds none, or one without a vocabulary.
    """
    from transformers import AutoTokenizer

    found = part(AutoTokenizer, "tokenizer", folder, name)
    require_words(found, name)
    return found


def require_room(tokenizer: Any, texts: Sequence[str], room: int, key: str, name: str) -> None:
    """See that each text fits into a model as a whole.

    Args:
        tokenizer: the model's.
        texts: what it is to read.
        room: sub-tokens that it takes.
        key: of params, whose values the texts are made of.
        name: what params call the model.

    Raises:
        UserError: one is longer.
    """
    for text, ids in zip(texts, tokenizer(list(texts))["input_ids"], strict=True):
        if len(ids) > room:
            raise UserError(f"{key}: {text!r} is {len(ids)} sub-tokens, longer than the {room} that {name} takes")


def image_processor(folder: Any, name: str) -> Any:
    """The image processor that works without torchvision.

    Raises:
        UserError: the folder holds none.
    """
    from transformers import AutoImageProcessor

    return part(AutoImageProcessor, "image processor", folder, name, backend=BACKEND)


class FromCheckpoint:
    """What an adapter that reads one checkpoint needs of it; subclasses add their model to :meth:`load`."""

    _options: Any  # with `model` and `revision`
    _device_name: str
    _device: "torch.device"
    _processor: Any

    @cached_property
    def _checkpoint(self) -> checkpoints.Checkpoint:
        return checkpoints.resolve(str(self._options.model), self._options.revision)

    @cached_property
    def _model_type(self) -> str | None:
        """The architecture as the checkpoint's config.json calls it.

        Raises:
            UserError: the file cannot be read.
        """
        config = self._checkpoint.folder / "config.json"
        try:
            found: str | None = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"checkpoint {self._options.model}: config.json cannot be read: {error}") from None
        return found

    def load(self) -> None:
        """Choose the device and load the image processor.

        Raises:
            UserError: the device or the checkpoint is not available, or the checkpoint has no image processor.
        """
        self._device = device(self._device_name)
        self._processor = self._image_processor()

    def _image_processor(self) -> Any:
        return image_processor(self._checkpoint.folder, str(self._options.model))

    def _loaded(self, loader: Any, what: str) -> Any:
        return part(loader, what, self._checkpoint.folder, str(self._options.model))


def load(
    model_class: Any, folder: Any, name: str, dtype: Dtype, target: "torch.device", optional: Sequence[str] = ()
) -> Any:
    """A model in evaluation mode, from the safetensors in `folder`; `name` is what params call it.

    Weights whose names begin with one of `optional` may be missing, as nothing reads them.

    Raises:
        UserError: the folder holds something else, or not all of the model's weights.
    """
    import torch

    quiet()
    with explained(f"checkpoint {name}: {model_class.__name__} cannot load it"):
        model, report = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # refused below, with what is wrong
        remedy = "it is likely of another task: choose another checkpoint"
        refuse_unsound(model, report, name, remedy, optional=optional)
        return model.eval().to(target)


def in_batches_of_one_shape(
    tensors: "Sequence[torch.Tensor]",
    run: "Callable[[torch.Tensor, list[int]], list[R]]",
    target: "torch.device",
    dtype: Dtype,
) -> list[R]:
    """Stack tensors of the same shape, run each stack, and put the results back in order.

    Padding pictures to one size would change what the model sees with whatever else is in the batch; so pictures of
    another shape make another batch. On a CPU a stack is split into one part a core, each run by one thread: cores
    that share the work of every single operation wait for each other at its end, and badly so when decoders or
    other programs are about.

    Args:
        tensors: one picture each, *Shape:* (channels, height, width).
        run: takes a stack on `target`, *Shape:* (batch, channels, height, width), and the places of its pictures in
            `tensors`; returns one result for each.
        target: the device to run on.
        dtype: the number format that stacks are converted to.

    Returns:
        One result for each tensor, in their order.
    """
    import torch

    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, tensor in enumerate(tensors):
        shapes.setdefault(tuple(tensor.shape), []).append(index)
    results: dict[int, R] = {}
    for places in shapes.values():
        stack = torch.stack([tensors[place] for place in places])
        if target.type == "cpu":
            found = _run_split(stack.to(getattr(torch, dtype)), places, run)
        else:
            if target.type == "cuda":
                stack = stack.pin_memory()
            found = run(stack.to(target, getattr(torch, dtype), non_blocking=True), places)
        results.update(zip(places, found, strict=True))
    return [results[index] for index in range(len(tensors))]


def _run_split(
    stack: "torch.Tensor", places: list[int], run: "Callable[[torch.Tensor, list[int]], list[R]]"
) -> list[R]:
    import torch

    threads = torch.get_num_threads()
    size = -(-len(places) // cores())
    parts = [slice(start, start + size) for start in range(0, len(places), size)]
    torch.set_num_threads(1)
    try:
        runs = [_pool().submit(run, stack[part], places[part]) for part in parts]
        wait(runs)  # all of them, also where one fails: the batch may be tried again at once
        return [result for one in runs for result in one.result()]
    finally:
        torch.set_num_threads(threads)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="model")
