"""Encoder passes over sub-tokens laid end to end: what is padding in a batch costs no linear layer, norm or activation.

Only attention, a small part of the work at a tweet's length, is padded, each view by itself. Behind the last attention
only the sub-tokens that are read go on. What is encoded, and what for, is left to
:mod:`ner.models`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ner.encoder.dropout import dropout as drop
from ner.encoder.windows import Windows, windows_of
from ner.views import EncodedView, ViewBatch, collate
from pipeline.core.machine import is_out_of_memory

ATTENTION = "sightread_packed"
_TRIED = (3, 40, 11)  # sub-tokens of the windows that an encoder is tried on
_NOISE = 1e-3  # relative to the largest value: far above what another order of additions makes
_wanted: ContextVar[Tensor | None] = ContextVar("wanted", default=None)


class Block(NamedTuple):
    """Windows that attend in one go: W windows of at most S sub-tokens, T sub-tokens in all."""

    begin: int
    """the first of its sub-tokens in the row of all."""
    end: int
    """the one after its last."""
    rows: Tensor
    """position of each head's vector in the flattened (W, n_heads, S), int64, *Shape:* (T · n_heads,)."""
    bias: Tensor
    """added to the scores of what is attended to, -inf on padding, *Shape:* (W, 1, 1, S)."""


class Part(NamedTuple):
    """Windows of one pass, in the order of its row: W windows of at most S places, of which T are filled."""

    inputs: Tensor
    """sub-tokens, int64, *Shape:* (T,); or in the place of their word vectors embeddings, *Shape:* (T, width)."""
    places: Tensor
    """their positions in the flattened windows (W, S), *Shape:* (T,)."""
    positions: Tensor
    """what position embeddings are looked up by, from 0, *Shape:* (T,)."""
    types: Tensor | None
    """token types; None: 0 throughout, *Shape:* (T,)."""
    bias: Tensor
    """added to attention scores to each place, -inf on padding, *Shape:* (W, S)."""
    wanted: Tensor
    """those of the T whose hidden states are read, *Shape:* (N,)."""


def first_position(encoder: torch.nn.Module) -> int:
    """The position id of a window's first sub-token: it comes behind the one that is kept for padding, if one is.

    Args:
        encoder: the encoder, or its embeddings.
    """
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def enable(encoder: PreTrainedModel) -> torch.utils.hooks.RemovableHandle:
    """Prepare an encoder that :func:`try_out` has found to be one for :func:`encode_packed` and :func:`wanted_alone`.

    Raises:
        AttributeError, ValueError: its layers are not where those of BERT are, or its attention cannot be replaced.
    """
    last = encoder.get_submodule(f"encoder.layer.{encoder.config.num_hidden_layers - 1}.attention.output")
    encoder.set_attn_implementation(ATTENTION)
    return last.register_forward_pre_hook(_narrow)


def try_out(encoder: PreTrainedModel) -> bool:
    """Prepare an encoder, if packed windows give what padded ones do; leave it alone, if they do not.

    So it does where an encoder takes positions, and hands attention on without a look at how sub-tokens lie in a batch.

    Args:
        encoder: with the weights that it will have, or others that are not all the same.
    """
    training, implementation = encoder.training, encoder.config._attn_implementation
    encoder.eval()
    handle = None
    try:
        with torch.no_grad():
            views = _tried(encoder)
            firsts = (views["rows"], views["positions"])
            padded = encoder(input_ids=views["input_ids"], attention_mask=views["attention_mask"])
            wanted = padded.last_hidden_state[firsts] * views["mask"].unsqueeze(-1)
            handle = enable(encoder)
            if close(encode_packed(encoder, [views]), wanted):
                return True
    except Exception as error:  # whatever an encoder of any kind raises is why it is not packed
        if is_out_of_memory(error):
            raise
    finally:
        encoder.train(training)
    if handle is not None:
        handle.remove()
        encoder.set_attn_implementation(implementation)
    return False


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether values are the same but for float noise."""
    return bool((found - expected).abs().max() <= _NOISE * expected.abs().max().clamp_min(1e-6))


def _tried(encoder: PreTrainedModel) -> ViewBatch:
    """Windows of different lengths, of sub-tokens from the whole vocabulary, each a token."""
    known = encoder.get_input_embeddings().weight.shape[0]
    pad = encoder.config.pad_token_id or 0
    longest = max(2, getattr(encoder.config, "max_position_embeddings", 512) - first_position(encoder))
    posts = []
    for length in (min(length, longest) for length in _TRIED):
        ids = [place * 7919 % known for place in range(1, length + 1)]  # a prime: they are scattered
        ids = [piece if piece != pad else (pad + 1) % known for piece in ids]
        firsts = list(range(length))
        posts.append(EncodedView([ids], [0] * length, firsts, [first + 1 for first in firsts], [length - 1], ""))
    return collate(posts, pad)


@contextmanager
def wanted_alone(places: Tensor) -> Iterator[None]:
    """Has encoder passes return only the hidden states at `places`, *Shape:* (1, N, hidden_width).

    Args:
        places: positions in the flattened windows, *Shape:* (N,).
    """
    token = _wanted.set(places)
    try:
        yield
    finally:
        _wanted.reset(token)


def _narrow(_module: torch.nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """What the last layer's attention gives and what it is added to, at the wanted places."""
    places = _wanted.get()
    return None if places is None else tuple(each.flatten(0, 1)[None, places] for each in states)


def encode_packed(encoder: PreTrainedModel, batches: Sequence[ViewBatch]) -> Tensor:
    """Hidden states of the tokens' first sub-tokens, from one pass over several views' batches.

    Args:
        encoder: one that :func:`enable` or :func:`try_out` has prepared.
        batches: views of the same B tweets of at most L tokens.

    Returns:
        hidden states, view after view, zeros on padding, *Shape:* (views · B, L, hidden_width).
    """
    views = [windows_of(batch) for batch in batches]
    hidden = encode_parts(encoder, [part_of(windows, windows.firsts) for windows in views])
    n_views, longest = batches[0]["mask"].shape
    slots = [number * n_views * longest + batch["tokens"] for number, batch in enumerate(batches)]
    vectors = hidden.new_zeros(len(batches) * n_views * longest, hidden.shape[-1])
    return vectors.index_copy(0, torch.cat(slots), hidden).view(-1, longest, hidden.shape[-1])


def part_of(windows: Windows, wanted: Tensor) -> Part:
    """Windows of sub-tokens alone as a part of a pass.

    Args:
        windows: T sub-tokens.
        wanted: those of them whose hidden states are read, *Shape:* (N,).
    """
    places, mask = windows.places, windows.attention_mask
    bias = torch.zeros(mask.shape, device=mask.device).masked_fill_(mask == 0, -torch.inf)
    return Part(windows.input_ids.flatten()[places], places, places % mask.shape[1], None, bias, wanted)


def encode_parts(encoder: PreTrainedModel, parts: Sequence[Part]) -> Tensor:
    """Hidden states of the wanted places of several parts, which attend each within its own windows, from one pass.

    Args:
        encoder: one that :func:`enable` or :func:`try_out` has prepared.
        parts: all of sub-tokens, or all of embeddings.

    Returns:
        hidden states, part after part, *Shape:* (N of all parts, hidden_width).
    """
    blocks, wanted, begin = [], [], 0
    heads = torch.arange(encoder.config.num_attention_heads, device=parts[0].places.device)
    for part in parts:
        width = part.bias.shape[1]
        rows = ((part.places // width)[:, None] * len(heads) + heads) * width + (part.places % width)[:, None]
        blocks.append(Block(begin, begin + len(part.places), rows.flatten(), part.bias[:, None, None]))
        wanted.append(begin + part.wanted)
        begin += len(part.places)
    inputs = torch.cat([part.inputs for part in parts])[None]
    arguments = {"inputs_embeds" if inputs.is_floating_point() else "input_ids": inputs}
    if any(part.types is not None for part in parts):
        kinds = [torch.zeros_like(part.positions) if part.types is None else part.types for part in parts]
        arguments["token_type_ids"] = torch.cat(kinds)[None]
    positions = torch.cat([part.positions for part in parts]) + first_position(encoder.get_submodule("embeddings"))
    with wanted_alone(torch.cat(wanted)):
        return encoder(position_ids=positions[None], blocks=blocks, **arguments).last_hidden_state[0]


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    blocks: Sequence[Block] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Self-attention within each window of `blocks`; without them transformers' own, on padded batches.

    Args:
        module: the attention layer.
        query: *Shape:* (1, n_heads, T, head_width).
        key: *Shape:* (1, n_heads, T, head_width).
        value: *Shape:* (1, n_heads, T, head_width).
        attention_mask: of padded batches.
        dropout: probability that a weight is zeroed.
        scaling: of the scores; None: 1 / sqrt(head_width).
        blocks: where the windows lie among the T sub-tokens.
        kwargs: for transformers' own attention.

    Returns:
        mixed values, *Shape:* (1, T, n_heads, head_width).
        None, in the place of the weights.
    """
    if blocks is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    padded = (_Padded.apply(values.transpose(1, 2), blocks) for values in (query, key, value))
    mixed = [
        attend(q, k, v, block.bias.to(q.dtype), dropout, scaling)
        for block, q, k, v in zip(blocks, *padded, strict=True)
    ]
    return _Unpadded.apply(blocks, *mixed), None


def _pad(values: Tensor, blocks: Sequence[Block]) -> tuple[Tensor, ...]:
    """Each block's values, 0 on padding.

    Args:
        values: *Shape:* (1, T, n_heads, head_width).
        blocks: where the windows lie.

    Returns:
        a tensor for each block, *Shape:* (W, n_heads, S, head_width).
    """
    n_heads, size = values.shape[2:]
    parts = []
    for block in blocks:
        n_windows, _, _, width = block.bias.shape
        part = values.new_zeros(n_windows * n_heads * width, size)
        part.index_copy_(0, block.rows, values[0, block.begin : block.end].reshape(-1, size))
        parts.append(part.view(n_windows, n_heads, width, size))
    return tuple(parts)


def _unpad(parts: Sequence[Tensor], blocks: Sequence[Block]) -> Tensor:
    """The inverse of :func:`_pad`."""
    _, n_heads, _, size = parts[0].shape
    values = parts[0].new_empty(1, blocks[-1].end, n_heads, size)
    for part, block in zip(parts, blocks, strict=True):
        torch.index_select(part.reshape(-1, size), 0, block.rows, out=values[0, block.begin : block.end].view(-1, size))
    return values


class _Padded(torch.autograd.Function):
    """:func:`_pad` with :func:`_unpad` as its gradient; autograd's own would fill and sum one tensor per block."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, blocks: Sequence[Block]) -> tuple[Tensor, ...]:
        ctx.blocks = blocks
        return _pad(values, blocks)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_parts: Tensor) -> tuple[Tensor, None]:
        return _unpad(grad_parts, ctx.blocks), None


class _Unpadded(torch.autograd.Function):
    """:func:`_unpad` with :func:`_pad` as its gradient."""

    @staticmethod
    def forward(ctx: Any, blocks: Sequence[Block], *parts: Tensor) -> Tensor:
        ctx.blocks = blocks
        return _unpad(parts, blocks)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_pad(grad_values, ctx.blocks)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float, scaling: float | None = None
) -> Tensor:
    """Attention, with a dropout of its weights that is fast on a CPU, too.

    Args:
        query: *Shape:* (W, n_heads, Q, head_width).
        key: *Shape:* (W, n_heads, S, head_width).
        value: *Shape:* (W, n_heads, S, head_width).
        bias: added to the scores, *Shape:* (W, 1, 1, S).
        dropout: probability that a weight is zeroed.
        scaling: of the scores; None: 1 / sqrt(head_width).

    Returns:
        mixed values, *Shape:* (W, n_heads, Q, head_width).
    """
    if torch.compiler.is_exporting():  # onnxruntime's attention takes no bias that is the same for all queries
        bias = bias.expand(-1, -1, query.shape[2], -1)
    if dropout == 0.0 or query.device.type != "cpu":
        return scaled_dot_product_attention(query, key, value, bias, dropout, scale=scaling)
    # torch has no fused attention with dropout on a CPU; these are the parts that it would take, but for the dropout.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = torch.matmul(query * scale, key.transpose(2, 3)).add_(bias).softmax(-1)
    return torch.matmul(drop(weights, dropout), value)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
