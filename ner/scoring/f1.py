"""Precision, recall and F1 of entities, per type and micro-averaged, under two named readings of the labels.

`conlleval` opens an entity at an orphan ``I-``, as the CoNLL script does; `strict` takes it for no entity. They differ
by most of a point on Twitter-2015, so every figure carries its reading's name. Files and the command line
(``python -m ner.scoring``) are left to :mod:`ner.scoring.comparison`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.labels import Reading, entities
from pipeline.core.records import Score, Scores

READINGS: tuple[Reading, ...] = ("conlleval", "strict")
MICRO = "micro"
SAMPLES, CONFIDENCE, SEED = 1000, 0.95, 1
"""Of a bootstrap, unless told otherwise: the defaults of `evaluate`, so that the same files give the same intervals."""
_BLOCK = 1000  # bootstrap samples computed at once


def score(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    *,
    bootstrap_samples: int = 0,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> Scores:
    """Score predicted IOB2 labels against gold ones.

    An entity counts as right when type, first and last token all are.

    Args:
        gold, predicted: one label sequence a post, of equal lengths.
        bootstrap_samples: how many times posts are drawn with replacement for the confidence interval of F1
            (percentile bootstrap, Efron 1979); 0 gives no interval.
        confidence: the share of resampled F1 values that the interval holds.
        seed: of the resampling.

    Returns:
        ``{"conlleval" | "strict": {"micro" | type: {"precision", "recall", "f1", "support", "f1_ci"}}}``, fractions
        of 1; `support` counts gold entities, `f1_ci` is [low, high] or None.

    Raises:
        ValueError: the numbers of posts or of a post's labels differ.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} posts of gold labels, {len(predicted)} of predicted ones")
    for index, (one, other) in enumerate(zip(gold, predicted, strict=True)):
        if len(one) != len(other):
            raise ValueError(f"post {index}: {len(one)} gold labels, {len(other)} predicted ones")
    return {
        reading: _score(*count(gold, predicted, reading), bootstrap_samples, confidence, seed) for reading in READINGS
    }


def count(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], reading: Reading
) -> tuple[list[str], NDArray[np.int64]]:
    """Count entities.

    Args:
        gold: IOB2 labels per post.
        predicted: IOB2 labels per post.
        reading: what an orphan ``I-`` means.

    Returns:
        the types.
        numbers of right, predicted and gold entities, *Shape:* (n_posts, n_types, 3).
    """
    pairs = [
        (set(entities(one, reading)), set(entities(other, reading))) for one, other in zip(gold, predicted, strict=True)
    ]
    types = sorted({entity.type for pair in pairs for found in pair for entity in found})
    column = {name: index for index, name in enumerate(types)}
    counts = np.zeros((len(pairs), len(types), 3), dtype=np.int64)
    for post, (wanted, found) in enumerate(pairs):
        for kind, some in enumerate((wanted & found, found, wanted)):
            for entity in some:
                counts[post, column[entity.type], kind] += 1
    return types, counts


def confusion(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """(gold type, predicted type) of every span that either side names, read as conlleval does; "none" for a side
    that names nothing there."""
    pairs = []
    for one, other in zip(gold, predicted, strict=True):
        wanted, found = (
            {(start, end): kind for start, end, kind in entities(labels, "conlleval")} for labels in (one, other)
        )
        pairs += [(wanted.get(span, "none"), found.get(span, "none")) for span in sorted(wanted | found)]
    return pairs


def _score(types: list[str], counts: NDArray[np.int64], samples: int, confidence: float, seed: int) -> dict[str, Score]:
    counts = np.concatenate([counts.sum(1, keepdims=True), counts], axis=1)  # micro first
    return rows([MICRO, *types], counts, samples, confidence, seed)


def rows(
    names: Sequence[str], counts: NDArray[np.int64], samples: int, confidence: float, seed: int
) -> dict[str, Score]:
    """Scores of groups of entities.

    Args:
        names: of the groups.
        counts: numbers of right, predicted and gold entities, *Shape:* (n_posts, n_groups, 3).
        samples, confidence, seed: of the intervals, as of :func:`score`.

    Returns:
        ``{name: {"precision", "recall", "f1", "support", "f1_ci"}}``
    """
    right, found, wanted = np.moveaxis(counts.sum(0), -1, 0)
    precision, recall = _ratio(right, found), _ratio(right, wanted)
    f1 = f1_of(right, found, wanted)
    intervals = bootstrap(counts, samples, confidence, seed) if samples and len(counts) else None
    return {
        name: {
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "support": int(wanted[index]),
            "f1_ci": None if intervals is None else [float(bound) for bound in intervals[:, index]],
        }
        for index, name in enumerate(names)
    }


def bootstrap(counts: NDArray[np.int64], samples: int, confidence: float, seed: int) -> NDArray[np.float64]:
    """Confidence bounds of F1.

    Args:
        counts: numbers of right, predicted and gold entities, *Shape:* (n_posts, n_columns, 3).
        samples: how many draws.
        confidence: the share of resampled values between the bounds.
        seed: of the draws.

    Returns:
        low and high bounds, *Shape:* (2, n_columns).
    """
    return interval(np.concatenate(list(resampled_f1(counts, samples, seed))), confidence)


def resampled_f1(counts: NDArray[np.int64], samples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """F1 of draws of the posts with replacement; columns share their draws.

    A draw of n posts weights each by how often it was drawn, so that all draws are one product of matrices.

    Args:
        counts: numbers of right, predicted and gold entities, *Shape:* (n_posts, n_columns, 3).
        samples: how many draws.
        seed: of the draws.

    Yields:
        F1 of a block of draws, *Shape:* (n_draws, n_columns).
    """
    rng = np.random.default_rng(seed)
    posts = len(counts)
    flat = counts.reshape(posts, -1).astype(np.float64)
    for done in range(0, samples, _BLOCK):
        drawn = rng.integers(posts, size=(min(_BLOCK, samples - done), posts))
        offsets = np.arange(len(drawn))[:, None] * posts
        weights = np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * posts).reshape(len(drawn), posts)
        totals = (weights.astype(np.float64) @ flat).reshape(len(drawn), *counts.shape[1:])
        yield f1_of(*np.moveaxis(totals, -1, 0))


def interval(values: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """Bounds around the middle share of resampled values.

    Args:
        values: *Shape:* (n_draws, …).
        confidence: that share.

    Returns:
        low and high bounds, *Shape:* (2, …).
    """
    tail = (1 - confidence) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(np.shape(part), dtype=np.float64), where=whole > 0)


def f1_of(right: NDArray[Any], found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.float64]:
    """F1 from numbers of right, predicted and gold entities, 0 where there are none."""
    return _ratio(2 * right, found + wanted)
