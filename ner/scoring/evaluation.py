"""One tagger under several conditions: with its pictures' contexts, on text alone, with wrong contexts and with fewer.

The conditions are ways to make views of views; predicting and scoring are :mod:`ner.tagger`'s and
:mod:`ner.scoring.surface`'s, files the caller's.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

from ner.scoring import calibration, surface
from ner.scoring.error_analysis import count_errors
from ner.scoring.surface import Known
from ner.tagger import Tagger
from pipeline.core.errors import UserError
from pipeline.core.records import Analysis, Prediction, Scores, View
from pipeline.settings.params import Condition, EvaluateParams

READS_AS_IT_IS: tuple[Condition, ...] = ("cross_modal", "text_only")
"""Conditions that say something of posts without labels; the others damage what is read, to see what scores lose."""


def condition_views(views: Sequence[View], condition: str, params: EvaluateParams) -> list[View]:
    """The views of a condition, in order.

    `cross_modal`: as they are. `text_only`: without contexts and pictures. `shuffled`: each post with another post's
    context and pictures, by a seeded permutation that leaves none in place (:func:`derangement`). `noised`: likewise of
    a share of the posts, among themselves, two at least. `missing`: a share of the posts without contexts and pictures,
    one at least. Posts of a smaller share are among those of a larger one with the same seed.

    Args:
        views: of one split.
        condition: its name.
        params: shares and seed.

    Raises:
        UserError: no such condition, or a single post to shuffle.
    """
    seed = params.shuffle_seed
    if condition == "cross_modal":
        return list(views)
    if condition == "text_only":
        return _without(views, range(len(views)))
    if condition == "shuffled":
        return _swapped(views, range(len(views)), seed)
    if condition == "noised":
        return _swapped(views, _share(len(views), params.noised_share, 2, seed), seed)
    if condition == "missing":
        return _without(views, _share(len(views), params.missing_share, 1, seed))
    raise UserError(f"evaluate.conditions: {condition!r}; expected {', '.join(get_args(Condition))}")


def _without(views: Sequence[View], places: Iterable[int]) -> list[View]:
    without = set(places)
    return [replace(view, context="", images=[]) if place in without else view for place, view in enumerate(views)]


def _swapped(views: Sequence[View], places: Sequence[int], seed: int) -> list[View]:
    seen = list(views)
    for place, other in zip(places, derangement(len(places), seed), strict=True):
        of_other = views[places[other]]
        seen[place] = replace(views[place], context=of_other.context, images=of_other.images)
    return seen


def _share(n: int, share: float, least: int, seed: int) -> list[int]:
    """So many of n places, the first of a seeded permutation, in order."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return sorted(order[: max(least, round(share * n))])


def derangement(n: int, seed: int) -> list[int]:
    """A permutation of range(n) with no fixed point, all of them equally likely: shuffle until none is left.

    Raises:
        UserError: n is 1, which has none.
    """
    if n == 1:
        raise UserError(
            "evaluate.conditions: `shuffled` and `noised` need at least two posts in a split; leave them out"
        )
    rng = random.Random(seed)
    order = list(range(n))
    while True:  # about one permutation in e = 2.7 qualifies
        rng.shuffle(order)
        if all(place != other for place, other in enumerate(order)):
            return order


def conditions(views: Sequence[View], params: EvaluateParams) -> list[Condition]:
    """The conditions that a split is read under: without labels, those that read it as it is."""
    scored = any(view.labels is not None for view in views)
    return [condition for condition in params.conditions if scored or condition in READS_AS_IT_IS]


def evaluate(
    tagger: Tagger,
    views: Sequence[View],
    params: EvaluateParams,
    *,
    known: Known | None = None,
    batch_size: int = 32,
    done: Callable[[int], object] = lambda _: None,
) -> dict[str, tuple[Scores, list[Prediction]]]:
    """Predict the views of one split under each condition of `params`, and score them.

    A split without labels is predicted, but not scored.

    Args:
        known: the surface forms of training; with any, scores have rows for entities that are among them and others.
        done: is told how many views have just been read, for a bar.

    Returns:
        {condition: (scores as of :func:`ner.scoring.surface.score`, or empty, and predictions in order)}

    Raises:
        UserError: one post has labels and another has none.
    """
    unlabelled = [view.id for view in views if view.labels is None]
    if unlabelled and len(unlabelled) < len(views):
        raise UserError(
            f"evaluate: post {unlabelled[0]} has no labels to score against, but others of its split do; "
            "leave it out of data, or have a split without any labels, which is then predicted only"
        )
    scored = len(unlabelled) < len(views)
    results: dict[str, Any] = {}
    for condition in conditions(views, params):
        seen = condition_views(views, condition, params)
        # Scored as dev is in training: on the tokens as given.
        stream = tagger.predict(seen, batch_size, adapt=False, done=done)
        relations = tagger.relations(seen, batch_size)
        predictions = [replace(each, relation=value) for each, value in zip(stream, relations, strict=True)]
        if params.attention and condition == "cross_modal":
            attention = tagger.attention(seen, predictions, batch_size)
            predictions = [replace(each, attention=value) for each, value in zip(predictions, attention, strict=True)]
        scores = (
            {}
            if not scored
            else surface.score(
                [view.tokens for view in views],
                [view.labels or [] for view in views],
                [prediction.predicted for prediction in predictions],
                known,
                bootstrap_samples=params.bootstrap_samples,
                confidence=params.confidence,
                seed=params.bootstrap_seed,
            )
        )
        results[condition] = scores, predictions
    return results


def analyse(predictions: Sequence[Prediction], temperature: float | None) -> Analysis:
    """What is wrong with predictions of labelled posts, and what their confidences are worth."""
    confidences, right = calibration.of_predictions(predictions)
    scaled = None if temperature is None else [calibration.calibrated(each, temperature) for each in confidences]
    return {
        "errors": count_errors((each.labels or [], each.predicted) for each in predictions),
        "confidence": calibration.reliability(confidences, right),
        "calibrated": None if scaled is None else calibration.reliability(scaled, right),
    }
