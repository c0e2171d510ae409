"""What contexts say as something that the text-only view learns, by layers that no tagger is saved with.

Names whose type a context states are a second, noisy layer of labels (:mod:`ner.training.named` finds them), in a CRF
of its own over the vectors that emissions are made of. So the encoder learns to tell from the text alone what a model
that knows more has said of it, and the tagger's own CRF does not learn its mistakes. From the same vectors that of the
context is predicted, which stays as it is (:mod:`ner.training.context_vectors` makes it).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from ner.bioes import allowed_transitions
from ner.crf.chain import LinearChainCRF
from ner.crf.evidence import log_evidence

SILENT = -1
"""In the place of a label: the context says nothing of the token."""
OPEN = -2
"""In the place of a label: the context names it, in words that tell no type."""


@dataclass(frozen=True, slots=True, eq=False)
class PostTarget:
    """What a post's context says of it.

    Attributes:
        labels: a token's label by its index, or SILENT, or OPEN; None where the context names nothing, or it is not
            learned what it names.
        vector: the context's, 0 throughout without a context, *Shape:* (context_width,); None where it is not learned.
    """

    labels: Sequence[int] | None = None
    vector: np.ndarray | None = None


class Target(TypedDict):
    """What the contexts of B tweets of at most L tokens say."""

    labels: Tensor
    """labels' indices, or SILENT, or OPEN, anything on padding, *Shape:* (B, L)."""
    named: Tensor
    """True where the context names something, *Shape:* (B,)."""
    vectors: NotRequired[Tensor]
    """the contexts' vectors, 0 throughout without a context, float32, *Shape:* (B, context_width)."""


def collate_targets(targets: Sequence[PostTarget], n_tokens: Sequence[int]) -> Target:
    """Pad what is said of posts, so many tokens each, to the longest of the batch."""
    labels = torch.full((len(targets), max(n_tokens)), SILENT)
    for row, each in enumerate(targets):
        if each.labels is not None:
            labels[row, : len(each.labels)] = torch.tensor(each.labels)
    target = Target(labels=labels, named=torch.tensor([each.labels is not None for each in targets]))
    vectors = [each.vector for each in targets if each.vector is not None]
    if vectors:
        target["vectors"] = torch.from_numpy(np.stack(vectors).astype(np.float32))
    return target


class ContextLayers(nn.Module):
    """The layers that learn what contexts say.

    Args:
        width: of tokens' vectors.
        context_width: of contexts' vectors.
        labels: the tagger's, in the order of its emissions.
        options: `train.context_target` of params.yaml, as :class:`ner.models.config.TaggerConfig` has it.
        exclude_forbidden: as of :class:`ner.crf.chain.LinearChainCRF`.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        labels: Sequence[str],
        options: Mapping[str, Any],
        *,
        exclude_forbidden: bool,
    ) -> None:
        super().__init__()
        self.weights = {f"context_{name}": part["weight"] for name, part in options.items()}
        self.recall, self.outside = options["spans"]["recall"], labels.index("O")
        self.emission = self.embedding = None
        if options["spans"]["weight"]:
            self.emission = nn.Linear(width, len(labels))
            self.crf = LinearChainCRF(len(labels), allowed_transitions(labels), exclude_forbidden)
        if options["embedding"]["weight"]:
            self.embedding = nn.Linear(width, context_width)

    def losses(self, vectors: Tensor, mask: Tensor, target: Target) -> dict[str, Tensor]:
        """What is learned from B tweets, before its weight; a mean over tweets, those that teach nothing with 0.

        context_spans: the negative log-likelihood of what contexts name. A span has its labels. If contexts name the
        share `recall` of entities, a token that is in one is passed over with probability 1 - recall, and one that is
        in none always: so much is silence evidence of O.

        context_embedding: 1 - cosine between a context's vector and a linear layer of the mean of the tweet's tokens'.
        (To predict the vector of what goes with a text, beside the task and for training alone: Elliott and Kádár,
        IJCNLP 2017, "Imagination improves multimodal translation"; by normalised regression on a target without
        gradient: Grill et al., NeurIPS 2020, "Bootstrap your own latent", equation 2, halved.)

        Args:
            vectors: of the tokens of the text-only view, *Shape:* (B, L, width).
            mask: True on tokens, *Shape:* (B, L).
            target: what the contexts say.

        Returns:
            by the name that logs give it, *Shape:* ().
        """
        found = {}
        if self.emission is not None:
            emissions = self.emission(vectors)
            log_weights = self._log_weights(target["labels"], emissions.shape)
            likelihoods = log_evidence(self.crf, emissions, log_weights, mask)
            found["context_spans"] = -(likelihoods * target["named"]).mean()
        if self.embedding is not None:
            means = vectors.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1) / mask.sum(1, keepdim=True)
            predicted = self.embedding(means).to(target["vectors"].dtype)
            cosines = nn.functional.cosine_similarity(predicted, target["vectors"], dim=-1)
            found["context_embedding"] = ((1.0 - cosines) * target["vectors"].any(-1)).mean()
        return found

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The sum of :meth:`losses` as the tagger's loss has it, *Shape:* ()."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def _log_weights(self, labels: Tensor, shape: torch.Size) -> Tensor:
        """How likely each label made the context say what it says, *Shape:* (B, L, n_labels)."""
        passed_over = math.log(1 - self.recall) if self.recall < 1 else -math.inf
        every = torch.arange(shape[-1], device=labels.device)
        labels = labels.unsqueeze(-1)
        weights = torch.zeros(shape, device=labels.device)
        weights = weights.masked_fill((labels == SILENT) & (every != self.outside), passed_over)
        return weights.masked_fill((labels >= 0) & (labels != every), -math.inf)


class ContextLoss(NamedTuple):
    """What is to be learned from the contexts of a batch."""

    layers: ContextLayers
    target: Target
    scale: float
    """a factor on the weights."""

    def added(
        self, loss: Tensor, terms: Mapping[str, Tensor], vectors: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A loss and its terms with these.

        Args:
            loss: *Shape:* ().
            terms: by name, *Shape:* () each.
            vectors: of the tokens of the text-only view of B tweets, and perhaps of others behind them,
                *Shape:* (B or more, L, width).
            mask: True on tokens, *Shape:* (B, L).
        """
        losses = self.layers.losses(vectors[: len(mask)], mask, self.target)
        return loss + self.scale * self.layers.weighted(losses), {**terms, **losses}


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a layer is given, call by call."""
    given: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    try:
        yield given
    finally:
        handle.remove()
