"""The relation of text and picture: how likely the picture adds to the tweet's meaning (RpBERT, Sun et al., AAAI 2021).

What every tagger may be asked of it, and how r gates attention. How r comes about is each system's; most have none.
"""

from typing import ClassVar

import torch
from torch import Tensor

from ner.views import ViewBatch
from ner.visual import VisualBatch


class Relation:
    """What a tagger says of the relation; by default it has none.

    Attributes:
        learns_relation: whether it also learns from posts whose pictures are known to add to their meaning, or not to.
    """

    learns_relation: ClassVar[bool] = False

    @property
    def asks_relation(self) -> bool:
        """Whether it asks how likely a tweet's pictures add to its meaning (:meth:`relation`)."""
        return False

    def relation(self, view: ViewBatch, visual: VisualBatch | None) -> Tensor:
        """How likely a tweet's pictures add to its meaning, for systems that ask that.

        Args:
            view: B tweets, as the cross-modal view reads them.
            visual: what their pictures give as tensors.

        Returns:
            probabilities, NaN for a tweet without a picture, *Shape:* (B,).
        """
        raise NotImplementedError

    def relation_loss(self, view: ViewBatch | None, visual: VisualBatch | None, relation: Tensor) -> dict[str, Tensor]:
        """The loss of posts whose relation is known, for systems that learn it (`learns_relation`).

        Args:
            view: B posts, as the cross-modal view reads them.
            visual: what their pictures give as tensors.
            relation: 1 where a post's picture adds to its meaning, 0 where it does not, *Shape:* (B,).

        Returns:
            `loss`, weighted and with gradient; `relation`, the same before its weight, detached. *Shape:* () each.

        Raises:
            ValueError: there is no picture to tell the relation of.
        """
        raise NotImplementedError

    def check_relation(self, n_posts: int) -> None:
        """See whether the system can do with so many posts to learn the relation from.

        Raises:
            UserError: it cannot.
        """

    def alignment_weights(self) -> Tensor | None:
        """How much each tweet's alignment counts, asked once after its cross-modal emissions; None: 1 each.

        Returns:
            weights, without gradient, *Shape:* (B,).
        """
        return None


def log_probability(logits: Tensor) -> Tensor:
    """log r.

    Args:
        logits: scores of no and yes, *Shape:* (B, 2).

    Returns:
        in float32 or finer, *Shape:* (B,).
    """
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)[:, 1]


def on_attention(log_relation: Tensor, gate: str) -> Tensor:
    """What a gate adds to the attention scores of what comes from the picture.

    Args:
        log_relation: log r, *Shape:* any.
        gate: soft: log r itself; hard: 0 where r ≥ 0.5 and -inf elsewhere, with the gradient of log r (the
            straight-through estimator of Bengio et al. 2013).

    Returns:
        of the shape of `log_relation`.
    """
    if gate == "soft":
        return log_relation
    return torch.where(log_relation.exp() >= 0.5, log_relation - log_relation.detach(), -torch.inf)
