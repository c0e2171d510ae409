"""Emissions and best paths of many views, and the device that they are computed on.

Training's dev scores and prediction both decode here. Entities and confidences are left to :mod:`ner.tagger`.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from ner.bioes import to_iob2
from ner.crf.chain import LinearChainCRF
from ner.models.config import TaggerConfig
from ner.views import EncodedView, FurtherWords, ViewBatch, collate, length_sorted_batches, moved
from ner.visual import VisualBatch, collate_visuals
from pipeline.core.errors import UserError

DECODED_TOGETHER = 8  # at most so many of the encoder's batches go through the CRF at once,
MOST_DECODED_TOKENS = 65_536  # of at most so many tokens, padding included: one very long post takes no others along


class Scorer(Protocol):
    """What decoding needs of a tagger, whichever engine computes its emissions."""

    labels: list[str]
    """BIOES or IOB2, in the order of the emissions."""
    crf: LinearChainCRF
    config: TaggerConfig
    reads_visual: bool
    """Whether :meth:`emissions` takes what pictures give as tensors."""

    @property
    def device(self) -> torch.device:
        """Where views are to be."""

    def emissions(self, view: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        """Label scores of every token, *Shape:* (B, L, n_labels)."""

    @property
    def asks_relation(self) -> bool:
        """Whether there is a :meth:`relation`."""

    def further_words(self, file: Path) -> FurtherWords:
        """A function that takes in vectors of further words, as :meth:`ner.models.base.TaggerModel.further_words`."""

    def relation(self, view: ViewBatch, visual: VisualBatch | None) -> Tensor:
        """How likely pictures add to the tweets' meaning, NaN without any, *Shape:* (B,)."""

    def grid_attention(self, view: ViewBatch, visual: VisualBatch) -> Tensor | None:
        """How much tokens attend to the R regions of pictures, *Shape:* (B, L, R); None: to none."""


def decode(
    model: Scorer,
    encoded: Sequence[EncodedView],
    pad_id: int,
    batch_size: int,
    *,
    bfloat16: bool = False,
    done: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
    """The best paths of all views, up to DECODED_TOGETHER batches of the encoder at a time.

    Decoding costs a few small operations per position, whatever the size of the batch, so batches are collected; they
    are padded to the longest, so that what they take together is bounded (MOST_DECODED_TOKENS).

    Args:
        model: the tagger.
        encoded: views as sub-tokens.
        pad_id: the sub-token to pad with.
        batch_size: encoder windows at once.
        bfloat16: whether the encoder computes in bfloat16.
        done: is told how many views the encoder has just read.

    Yields:
        B views' indices in `encoded`;
        their best paths, indices into the model's labels, *Shape:* (B, L);
        their emissions, *Shape:* (B, L, n_labels);
        True on tokens, *Shape:* (B, L).
    """
    device = model.device
    for some in _collected(encoded, length_sorted_batches(encoded, batch_size)):
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
            emitted, masks = [], []
            for indices in some:
                batch, visual = _together([encoded[index] for index in indices], pad_id, device)
                emitted.append(model.emissions(batch, visual))
                masks.append(batch["mask"])
                done(len(indices))
            longest = max(mask.shape[1] for mask in masks)
            emissions = torch.cat([pad(each, (0, 0, 0, longest - each.shape[1])) for each in emitted])
            mask = torch.cat([pad(each, (0, longest - each.shape[1])) for each in masks])
            paths, _ = model.crf.viterbi(emissions, mask)
        yield list(itertools.chain.from_iterable(some)), paths, emissions, mask


def _collected(encoded: Sequence[EncodedView], batches: Iterable[list[int]]) -> Iterator[list[list[int]]]:
    """Batches that go through the CRF together, as many as DECODED_TOGETHER and MOST_DECODED_TOKENS allow."""
    some: list[list[int]] = []
    n_views = longest = 0
    for batch in batches:
        longest = max(longest, max(len(encoded[index]) for index in batch))
        n_views += len(batch)
        if some and (len(some) == DECODED_TOGETHER or n_views * longest > MOST_DECODED_TOKENS):
            yield some
            some, n_views, longest = [], len(batch), max(len(encoded[index]) for index in batch)
        some.append(batch)
    if some:
        yield some


def relations(model: Scorer, encoded: Sequence[EncodedView], pad_id: int, batch_size: int) -> list[float | None]:
    """How likely each view's pictures add to its meaning; None without a picture, and where the tagger does not ask."""
    found: list[float | None] = [None] * len(encoded)
    if not model.asks_relation:
        return found
    for indices, batch, visual in batches(encoded, pad_id, batch_size, model.device):
        with torch.inference_mode():
            values = model.relation(batch, visual)
        for index, value in zip(indices, values.tolist(), strict=True):
            found[index] = None if math.isnan(value) else value
    return found


def attention(
    model: Scorer, encoded: Sequence[EncodedView], tokens: Sequence[Sequence[int]], pad_id: int, batch_size: int
) -> list[Tensor | None]:
    """How much each view's tokens attend to each region of its pictures.

    Args:
        model: the tagger.
        encoded: views as sub-tokens.
        tokens: of each view, those whose mean is taken; all, where there are none.
        pad_id: the sub-token to pad with.
        batch_size: encoder windows at once.

    Returns:
        for each view, a weight for each region, *Shape:* (regions,); None without regions, and where the tagger
        attends to none.
    """
    found: list[Tensor | None] = [None] * len(encoded)
    pictured = [index for index, view in enumerate(encoded) if view.visual is not None]
    for places, batch, visual in batches([encoded[index] for index in pictured], pad_id, batch_size, model.device):
        assert visual is not None, "each has a picture"
        with torch.inference_mode():
            values = model.grid_attention(batch, visual)
        if values is None:
            break
        for row, (place, n_regions) in enumerate(zip(places, visual["mask"].sum(1).tolist(), strict=True)):
            index = pictured[place]
            if n_regions:
                chosen = values[row, list(tokens[index]) or slice(len(encoded[index])), :n_regions]
                found[index] = chosen.float().mean(0).cpu()
    return found


def batches(
    encoded: Sequence[EncodedView], pad_id: int, batch_size: int, device: torch.device
) -> Iterator[tuple[list[int], ViewBatch, VisualBatch | None]]:
    """Views in batches of at most so many windows, with their indices in `encoded`, and what their pictures give."""
    for indices in length_sorted_batches(encoded, batch_size):
        yield indices, *_together([encoded[index] for index in indices], pad_id, device)


def _together(views: Sequence[EncodedView], pad_id: int, device: torch.device) -> tuple[ViewBatch, VisualBatch | None]:
    visual = collate_visuals([view.visual for view in views])
    return moved(collate(views, pad_id), device), None if visual is None else moved(visual, device)


def decode_labels(
    model: Scorer, encoded: Sequence[EncodedView], pad_id: int, batch_size: int, *, bfloat16: bool = False
) -> list[list[str]]:
    """The best IOB2 labels of every view, in order."""
    predicted: list[list[str]] = [[] for _ in encoded]
    for indices, paths, _, _ in decode(model, encoded, pad_id, batch_size, bfloat16=bfloat16):
        for index, path in zip(indices, paths.tolist(), strict=True):
            predicted[index] = to_iob2([model.labels[label] for label in path[: len(encoded[index])]])
    return predicted


def choose_device(device: str) -> torch.device:
    """``auto`` is the first GPU where there is one, else the CPU; of a GPU, its index comes with it.

    Raises:
        UserError: torch does not know the device, this machine has none of its kind, or it cannot run a tagger.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("mps"):
        raise UserError(f"execution.device: {device!r} has no float64, in which the CRF computes; use cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):  # torch built without CUDA asserts
        raise UserError(f"execution.device: {device!r} is not available here; use auto or cpu") from None
