"""The scoring command: CoNLL-like files scored against gold, and two systems tested against each other.

Beside the two readings of :mod:`ner.scoring.f1`, which alone stand in the metrics file, it gives nervaluate's
two lenient measures; whether one system beats another by more than chance, a paired bootstrap over posts and a
permutation test over seeds say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nervaluate import Evaluator
from numpy.typing import NDArray

from ner.scoring.f1 import CONFIDENCE, MICRO, READINGS, SAMPLES, SEED, count, f1_of, interval, resampled_f1
from pipeline.core.labels import Reading, entities
from pipeline.core.records import Score, Scores

Labels = Sequence[Sequence[str]]
# Our names of nervaluate's measures, so that nobody takes their figures for F1 of whole entities.
OVERLAP_MEASURES = {"nervaluate_partial": "partial", "nervaluate_type": "ent_type"}
MOST_SEEDS = 20
"""Of the test over seeds, which goes through all 2ⁿ choices of signs."""
OVERLAP_GLOSSES = {
    "nervaluate_partial": "borders alone, by SemEval-2013: an entity that overlaps a gold one counts half, whole where "
    "both borders are right",
    "nervaluate_type": "types alone, by SemEval-2013: an entity that overlaps a gold one of its type counts",
}


def overlap_scores(gold: Labels, predicted: Labels) -> Scores:
    """nervaluate's partial and type measures (SemEval-2013 task 9.1), orphan ``I-`` read as conlleval does.

    `nervaluate_partial`: types do not count, an entity that overlaps a gold one counts half, whole if its borders are
    right. `nervaluate_type`: an entity that overlaps a gold one of its type counts.

    Returns:
        ``{measure: {"micro" | type: {"precision", "recall", "f1", "support", "f1_ci": None}}}``; `support` counts gold
        entities. The rows of types compare the entities of that type alone.
    """
    sides: list[list[list[dict[str, Any]]]] = [
        [
            [{"label": kind, "start": start, "end": end - 1} for start, end, kind in entities(labels, "conlleval")]
            for labels in side
        ]
        for side in (gold, predicted)
    ]
    types = sorted({entity["label"] for side in sides for post in side for entity in post})
    found = Evaluator(*sides, tags=types, loader="dict").evaluate()
    support = {name: sum(entity["label"] == name for post in sides[0] for entity in post) for name in types}

    def row(result: Any, n_gold: int) -> Score:
        precision, recall, f1 = (float(getattr(result, key, 0.0)) for key in ("precision", "recall", "f1"))
        return {"precision": precision, "recall": recall, "f1": f1, "support": n_gold, "f1_ci": None}

    return {
        ours: {
            MICRO: row(found["overall"].get(theirs), sum(support.values())),
            **{name: row(found["entities"][name][theirs], support[name]) for name in types},
        }
        for ours, theirs in OVERLAP_MEASURES.items()
    }


def compare(
    gold: Labels,
    one: Labels,
    other: Labels,
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> dict[str, dict[str, Any]]:
    """:func:`compare_runs` of two systems that were trained once each."""
    return compare_runs(gold, [one], [other], samples=samples, confidence=confidence, seed=seed)


def compare_runs(
    gold: Labels,
    ones: Sequence[Labels],
    others: Sequence[Labels],
    *,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> dict[str, dict[str, Any]]:
    """:func:`compare_drawn` of two systems by their runs' labels, under both readings.

    Args:
        gold: IOB2 labels of the posts.
        ones, others: of each system, what each of its runs made of the same posts.
        samples: draws; at least 1.
        confidence: the share of the draws' differences that the interval holds.
        seed: of the draws.

    Returns:
        ``{"conlleval" | "strict": {"difference", "difference_ci", "p_value"}}``
    """
    results: dict[str, dict[str, Any]] = {}
    for reading in READINGS:
        one, other = ([RunScore.of(gold, run, reading, samples, seed) for run in runs] for runs in (ones, others))
        results[reading] = compare_drawn(one, other, confidence)
    return results


@dataclass(frozen=True, slots=True, eq=False)
class RunScore:
    """What a run of a system scores.

    Attributes:
        f1: micro-F1, a fraction of 1.
        drawn: likewise of each draw of a bootstrap, *Shape:* (samples,). Runs on the same posts share their draws, as
            these depend on the number of posts and the seed alone.
    """

    f1: float
    drawn: NDArray[np.float64]

    @classmethod
    def of(cls, gold: Labels, predicted: Labels, reading: Reading, samples: int, seed: int) -> "RunScore":
        """That of labels of posts; `samples` may be 0."""
        counts = count(gold, predicted, reading)[1].sum(1, keepdims=True)  # (n_posts, 1, 3)
        drawn = [np.zeros((0, 1)), *resampled_f1(counts, samples, seed)]
        return cls(float(f1_of(*counts.sum((0, 1)))), np.concatenate(drawn)[:, 0])


def compare_drawn(
    ones: Sequence[RunScore], others: Sequence[RunScore], confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """Test whether two systems' micro-F1 differ by more than the choice of posts explains.

    A system's score is the mean of its runs' (seeds') F1. How much the runs themselves vary is not part of the test:
    that is :func:`sign_flip`'s to say.

    Paired bootstrap (Berg-Kirkpatrick, Burkett and Klein 2012, "An empirical investigation of statistical significance
    in NLP", section 2). What is drawn, with replacement, is posts: a draw has the same posts in every run of both
    systems, and its statistic is the difference of the systems' mean F1. The p-value is the share of draws in which the
    difference is at least twice the one found, in its direction, the found one counted among them so that it is never
    0: one-sided, for the system that scored better. Two systems that score alike give 1.

    Args:
        ones, others: the runs of each system, of the same draws; one at least.
        confidence: the share of the draws' differences that the interval holds.

    Returns:
        ``{"difference": mean F1 of others - that of ones, "difference_ci": [low, high], "p_value"}``
    """
    difference = float(np.mean([run.f1 for run in others]) - np.mean([run.f1 for run in ones]))
    drawn = np.mean([run.drawn for run in others], 0) - np.mean([run.drawn for run in ones], 0)
    # Equality must count whatever rounding did to it, hence the hair's breadth.
    beyond = int((np.copysign(1.0, difference) * drawn >= 2 * abs(difference) - 1e-12).sum())
    return {
        "difference": difference,
        "difference_ci": [float(bound) for bound in interval(drawn, confidence)],
        "p_value": (beyond + 1) / (len(drawn) + 1) if abs(difference) > 1e-12 else 1.0,
    }


def sign_flip(differences: Sequence[float]) -> float:
    """Test whether two systems differ by more than the choice of seeds explains.

    Exact permutation test (Fisher 1935, "The design of experiments", section 21; for NLP, Dror et al., ACL 2018, "The
    hitchhiker's guide to testing statistical significance in natural language processing"): if the systems were alike,
    each seed's difference might as well have had the other sign. The p-value is the share of all 2ⁿ choices of signs
    whose sum is as far from 0 as the found one, or farther: two-sided, at least 2 / 2ⁿ, thus 0.25 of three seeds and
    0.0625 of five.

    Args:
        differences: of the systems' scores, one a seed; n of them, at most :data:`MOST_SEEDS`.
    """
    if not 0 < len(differences) <= MOST_SEEDS:
        raise ValueError(f"{len(differences)} differences; expected 1 to {MOST_SEEDS}")
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    return float((np.abs(sums) >= abs(sum(differences)) - 1e-9 * max(map(abs, differences))).mean())
