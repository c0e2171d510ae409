"""Scores by split, condition and scorer as rows of tables, with what differs by more than chance; and confusion.

The figures are :mod:`ner.scoring.f1`'s, read from metrics/evaluation.json; differences between conditions are
tested here by :mod:`ner.scoring.comparison`'s paired bootstrap, as nobody else needs them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ner.scoring.comparison import compare
from ner.scoring.f1 import MICRO
from ner.scoring.surface import SEEN, UNSEEN
from pipeline.core.labels import Reading
from pipeline.core.records import Analysis
from pipeline.settings.params import Condition, EvaluateParams, Split
from reporting.sources import Results

_READINGS: tuple[Reading, ...] = ("strict", "conlleval")
NAMES: dict[Condition, str] = {
    "cross_modal": "cross-modal",
    "text_only": "text-only",
    "shuffled": "shuffled",
    "noised": "noised",
    "missing": "missing",
}
_USUAL = ("PER", "LOC", "ORG", "MISC", "OTHER")
NOTHING = "none"  # the row or column of spans that one side does not name, as the confusion files call it


def glosses(settings: EvaluateParams) -> dict[Condition, str]:
    """What each condition is."""
    return {
        "cross_modal": "the tweet with its own picture and context",
        "text_only": "the tweet alone",
        "shuffled": "the tweet with another tweet's picture and context",
        "noised": f"{100 * settings.noised_share:g} % of the tweets with another tweet's picture and context",
        "missing": f"{100 * settings.missing_share:g} % of the tweets without picture and context",
    }


@dataclass(frozen=True)
class ScoreRow:
    """One condition under one scorer: precision, recall and F1 with its interval, over all types and for each."""

    condition: Condition
    reading: Reading
    micro: Mapping[str, Any]
    types: list[Mapping[str, Any] | None]


@dataclass(frozen=True)
class FormRow:
    """One condition under one scorer: scores of entities that training has with their type, and of others."""

    condition: Condition
    reading: Reading
    seen: Mapping[str, Any]
    unseen: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """F1 of one condition less that of another, as fractions of 1."""

    one: Condition
    other: Condition
    reading: Reading
    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Matrix:
    """How often gold type (row) was predicted as type (column); shades are tenths of a row's total."""

    condition: Condition
    names: list[str]
    counts: list[list[int]]
    shades: list[list[int]]


@dataclass(frozen=True)
class SplitScores:
    """All figures of one split; `rows` is empty where nothing could be scored, and `why` says so.

    `forms` is empty where training has no entities.
    `alike`: both scorers give the same figures, as without orphan `I-`, so that they stand once, as strict's.
    """

    split: Split
    why: str | None
    alike: bool
    types: list[str]
    rows: list[ScoreRow]
    forms: list[FormRow]
    differences: list[Difference]
    confusion: list[Matrix]
    analyses: dict[Condition, Analysis]


def entity_types(results: Results) -> list[str]:
    """Every type that is gold or predicted anywhere: those of tweets in their usual order, then by frequency."""
    counts: Counter[str] = Counter()
    for split in results.report["splits"].values():
        counts.update({name: n for name, n in split["entities"]["conlleval"].items() if name != "total"})
    for conditions in results.predictions.values():
        for predicted in conditions.values():
            counts.update({entity.type: 0 for row in predicted.rows.values() for entity in row.entities})
    return sorted(counts, key=lambda name: (_USUAL.index(name) if name in _USUAL else len(_USUAL), -counts[name], name))


def score_splits(results: Results, types: Sequence[str]) -> list[SplitScores]:
    """The figures of test, then dev."""
    splits: tuple[Split, Split] = ("test", "dev")
    return [_score_split(results, split, list(types)) for split in splits]


def _score_split(results: Results, split: Split, types: list[str]) -> SplitScores:
    scores = results.scores.get(split, {})
    conditions = [name for name in results.settings.evaluate.conditions if name in scores]
    shown = [
        name
        for name in types
        if any(name in scores[condition][reading] for condition in conditions for reading in _READINGS)
    ]
    alike = all(scores[condition]["strict"] == scores[condition]["conlleval"] for condition in conditions)
    readings = _READINGS[:1] if alike else _READINGS
    rows = [
        ScoreRow(
            condition,
            reading,
            scores[condition][reading][MICRO],
            [scores[condition][reading].get(name) for name in shown],
        )
        for reading in readings
        for condition in conditions
    ]
    predicted = results.predictions.get(split, {})
    return SplitScores(
        split,
        None if rows else _why_not(results, split),
        alike,
        shown,
        rows,
        [
            FormRow(condition, reading, scores[condition][reading][SEEN], scores[condition][reading][UNSEEN])
            for reading in readings
            for condition in conditions
            if SEEN in scores[condition][reading]
        ],
        [row for row in _differences(results, split) if row.reading in readings] if rows else [],
        [
            _matrix(condition, predicted[condition].confusion, types)
            for condition in conditions
            if condition in predicted and predicted[condition].confusion
        ],
        {
            condition: results.analyses["splits"][split][condition]
            for condition in conditions
            if condition in results.analyses["splits"].get(split, {})
        },
    )


def _why_not(results: Results, split: Split) -> str:
    posts = results.posts[split]
    if not posts:
        return "The split has no posts."
    unlabelled = sum(post.labels is None for post in posts)
    if unlabelled:
        return f"{unlabelled:,} of {len(posts):,} posts have no labels to score against" + (
            "; their predictions are shown among the posts." if results.predictions.get(split) else "."
        )
    return "The run has not scored it."


def _differences(results: Results, split: Split) -> list[Difference]:
    """What the picture is worth, and what a wrong one costs: each against cross-modal, by the same posts."""
    settings, predicted = results.settings.evaluate, results.predictions.get(split, {})
    if not settings.bootstrap_samples or "cross_modal" not in predicted:
        return []
    rows = list(predicted["cross_modal"].rows.values())
    if any(row.labels is None for row in rows):
        return []
    found: list[Difference] = []
    for other in NAMES:
        if other == "cross_modal" or other not in predicted:
            continue
        pairs = compare(
            [row.labels or [] for row in rows],
            [predicted[other].rows[row.id].predicted for row in rows],
            [row.predicted for row in rows],
            samples=settings.bootstrap_samples,
            confidence=settings.confidence,
            seed=settings.bootstrap_seed,
        )
        for reading in _READINGS:
            pair = pairs[reading]
            low, high = pair["difference_ci"]
            found.append(Difference("cross_modal", other, reading, pair["difference"], low, high, pair["p_value"]))
    return found


def _matrix(condition: Condition, pairs: Counter[tuple[str, str]], types: Sequence[str]) -> Matrix:
    names = [*(name for name in types if any(name in pair for pair in pairs)), NOTHING]
    names = list(dict.fromkeys(names))
    counts = [[pairs[actual, predicted] for predicted in names] for actual in names]
    shades = [[round(10 * count / max(sum(row), 1)) for count in row] for row in counts]
    return Matrix(condition, names, counts, shades)
