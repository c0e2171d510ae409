"""Examples, the order in which a training reads them, and their batches.

An order groups examples of similar length and depends on seed and epoch alone. What an encoded view is, is left to
:mod:`ner.views`; what a step does with a batch, to :mod:`ner.training.trainer`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from ner.views import EncodedView, ViewBatch, ViewName, collate
from ner.visual import collate_visuals

_BUCKET_BATCHES = 50  # batches among which examples are sorted by length


@dataclass(frozen=True, slots=True)
class Example:
    """A tweet ready for training: its encoded views (those the tagger trains on) and label indices."""

    views: Mapping[ViewName, EncodedView]
    labels: list[int]

    @property
    def width(self) -> int:
        """Sub-tokens of all views together: what the example costs."""
        return sum(view.width for view in self.views.values())


class LengthGroupedSampler(Sampler[int]):
    """An order of the examples, another one each epoch, in which each batch has examples of similar length.

    The order depends on seed and epoch alone, so a resumed training reads the same batches. Only the epoch's last batch
    may be smaller than the others.
    """

    def __init__(self, widths: Sequence[int], batch_size: int, seed: int) -> None:
        self.widths, self.batch_size, self.seed, self.epoch = widths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.widths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; called by accelerate's data loader."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.widths), generator=generator).tolist()
        n_whole = len(order) - len(order) % self.batch_size
        bucket = self.batch_size * _BUCKET_BATCHES
        batches = []
        for start in range(0, n_whole, bucket):
            alike = sorted(order[start : min(start + bucket, n_whole)], key=self.widths.__getitem__)
            batches += [alike[place : place + self.batch_size] for place in range(0, len(alike), self.batch_size)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
        yield from order[n_whole:]


def collate_examples(
    examples: Sequence[Example],
    pad_id: int,
    training_views: Callable[
        [Sequence[Mapping[ViewName, EncodedView]]], Sequence[Mapping[ViewName, EncodedView]]
    ] = list,
) -> dict[str, Any]:
    """Put examples together as a batch.

    Args:
        examples: B tweets of at most L tokens.
        pad_id: the sub-token to pad with.
        training_views: which views this step reads (:meth:`ner.models.base.TaggerModel.training_views`).

    Returns:
        keyword arguments of :meth:`ner.models.base.TaggerModel.forward`: a :class:`ner.views.ViewBatch` for each view;
        `labels`, 0 on padding, *Shape:* (B, L); and where pictures give tensors, `visual`.
    """
    views = training_views([example.views for example in examples])
    longest = max(len(example.labels) for example in examples)
    labels = torch.tensor([[*example.labels, *[0] * (longest - len(example.labels))] for example in examples])
    batches: dict[str, ViewBatch] = {name: collate([each[name] for each in views], pad_id) for name in views[0]}
    visual = collate_visuals([each["cross_modal"].visual for each in views]) if "cross_modal" in batches else None
    return {**batches, "labels": labels} | ({} if visual is None else {"visual": visual})
