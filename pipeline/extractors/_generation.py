"""How likely a generated text is: what the adapters share whose models write it token by token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Likelihoods:
    """Notes the log probability of the likeliest token at each step, which greedy decoding takes.

    A logits processor of transformers that changes nothing; it is put behind those of the checkpoint itself.
    """

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """The scores as they are.

        Args:
            input_ids: tokens so far, *Shape:* (sequences, length).
            scores: logits of the next token, *Shape:* (sequences, vocabulary).
        """
        logits = scores.float()
        self._steps.append(logits.amax(dim=-1) - logits.logsumexp(dim=-1))
        return scores

    def means(self, new: "torch.Tensor", ends: Sequence[int]) -> list[float]:
        """The mean log probability of each sequence's tokens, its end included.

        Args:
            new: ids of the generated tokens, *Shape:* (sequences, length).
            ends: ids of the tokens that end a sequence.
        """
        import torch

        return mean_log_probabilities(torch.stack(self._steps, dim=1).cpu(), new, ends)


def mean_log_probabilities(tokens: "torch.Tensor", new: "torch.Tensor", ends: Sequence[int]) -> list[float]:
    """The mean over each sequence's tokens, its end included; behind that there is padding, which does not count.

    Args:
        tokens: log probability of each generated token, *Shape:* (sequences, length).
        new: their ids, *Shape:* (sequences, length).
        ends: ids of the tokens that end a sequence.
    """
    import torch

    ended = torch.isin(new, torch.tensor(list(ends), dtype=torch.long)).long()
    counted = ended.cumsum(dim=1) - ended == 0
    return [float(row[mask].mean()) for row, mask in zip(tokens, counted, strict=True)]


def ends_of(model: object) -> list[int]:
    """The ids of the tokens that end what a model generates, as its generation config has them."""
    ends: int | list[int] | None = model.generation_config.eos_token_id  # type: ignore[attr-defined]
    if ends is None:
        return []
    return list(ends) if isinstance(ends, list) else [ends]
