"""Whether what a library has loaded from a checkpoint is whole, and one message of whatever goes wrong before.

transformers fills up missing weights with random ones and leaves out those that it has no place for; both look like
success. What a folder may hold is left to :mod:`pipeline.core.trust`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.machine import is_out_of_memory

_LONGEST = 300  # characters of a library's message


@contextmanager
def explained(trouble: str) -> Iterator[None]:
    """Make one message, which `trouble` begins, of what goes wrong while something of a checkpoint is loaded.

    Raises:
        UserError: whatever it is.
    """
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(
            f"{trouble}: {error}; its *.safetensors are cut short, or stand for files that git-LFS has not "
            "fetched: fetch the checkpoint again"
        ) from None
    except Exception as error:  # of transformers or of any library below it: no picture is the cause
        if is_out_of_memory(error):  # with smaller batches it would run out again
            raise UserError(
                f"{trouble}: memory runs out; take a smaller model, dtype: bfloat16 or another execution.device"
            ) from None
        message = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        raise UserError(f"{trouble}: {message}") from None


def refuse_unsound(
    model: Any,
    report: Mapping[str, Any],
    name: str,
    remedy: str,
    *,
    optional: Sequence[str] = (),
    surplus: bool = False,
) -> None:
    """Refuse a model that is not what its checkpoint says, which only transformers' `report` tells, or that has NaN.

    Weights that the model has no place for are another task's head, as a rule; those of further layers are not.

    Args:
        model: as transformers has loaded it.
        report: what ``output_loading_info`` gives.
        name: what the message calls the checkpoint.
        remedy: what to do, the end of the message.
        optional: beginnings of weights' names that may be missing, as nothing reads them.
        surplus: whether any weight that the model has no place for is refused.

    Raises:
        UserError: the checkpoint lacks weights of the model, has them in another shape, has more layers than its
            config says, or a weight is not finite.
    """
    tensors = model.state_dict()
    # What is no fraction is not learnt: the steps, say, that batch normalisation has counted.
    missing = sorted(
        key
        for key in report["missing_keys"]
        if not key.startswith(tuple(optional)) and (key not in tensors or tensors[key].is_floating_point())
    )
    reshaped = sorted(report["mismatched_keys"])
    unplaced = sorted(report["unexpected_keys"])
    if not surplus:
        unplaced = [key for key in unplaced if _is_of_a_further_layer(model, key)]
    if missing:
        trouble = f"it lacks {len(missing)} weights ({missing[0]}, …)"
    elif reshaped:
        key, found, expected = reshaped[0]
        trouble = (
            f"{len(reshaped)} of its weights have another shape than its config.json says ({key} is "
            f"{list(found)}, expected {list(expected)}, …)"
        )
    elif unplaced:
        trouble = f"it has {len(unplaced)} weights for which its config.json has no place ({unplaced[0]}, …)"
    elif (key := _not_finite(model)) is not None:
        trouble = f"its weights {key} are not all finite numbers"
    else:
        return
    raise UserError(f"checkpoint {name} is no whole {type(model).__name__}: {trouble}; {remedy}")


def require_words(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that knows special tokens alone, which transformers makes where there is no vocabulary.

    Raises:
        UserError: every word would be unknown.
    """
    special = {*map(str, tokenizer.added_tokens_decoder.values()), *tokenizer.all_special_tokens}
    if set(tokenizer.get_vocab()) <= special:
        raise UserError(
            f"checkpoint {name}: its tokenizer has no vocabulary, so every word would be unknown; tokenizer.json (or "
            "vocab.json, vocab.txt, *.model) is missing: copy or download the complete checkpoint"
        )


def _is_of_a_further_layer(model: Any, key: str) -> bool:
    """Whether a weight belongs to a layer with a number, of a list of layers that the model has fewer of."""
    import torch

    key = key.removeprefix(f"{getattr(model, 'base_model_prefix', '')}.")
    parts = key.split(".")
    for place, number in enumerate(parts):
        if not number.isdecimal():
            continue
        try:
            layers = model.get_submodule(".".join(parts[:place]))
        except AttributeError:
            return False
        if isinstance(layers, torch.nn.ModuleList) and len(layers) and int(number) >= len(layers):
            return True
    return False


def _not_finite(model: Any) -> str | None:
    """The first of the model's parameters with a value that is not finite, or None."""
    return next((name for name, values in model.named_parameters() if not bool(values.isfinite().all())), None)
