"""Examples, the order in which a training reads them, and their batches.

An order groups examples of similar length and depends on seed and epoch alone. What an encoded view is, is left to
:mod:`ner.views`; what a step does with a batch, to :mod:`ner.training.trainer`.
"""

import itertools
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
    """A tweet ready for training.

    Attributes:
        views: encoded, those that the tagger trains on.
        labels: indices of the labels; none where it is the relation that is learned.
        relation: 1 where the picture adds to the meaning, 0 where it does not; None where it is the labels that are
            learned.
    """

    views: Mapping[ViewName, EncodedView]
    labels: list[int]
    relation: int | None = None

    @property
    def width(self) -> int:
        """Sub-tokens of all views together: what the example costs."""
        return sum(view.width for view in self.views.values())


class LengthGroupedSampler(Sampler[int]):
    """An order of the examples, another one each epoch, in which each batch has examples of similar length.

    The order depends on seed and epoch alone, so a resumed training reads the same batches. Only the epoch's last batch
    may be smaller than the others.

    Args:
        widths: of the examples.
        batch_size: of a step.
        seed: of the order.
        n_apart: so many of the first examples make batches of their own, which come before the others; some are read
            twice where they would not fill the last of those.
    """

    def __init__(self, widths: Sequence[int], batch_size: int, seed: int, n_apart: int = 0) -> None:
        self.widths, self.batch_size, self.seed, self.epoch, self.n_apart = widths, batch_size, seed, 0, n_apart

    def __len__(self) -> int:
        return len(self.widths) + -self.n_apart % self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; called by accelerate's data loader."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.n_apart:
            apart = torch.randperm(self.n_apart, generator=generator).tolist()
            n_missing = -len(apart) % self.batch_size
            yield from self._grouped([*apart, *itertools.islice(itertools.cycle(apart), n_missing)], generator)
        order = torch.randperm(len(self.widths) - self.n_apart, generator=generator) + self.n_apart
        yield from self._grouped(order.tolist(), generator)

    def _grouped(self, order: list[int], generator: torch.Generator) -> Iterator[int]:
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
        `labels`, 0 on padding, *Shape:* (B, L), or of examples for that, `relation`, *Shape:* (B,); and where pictures
        give tensors, `visual`.
    """
    views = training_views([example.views for example in examples])
    longest = max(len(example.labels) for example in examples)
    if examples[0].relation is not None:
        gold = {"relation": torch.tensor([example.relation for example in examples])}
    else:
        padded = [[*example.labels, *[0] * (longest - len(example.labels))] for example in examples]
        gold = {"labels": torch.tensor(padded)}
    batches: dict[str, ViewBatch] = {name: collate([each[name] for each in views], pad_id) for name in views[0]}
    visual = collate_visuals([each["cross_modal"].visual for each in views]) if "cross_modal" in batches else None
    return {**batches, **gold} | ({} if visual is None else {"visual": visual})
