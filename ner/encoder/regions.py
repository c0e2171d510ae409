"""Encoder passes over windows with regions of pictures behind them, as embeddings in the place of word vectors.

A region stands behind its tweet's own closing special token, at a position that its place in the picture's grid
decides: what else is in the batch, and which of several pictures it is of, change nothing. What regions are made of is
left to :mod:`ner.models`.
"""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ner.encoder import packing
from ner.encoder.packing import Part
from ner.encoder.windows import Windows
from ner.visual import VisualBatch
from pipeline.core.errors import UserError


class Regions(NamedTuple):
    """The regions behind W windows of at most S sub-tokens: M in all, at most R behind a window."""

    tweets: Tensor
    """the tweet that each is behind, *Shape:* (M,)."""
    sources: Tensor
    """the region of the batch that each is, of all tweets' in order, *Shape:* (M,)."""
    places: Tensor
    """their positions in the flattened windows (W, S + R), *Shape:* (M,)."""
    positions: Tensor
    """what position embeddings are looked up by, from 0, *Shape:* (M,)."""
    most: int
    """R."""


def behind(windows: Windows, visual: VisualBatch) -> Regions:
    """Where the regions of tweets stand behind the tweets' windows."""
    mask, found = visual["mask"], visual["places"]
    most = mask.shape[1]
    numbers = torch.zeros(mask.numel(), dtype=torch.long, device=mask.device)
    numbers = numbers.index_copy(0, found, torch.arange(len(found), device=mask.device))
    if not windows.one_each:
        found = mask[windows.tweets].flatten().nonzero().squeeze(1)
    rows, ranks = found // most, found % most
    tweets = windows.tweets[rows]
    lengths = windows.attention_mask.sum(1)
    return Regions(
        tweets,
        numbers[tweets * most + ranks],
        rows * (windows.attention_mask.shape[1] + most) + lengths[rows] + ranks,
        windows.closings[rows] + 1 + visual["cells"][tweets, ranks],
        most,
    )


def part_with(
    windows: Windows,
    regions: Regions,
    embeddings: tuple[Tensor, Tensor],
    bias: Tensor | None,
    wanted: Tensor,
    *,
    typed: bool,
) -> Part:
    """Windows and the regions behind them as a part of a pass: first all sub-tokens, then all regions.

    Args:
        windows: T sub-tokens.
        regions: M regions.
        embeddings: word vectors of the sub-tokens, *Shape:* (T, width), and what stands in their place for the
            regions, *Shape:* (M, width).
        bias: added to attention scores to each region, *Shape:* (M,); None: nothing.
        wanted: sub-tokens whose hidden states are read, *Shape:* (N,).
        typed: whether regions have token type 1.
    """
    n_windows, width = windows.attention_mask.shape
    columns = windows.places % width
    places = torch.cat([windows.places // width * (width + regions.most) + columns, regions.places])
    scores = torch.full((n_windows * (width + regions.most),), -torch.inf, device=places.device)
    scores = scores.index_fill(0, places, 0.0)
    if bias is not None:
        scores = scores.to(bias.dtype).index_copy(0, regions.places, bias)
    types = torch.cat([torch.zeros_like(columns), torch.ones_like(regions.positions)]) if typed else None
    positions = torch.cat([columns, regions.positions])
    return Part(torch.cat(embeddings), places, positions, types, scores.view(n_windows, -1), wanted)


def has_types(encoder: PreTrainedModel) -> bool:
    """Whether an encoder can tell regions from sub-tokens by token types of its own."""
    return getattr(encoder.config, "type_vocab_size", 0) >= 2 and _takes(encoder, "token_type_ids")


def encode_padded(encoder: PreTrainedModel, part: Part, *, biased: bool) -> Tensor:
    """:func:`ner.encoder.packing.encode_parts` of one part of embeddings, for encoders of any kind.

    Args:
        encoder: takes embeddings.
        part: W windows of at most S places.
        biased: whether attention scores to some places are to be changed, other than by padding.

    Returns:
        hidden states of the wanted places, *Shape:* (N, hidden_width).
    """
    hidden = encoder(**_padded(encoder, part, biased)).last_hidden_state
    return hidden.flatten(0, 1)[part.places[part.wanted]]


def attention_to(encoder: PreTrainedModel, part: Part, windows: Windows, *, biased: bool) -> Tensor:
    """How much wanted places attend to regions in the last layer: the mean over its heads.

    The kinds of attention that are fast do not tell their weights, so this pass has transformers' plain one.

    Args:
        encoder: takes embeddings.
        part: of :func:`part_with`.
        windows: the same windows, without the regions, of which at most R are behind each.
        biased: as of :func:`encode_padded`.

    Returns:
        weights, 0 behind a window's last region, *Shape:* (N, R).

    Raises:
        UserError: the encoder does not tell what each place attends to.
    """
    implementation = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        layers = encoder(**_padded(encoder, part, biased), output_attentions=True).attentions
    finally:
        encoder.set_attn_implementation(implementation)
    width = part.bias.shape[1]
    if not layers or layers[-1] is None or layers[-1].shape[2:] != (width, width):
        raise UserError(
            f"evaluate.attention: {type(encoder).__name__} does not tell what its sub-tokens attend to; "
            "set evaluate.attention to false"
        )
    lengths = windows.attention_mask.sum(1)
    columns = lengths[:, None] + torch.arange(width - windows.attention_mask.shape[1], device=lengths.device)
    places = part.places[part.wanted]
    return layers[-1].mean(1).flatten(0, 1)[places].gather(1, columns[places // width])


def _padded(encoder: PreTrainedModel, part: Part, biased: bool) -> dict[str, Any]:
    """What an encoder is called with to read a part."""

    def padded(values: Tensor) -> Tensor:
        laid = values.new_zeros(part.bias.numel(), *values.shape[1:])
        return laid.index_copy(0, part.places, values).view(*part.bias.shape, *values.shape[1:])

    arguments = {
        "inputs_embeds": padded(part.inputs),
        "attention_mask": part.bias[:, None, None] if biased else (part.bias == 0).long(),
    }
    if biased:
        arguments["attention_mask"] = arguments["attention_mask"].to(part.inputs.dtype)
    if _takes(encoder, "position_ids"):
        arguments["position_ids"] = padded(part.positions + packing.first_position(encoder))
    if part.types is not None:
        arguments["token_type_ids"] = padded(part.types)
    return arguments


def encode_dense(
    encoder: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    embeddings: Tensor,
    *,
    region_mask: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    typed: bool,
) -> Tensor:
    """A pass over windows of S places for sub-tokens and R behind them for regions, whichever of them are filled.

    It is what an exported graph computes: no shape depends on values.

    Args:
        encoder: takes embeddings.
        input_ids: *Shape:* (W, S).
        attention_mask: 1 on sub-tokens, 0 on padding, *Shape:* (W, S).
        embeddings: what stands for regions in the place of word vectors, *Shape:* (W, R, width).
        region_mask: 1 on regions, 0 on padding, *Shape:* (W, R).
        positions: what regions' position embeddings are looked up by, from 0, *Shape:* (W, R).
        bias: added to attention scores to each region, *Shape:* (W, R); None: nothing.
        typed: whether regions have token type 1.

    Returns:
        hidden states of the sub-tokens, *Shape:* (W, S, hidden_width).
    """
    n_windows, width = input_ids.shape
    mask = torch.cat([attention_mask, region_mask], 1)
    arguments = {"inputs_embeds": torch.cat([encoder.get_input_embeddings()(input_ids), embeddings], 1)}
    if bias is None:
        arguments["attention_mask"] = mask
    else:
        scores = torch.cat([torch.zeros_like(attention_mask, dtype=bias.dtype), bias], 1)
        scores = torch.where(mask != 0, scores, -torch.inf)[:, None, None]
        arguments["attention_mask"] = scores.expand(-1, 1, mask.shape[1], -1).to(embeddings.dtype)
    if _takes(encoder, "position_ids"):
        columns = torch.arange(width, device=input_ids.device).expand(n_windows, -1)
        arguments["position_ids"] = torch.cat([columns, positions], 1) + packing.first_position(encoder)
    if typed:
        arguments["token_type_ids"] = torch.cat([torch.zeros_like(input_ids), torch.ones_like(positions)], 1)
    return encoder(**arguments).last_hidden_state[:, :width]


def _takes(encoder: PreTrainedModel, argument: str) -> bool:
    return argument in inspect.signature(encoder.forward).parameters
