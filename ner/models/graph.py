"""What an exported graph of a tagger reads: a part of a batch, as plain tensors with no lists of windows in lists.

A system names those that its graph takes (:meth:`ner.models.base.TaggerModel.graph_inputs`); here they are made of a
batch, for whichever engine runs the graph. Everything that belongs to a tweet is given for each of its windows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from ner.views import ViewBatch
from ner.visual import N_OBJECTS, NO_OBJECT, VisualBatch

GraphInput = Literal[
    "input_ids",
    "attention_mask",
    "firsts",
    "owners",
    "words",
    "casing",
    "mask",
    "slots",
    "leading",
    "closings",
    "regions",
    "region_mask",
    "cells",
    "objects",
    "present",
]

_OF_WHOLE_TWEETS: tuple[GraphInput, ...] = ("mask", "leading")
"""Inputs of graphs in which the windows of a tweet read each other."""


class GraphInputs(TypedDict, total=False):
    """W windows of at most S sub-tokens, and the N tokens of B tweets that are scored in them, at most L in each.

    R is the largest number of regions that a window has behind it, at least 1.
    """

    input_ids: Tensor
    """sub-tokens, *Shape:* (W, S)."""
    attention_mask: Tensor
    """1 on sub-tokens, 0 on padding, *Shape:* (W, S)."""
    firsts: Tensor
    """positions of the tokens' first sub-tokens in the flattened windows, *Shape:* (N,)."""
    owners: Tensor
    """which of the N tokens each sub-token is a part of; N where of none, *Shape:* (W, S)."""
    words: Tensor
    """rows of the table of word vectors at tokens' first sub-tokens, 0 elsewhere, *Shape:* (W, S)."""
    casing: Tensor
    """how each of the N tokens is written (:mod:`ner.encoder.casing`), float32, *Shape:* (N, FEATURES)."""
    mask: Tensor
    """1 on tokens, 0 on padding, *Shape:* (B, L)."""
    slots: Tensor
    """positions of the tokens in the flattened tweets, *Shape:* (N,)."""
    leading: Tensor
    """the first window of each window's tweet, *Shape:* (W,)."""
    closings: Tensor
    """the position of the special token behind each window's part of the tweet, *Shape:* (W,)."""
    regions: Tensor
    """features of regions of width D, float32, 0 on padding, *Shape:* (W, R, D)."""
    region_mask: Tensor
    """1 on regions, 0 on padding, *Shape:* (W, R)."""
    cells: Tensor
    """each region's place in its own picture's grid, *Shape:* (W, R)."""
    objects: Tensor
    """indices of object labels, NO_OBJECT behind them, *Shape:* (W, N_OBJECTS)."""
    present: Tensor
    """1 where the tweet has a readable picture, *Shape:* (W,)."""


DYNAMIC: Mapping[GraphInput, tuple[str, ...]] = {
    "input_ids": ("windows", "width"),
    "attention_mask": ("windows", "width"),
    "firsts": ("tokens",),
    "owners": ("windows", "width"),
    "words": ("windows", "width"),
    "casing": ("tokens",),
    "mask": ("tweets", "longest"),
    "slots": ("tokens",),
    "leading": ("windows",),
    "closings": ("windows",),
    "regions": ("windows", "most"),
    "region_mask": ("windows", "most"),
    "cells": ("windows", "most"),
    "objects": ("windows",),
    "present": ("windows",),
}
"""The first dimensions of each input by name, which differ from call to call; what follows is fixed."""


def reads_pictures(names: Collection[str]) -> bool:
    """Whether a graph that takes these inputs reads what pictures give."""
    return "present" in names


def parts(view: ViewBatch, names: Collection[str], n_parts: int) -> Iterator[Tensor]:
    """A batch's windows in about so many parts that a graph can read one by one, *Shape:* (n_windows,) each.

    Args:
        view: B tweets.
        names: the graph's inputs, which tell whether the windows of a tweet must stay together.
        n_parts: at most so many.
    """
    n_windows = len(view["tweets"])
    windows = torch.arange(n_windows)
    if not set(_OF_WHOLE_TWEETS) & set(names):
        yield from windows.tensor_split(min(n_parts, n_windows))
        return
    share = -(-n_windows // n_parts)
    begin = 0
    lasts = torch.cat([view["tweets"][1:] != view["tweets"][:-1], torch.tensor([True])]).nonzero().squeeze(1).tolist()
    for last in lasts:
        if last + 1 - begin >= share or last + 1 == n_windows:
            yield windows[begin : last + 1]
            begin = last + 1


def inputs_of(
    view: ViewBatch,
    visual: VisualBatch | None,
    windows: Tensor,
    names: Sequence[GraphInput],
    facts: Mapping[str, Any],
) -> tuple[GraphInputs, Tensor]:
    """A part of a batch as a graph's inputs.

    Args:
        view: B tweets of at most L tokens.
        visual: what their pictures give as tensors; None for the text-only view.
        windows: one of :func:`parts`, *Shape:* (n_windows,).
        names: the graph's inputs.
        facts: the tagger's (:meth:`ner.models.base.TaggerModel.facts_of`).

    Returns:
        the inputs, in the order of `names`.
        True on the tokens that the windows score, in the order of the graph's emissions, *Shape:* (B, L).
    """
    attention_mask = view["attention_mask"][windows]
    width = int(attention_mask.sum(1).max())
    scored = view["mask"] & torch.isin(view["rows"], windows)
    shift = (view["rows"][scored] - windows[0]) * width
    firsts, ends = shift + view["positions"][scored], shift + view["ends"][scored]
    tweets = view["tweets"][windows]
    whole = scored[tweets[0] : tweets[-1] + 1]
    whole = whole[:, : int(whole.sum(1).max())] if whole.any() else whole[:, :1]
    found = GraphInputs(
        input_ids=view["input_ids"][windows, :width],
        attention_mask=attention_mask[:, :width],
        firsts=firsts,
        owners=_owners(firsts, ends, len(windows) * width).view(-1, width),
        mask=whole.long(),
        slots=whole.flatten().nonzero().squeeze(1),
        leading=torch.searchsorted(tweets, tweets),
        closings=view["closings"][windows],
    )
    if "words" in view:
        found["words"] = view["words"][windows, :width]
    if "casing" in view:
        found["casing"] = view["casing"][scored]
    if reads_pictures(names):
        found |= _of_pictures(visual, tweets, facts.get("region_width") or 0)
    return {name: found[name] for name in names}, scored  # type: ignore[return-value]  # keys are not literal


def _owners(firsts: Tensor, ends: Tensor, n_places: int) -> Tensor:
    """Which of N tokens each of so many places is a part of; N where of none, *Shape:* (n_places,)."""
    lengths = ends - firsts
    token = torch.arange(len(firsts)).repeat_interleave(lengths)
    within = torch.arange(len(token)) - (lengths.cumsum(0) - lengths)[token]
    return torch.full((n_places,), len(firsts)).index_copy(0, firsts[token] + within, token)


def _of_pictures(visual: VisualBatch | None, tweets: Tensor, width: int) -> GraphInputs:
    """What the pictures of each window's tweet give; `tweets` of *Shape:* (W,), `width` of a region's features."""
    n_windows = len(tweets)
    none = GraphInputs(
        regions=torch.zeros(n_windows, 1, width),
        region_mask=torch.zeros(n_windows, 1, dtype=torch.long),
        cells=torch.zeros(n_windows, 1, dtype=torch.long),
        objects=torch.full((n_windows, N_OBJECTS), NO_OBJECT),
        present=torch.zeros(n_windows, dtype=torch.long),
    )
    if visual is None:
        return none
    found = GraphInputs(objects=visual["objects"][tweets], present=visual["present"][tweets].long())
    if (most := int(visual["mask"][tweets].sum(1).max())) > 0:
        found["regions"] = visual["regions"][tweets, :most].float()
        found["region_mask"] = visual["mask"][tweets, :most].long()
        found["cells"] = visual["cells"][tweets, :most]
    return {**none, **found}


def mean_by_owner(hidden: Tensor, owners: Tensor, like: Tensor) -> Tensor:
    """The mean of each token's sub-tokens, as :func:`ner.encoder.windows.mean_over_tokens`.

    Args:
        hidden: of T places, *Shape:* (T, width).
        owners: which of N tokens each place is a part of; N where of none, *Shape:* (T,).
        like: of the shape that is wanted, *Shape:* (N, width).

    Returns:
        means, *Shape:* (N, width).
    """
    none = like.new_zeros(1, like.shape[1])
    sums = torch.cat([torch.zeros_like(like), none]).index_add(0, owners, hidden)
    counts = torch.cat([torch.zeros_like(like[:, 0]), none[:, 0]]).index_add(0, owners, torch.ones_like(hidden[:, 0]))
    return sums[:-1] / counts[:-1, None]


def lstm_in_graph(lstm: nn.LSTM, vectors: Tensor, lengths: Tensor) -> Tensor:
    """What a bidirectional LSTM makes of sequences of different lengths: ONNX's operator, which torch cannot run.

    Args:
        lstm: of any number of layers, batch first.
        vectors: *Shape:* (B, L, width).
        lengths: *Shape:* (B,).

    Returns:
        *Shape:* (B, L, 2 · hidden_size).
    """
    size, n_tweets, longest = lstm.hidden_size, vectors.shape[0], vectors.shape[1]
    sequence = vectors.transpose(0, 1)

    def stacked(name: str, layer: int) -> Tensor:
        """A parameter of both directions, whose gates are input, forget, cell, output, in ONNX's order."""
        ways = (getattr(lstm, f"{name}_l{layer}{way}") for way in ("", "_reverse"))
        gates = (way.chunk(4) for way in ways)
        return torch.stack([torch.cat([i, o, f, c]) for i, f, c, o in gates])

    for layer in range(lstm.num_layers):
        bias = torch.cat([stacked("bias_ih", layer), stacked("bias_hh", layer)], 1)
        found = torch.onnx.ops.symbolic(
            "LSTM",
            [sequence, stacked("weight_ih", layer), stacked("weight_hh", layer), bias, lengths.int()],
            {"hidden_size": size, "direction": "bidirectional"},
            dtype=vectors.dtype,
            shape=(longest, 2, n_tweets, size),
        )
        sequence = found.transpose(1, 2).flatten(2)
    return sequence.transpose(0, 1)
