"""Layers with which a text looks at its picture: BERT layers whose keys come from elsewhere, a branch of five, gates.

Published in IIE4MNER (Liu et al., Information Processing & Management 2024, "Multi-granularity cross-modality
representation learning for named entity recognition on social media"). Each `Self` and `Cross` of its formulas is one
:class:`CrossLayer`. What the items are (regions, objects), and which text looks, is left to :mod:`ner.models.iie4mner`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ner.encoder.dropout import Dropout
from ner.encoder.packing import attend


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of a layer: those of the encoder's own.

    Args:
        width: of every vector.
        n_heads: of attention.
        inner_width: between the two linear layers behind it.
        dropout: of what attention and those layers give.
        attention_dropout: of attention's weights.
        epsilon: of layer norms.
    """

    width: int
    n_heads: int
    inner_width: int
    dropout: float = 0.1
    attention_dropout: float = 0.1
    epsilon: float = 1e-12

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "LayerShape":
        """The sizes of an encoder's layers; BERT's proportions where its config does not tell them."""
        width = config.hidden_size
        n_heads = getattr(config, "num_attention_heads", None) or max(1, width // 64)
        return cls(
            width,
            n_heads if width % n_heads == 0 else 1,
            getattr(config, "intermediate_size", None) or 4 * width,
            getattr(config, "hidden_dropout_prob", 0.1),
            getattr(config, "attention_probs_dropout_prob", 0.1),
            getattr(config, "layer_norm_eps", 1e-12),
        )


class CrossLayer(nn.Module):
    """A BERT layer (attention, GELU, norms behind each) whose queries and keys may be of different sequences.

    Weights are drawn as torch draws them, U(-1/√n, 1/√n) for n inputs, with biases of 0. That is the published draw of
    seven of the twelve layers, and at BERT's width as wide as the N(0, 0.02) of the other five.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        width = shape.width
        self.n_heads, self.attention_dropout = shape.n_heads, shape.attention_dropout
        self.query, self.key, self.value, self.mixed = (nn.Linear(width, width) for _ in range(4))
        self.inner, self.outer = nn.Linear(width, shape.inner_width), nn.Linear(shape.inner_width, width)
        self.mixed_norm, self.outer_norm = (nn.LayerNorm(width, eps=shape.epsilon) for _ in range(2))
        self.dropout = Dropout(shape.dropout)
        for linear in (self.query, self.key, self.value, self.mixed, self.inner, self.outer):
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """What `queries` make of what they attend to.

        Args:
            queries: *Shape:* (W, Q, width).
            keys: what is attended to, `queries` themselves where the layer is `Self`, *Shape:* (W, N, width).
            bias: added to the scores, 0 on keys and -inf on padding, *Shape:* (W, 1, 1, N).

        Returns:
            *Shape:* (W, Q, width).
        """
        q, k, v = self._heads(self.query(queries)), self._heads(self.key(keys)), self._heads(self.value(keys))
        mixed = attend(q, k, v, bias.to(q.dtype), self.attention_dropout if self.training else 0.0)
        mixed = mixed.transpose(1, 2).flatten(2)
        vectors = self.mixed_norm(queries + self.dropout(self.mixed(mixed)))
        result: Tensor = self.outer_norm(vectors + self.dropout(self.outer(nn.functional.gelu(self.inner(vectors)))))
        return result

    def weights(self, queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """How much queries attend to keys: the mean over heads, without dropout; arguments as of :meth:`forward`.

        Returns:
            weights that sum to 1 over keys, *Shape:* (W, Q, N).
        """
        q, k = self._heads(self.query(queries)), self._heads(self.key(keys))
        scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
        return (scores + bias.to(scores.dtype)).softmax(-1).mean(1)

    def _heads(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class Gate(nn.Module):
    """g = σ(W₁ one + W₂ other + b); g ⊙ one + (1 - g) ⊙ other. All are drawn from U(-1/√width, 1/√width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Mix two tensors of *Shape:* (…, width)."""
        return torch.lerp(other, one, torch.sigmoid(self.one(one) + self.other(other)).to(one.dtype))


class PictureBranch(nn.Module):
    """Text looks at a picture's items twice, at the items themselves and at items that have looked at the text.

    direct = Cross(text, Self(items)); aware = Cross(text, Cross(Self'(items'), text)); then both through a gate.

    Args:
        shape: of the layers.
        aware_first: whether the gate g weighs `aware` and 1 - g weighs `direct`, as in the published fine branch;
            False: the other way round, as in the coarse one.
    """

    def __init__(self, shape: LayerShape, *, aware_first: bool) -> None:
        super().__init__()
        self.aware_first = aware_first
        self.items, self.direct, self.items_again, self.read_text, self.aware = (CrossLayer(shape) for _ in range(5))
        self.gate = Gate(shape.width)

    def forward(
        self, tokens: Tensor, text: Tensor, text_bias: Tensor, items: tuple[Tensor, Tensor], mask: Tensor, of: Tensor
    ) -> Tensor:
        """What the tokens of W windows see in the pictures of B tweets.

        Args:
            tokens: the windows' tokens, which look, *Shape:* (W, Q, width).
            text: the windows' sub-tokens, which items look at, *Shape:* (W, S, width).
            text_bias: 0 on sub-tokens and -inf on padding, *Shape:* (W, 1, 1, S).
            items: of each tweet's pictures, for either way of looking, *Shape:* (B, N, width) each.
            mask: True on items; a tweet without any looks evenly at its padding, *Shape:* (B, N).
            of: the tweet of each window, *Shape:* (W,).

        Returns:
            *Shape:* (W, Q, width).
        """
        bias = _even_without_items(mask)
        one, other = self.items(items[0], items[0], bias), self.items_again(items[1], items[1], bias)
        if of.shape[0] != mask.shape[0]:  # a window each otherwise
            one, other, bias = one[of], other[of], bias[of]
        direct = self.direct(tokens, one, bias)
        aware = self.aware(tokens, self.read_text(other, text, text_bias), bias)
        seen: Tensor = self.gate(aware, direct) if self.aware_first else self.gate(direct, aware)
        return seen

    def direct_weights(self, tokens: Tensor, items: Tensor, mask: Tensor, of: Tensor) -> Tensor:
        """How much tokens attend to the items themselves; arguments as of :meth:`forward`, `items` the first of them.

        Returns:
            weights that sum to 1 over a tweet's items, even where it has none, *Shape:* (W, Q, N).
        """
        bias = _even_without_items(mask)
        return self.direct.weights(tokens, self.items(items, items, bias)[of], bias[of])


def _even_without_items(mask: Tensor) -> Tensor:
    """:func:`attention_bias` of items (B, N); where a tweet has none, its padding is attended to."""
    return attention_bias(mask | ~mask.any(1, keepdim=True))


def attention_bias(mask: Tensor) -> Tensor:
    """0 where a mask is True and -inf elsewhere: (W, N) → *Shape:* (W, 1, 1, N), float32."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)[:, None, None]
