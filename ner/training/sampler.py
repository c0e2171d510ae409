"""Examples, the order in which a training reads them, and their batches.

An order groups examples of similar length and depends on seed and epoch alone. What an encoded view is, is left to
:mod:`ner.views`; what a step does with a batch, to :mod:`ner.training.trainer`.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils.data import Dataset, Sampler

from ner.models.context_target import PostTarget, collate_targets
from ner.models.lessons import PostLesson, collate_lessons
from ner.views import EncodedView, ViewBatch, ViewName, collate
from ner.visual import collate_visuals

Pairs: TypeAlias = Sequence[Mapping[ViewName, EncodedView]]
TrainingViews: TypeAlias = Callable[[Pairs], Pairs]
"""Which views a step reads (:meth:`ner.models.base.TaggerModel.training_views`)."""

_BUCKET_BATCHES = 50  # batches among which examples are sorted by length
_UNLABELLED = 500_000  # what the seeds of the rounds through unlabelled examples begin with, behind those of epochs


@dataclass(frozen=True, slots=True)
class Example:
    """A tweet ready for training.

    Attributes:
        views: encoded, those that the tagger trains on.
        labels: indices of the labels; None where nobody has labelled it, or where it is the relation that is learned.
        lesson: what fixed teachers say of it; None where they say nothing.
        target: what its context says of it, where that is learned.
        relation: 1 where the picture adds to the meaning, 0 where it does not; None where it is the labels that are
            learned.
    """

    views: Mapping[ViewName, EncodedView]
    labels: list[int] | None
    relation: int | None = None
    lesson: PostLesson | None = None
    target: PostTarget | None = None

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
        generator = _generator(self.seed, self.epoch)
        if self.n_apart:
            apart = torch.randperm(self.n_apart, generator=generator).tolist()
            n_missing = -len(apart) % self.batch_size
            yield from self._grouped([*apart, *itertools.islice(itertools.cycle(apart), n_missing)], generator)
        order = torch.randperm(len(self.widths) - self.n_apart, generator=generator) + self.n_apart
        yield from self._grouped(order.tolist(), generator)

    def _grouped(self, order: list[int], generator: torch.Generator) -> Iterator[int]:
        return _grouped(order, self.widths, self.batch_size, generator)


class MixedSampler(Sampler[tuple[int, ...]]):
    """An order of labelled examples as :class:`LengthGroupedSampler`'s, each with unlabelled ones beside it.

    Those of a batch are of similar length among themselves. Unlabelled examples are gone through in rounds, each in an
    order of its own, over the epochs: every one of them is read as often as any other, give or take one. What an epoch
    reads depends on seed and epoch alone.

    Args:
        labelled: the order of the labelled examples, the places from 0.
        widths: of the unlabelled examples, whose places follow those.
        ratio: unlabelled examples per labelled one; the step's number is rounded down where it is no whole one.
    """

    def __init__(self, labelled: LengthGroupedSampler, widths: Sequence[int], ratio: float) -> None:
        self.labelled, self.widths, self.ratio = labelled, widths, ratio
        self._n_labelled = len(labelled.widths) - labelled.n_apart
        self._first = len(labelled.widths)

    def __len__(self) -> int:
        return len(self.labelled)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; called by accelerate's data loader."""
        self.labelled.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        beside = self._beside()
        place = 0  # among the labelled
        for index in self.labelled:
            n_beside = 0
            if index >= self.labelled.n_apart:
                n_beside = self._so_far(place + 1) - self._so_far(place)
                place += 1
            yield index, *itertools.islice(beside, n_beside)

    def _so_far(self, n_labelled: int) -> int:
        """How many unlabelled examples go with so many labelled ones."""
        return int(n_labelled * self.ratio + 1e-6)

    def _beside(self) -> Iterator[int]:
        """Places of the epoch's unlabelled examples."""
        n_all, n_read, epoch, seed = (
            len(self.widths),
            self._so_far(self._n_labelled),
            self.labelled.epoch,
            self.labelled.seed,
        )
        begin = epoch * n_read
        rounds = range(begin // n_all, -(-(begin + n_read) // n_all))
        orders = (torch.randperm(n_all, generator=_generator(seed, _UNLABELLED + each)).tolist() for each in rounds)
        skipped = begin - rounds.start * n_all
        order = list(itertools.islice(itertools.chain.from_iterable(orders), skipped, skipped + n_read))
        a_batch = max(1, self._so_far(self.labelled.batch_size))
        grouped = _grouped(order, self.widths, a_batch, _generator(seed, -1 - epoch))
        return (self._first + place for place in grouped)


class MixedExamples(Dataset[list[Example]]):
    """Examples by the places that :class:`MixedSampler` gives: a labelled one, and the unlabelled ones beside it."""

    def __init__(self, examples: Sequence[Example], n_labelled: int) -> None:
        self.examples, self.n_labelled = examples, n_labelled

    def __len__(self) -> int:
        return self.n_labelled

    def __getitem__(self, places: tuple[int, ...]) -> list[Example]:
        return [self.examples[place] for place in places]


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def _grouped(order: Sequence[int], widths: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterator[int]:
    """The places of `order` in batches of similar width, in which those of a bucket are sorted; the rest comes last."""
    n_whole = len(order) - len(order) % batch_size
    bucket = batch_size * _BUCKET_BATCHES
    batches = []
    for start in range(0, n_whole, bucket):
        alike = sorted(order[start : min(start + bucket, n_whole)], key=widths.__getitem__)
        batches += [alike[place : place + batch_size] for place in range(0, len(alike), batch_size)]
    for place in torch.randperm(len(batches), generator=generator).tolist():
        yield from batches[place]
    yield from order[n_whole:]


def collate_examples(
    examples: Sequence[Example],
    pad_id: int,
    training_views: TrainingViews = list,
) -> dict[str, Any]:
    """Put examples together as a batch.

    Args:
        examples: B tweets of at most L tokens, all of them labelled, or none.
        pad_id: the sub-token to pad with.
        training_views: of examples with both views, which ones this step reads.

    Returns:
        keyword arguments of :meth:`ner.models.base.TaggerModel.forward`: a :class:`ner.views.ViewBatch` for each view;
        where they are labelled, `labels`, 0 on padding, *Shape:* (B, L), or of examples for that, `relation`,
        *Shape:* (B,); where pictures give tensors, `visual`; where fixed teachers say something, `lesson`; where it is
        learned what contexts say, `target`.
    """
    views = [example.views for example in examples]
    if len(views[0]) > 1:
        views = list(training_views(views))
    gold: dict[str, Any] = {}
    if examples[0].relation is not None:
        gold = {"relation": torch.tensor([example.relation for example in examples])}
    elif examples[0].labels is not None:
        labels = [example.labels or [] for example in examples]
        longest = max(map(len, labels))
        gold = {"labels": torch.tensor([[*each, *[0] * (longest - len(each))] for each in labels])}
    lessons = [example.lesson for example in examples if example.lesson is not None]
    if lessons:
        gold["lesson"] = collate_lessons(lessons)
    if targets := [example.target for example in examples if example.target is not None]:
        gold["target"] = collate_targets(targets, [len(next(iter(each.values()))) for each in views])
    batches: dict[str, ViewBatch] = {name: collate([each[name] for each in views], pad_id) for name in views[0]}
    visual = collate_visuals([each["cross_modal"].visual for each in views]) if "cross_modal" in batches else None
    return {**batches, **gold} | ({} if visual is None else {"visual": visual})


def collate_mixed(
    groups: Sequence[Sequence[Example]],
    pad_id: int,
    training_views: TrainingViews = list,
) -> dict[str, Any]:
    """Put labelled examples, and the unlabelled ones beside them, together as a batch.

    Args:
        groups: what :class:`MixedExamples` gives.
        pad_id: the sub-token to pad with.
        training_views: as of :func:`collate_examples`.

    Returns:
        what :func:`collate_examples` makes of the labelled ones; and where there are others, `unlabelled`, what it
        makes of those.
    """
    batch = collate_examples([group[0] for group in groups], pad_id, training_views)
    if unlabelled := [example for group in groups for example in group[1:]]:
        batch["unlabelled"] = collate_examples(unlabelled, pad_id, training_views)
    return batch
