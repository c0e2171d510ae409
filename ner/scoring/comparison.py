"""The scoring command: CoNLL-like files scored against gold, and two systems tested against each other.

Beside the two readings of :mod:`ner.scoring.f1`, which alone stand in the metrics file, it gives nervaluate's
two lenient measures; whether one system beats another by more than chance is a paired bootstrap's to say.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from nervaluate import Evaluator

from ner.scoring.f1 import MICRO, READINGS, count, interval, resampled_f1
from pipeline.core.labels import entities
from pipeline.core.records import Score, Scores

Labels = Sequence[Sequence[str]]
# Our names of nervaluate's measures, so that nobody takes their figures for F1 of whole entities.
OVERLAP_MEASURES = {"nervaluate_partial": "partial", "nervaluate_type": "ent_type"}


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
    gold: Labels, one: Labels, other: Labels, *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """:func:`compare_runs` of two systems that were trained once each."""
    return compare_runs(gold, [one], [other], samples=samples, confidence=confidence, seed=seed)


def compare_runs(
    gold: Labels,
    ones: Sequence[Labels],
    others: Sequence[Labels],
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Test whether two systems' micro-F1 differ by more than the choice of posts explains.

    A system's F1 is over the posts of all its runs (seeds); a draw of a post draws it in every run. How much the runs
    themselves vary is not part of the test: their spread says that.

    Paired bootstrap (Berg-Kirkpatrick, Burkett and Klein 2012, "An empirical investigation of statistical significance
    in NLP", section 2): the same draws of posts, with replacement, score both systems. The p-value is the share of
    draws in which the difference is at least twice the one found, in its direction, the found one counted among them
    so that it is never 0: one-sided, for the system that scored better. Two systems that score alike give 1.

    Args:
        gold: IOB2 labels of the posts.
        ones, others: of each system, what each of its runs made of the same posts.
        samples: draws; at least 1.

    Returns:
        ``{"conlleval" | "strict": {"difference": F1 of other - F1 of one, "difference_ci": [low, high], "p_value"}}``
    """
    results: dict[str, dict[str, Any]] = {}
    for reading in READINGS:
        counts = np.stack(
            [sum(count(gold, run, reading)[1].sum(1) for run in runs) for runs in (ones, others)], axis=1
        )  # (n_posts, 2, 3)
        right, found, wanted = np.moveaxis(counts.sum(0), -1, 0)
        difference = float(np.diff(2 * right / np.maximum(found + wanted, 1))[0])
        drawn = np.diff(np.concatenate(list(resampled_f1(counts, samples, seed))), axis=1)[:, 0]
        # Equality must count whatever rounding did to it, hence the hair's breadth.
        beyond = int((np.copysign(1.0, difference) * drawn >= 2 * abs(difference) - 1e-12).sum())
        results[reading] = {
            "difference": difference,
            "difference_ci": [float(bound) for bound in interval(drawn, confidence)],
            "p_value": (beyond + 1) / (samples + 1) if difference else 1.0,
        }
    return results
