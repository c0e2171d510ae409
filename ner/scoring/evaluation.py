"""One tagger under several conditions: with its pictures' contexts, on text alone, and with wrong contexts.

The conditions are ways to make views of views; predicting and scoring are :mod:`ner.predict`'s and
:mod:`ner.scoring.f1`'s, files the caller's.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ner.scoring.f1 import score
from ner.tagger import Tagger
from pipeline.core.errors import UserError
from pipeline.core.records import Prediction, Scores, View
from pipeline.settings.params import EvaluateParams


def condition_views(views: Sequence[View], condition: str, seed: int) -> list[View]:
    """The views of a condition, in order.

    `cross_modal`: as they are. `text_only`: without contexts and pictures. `shuffled`: each post with another post's
    context and pictures, by a seeded permutation that leaves none in place (:func:`derangement`).

    Raises:
        UserError: no such condition, or a single post to shuffle.
    """
    if condition == "cross_modal":
        return list(views)
    if condition == "text_only":
        return [replace(view, context="", images=[]) for view in views]
    if condition == "shuffled":
        others = derangement(len(views), seed)
        return [
            replace(view, context=views[other].context, images=views[other].images)
            for view, other in zip(views, others, strict=True)
        ]
    raise UserError(f"evaluate.conditions: {condition!r}; expected cross_modal, text_only or shuffled")


def derangement(n: int, seed: int) -> list[int]:
    """A permutation of range(n) with no fixed point, all of them equally likely: shuffle until none is left.

    Raises:
        UserError: n is 1, which has none.
    """
    if n == 1:
        raise UserError("evaluate.conditions: `shuffled` needs at least two posts in a split; leave it out")
    rng = random.Random(seed)
    order = list(range(n))
    while True:  # about one permutation in e = 2.7 qualifies
        rng.shuffle(order)
        if all(place != other for place, other in enumerate(order)):
            return order


def evaluate(
    tagger: Tagger,
    views: Sequence[View],
    params: EvaluateParams,
    *,
    batch_size: int = 32,
    progress: Callable[[Iterator[Prediction], int, str], Iterator[Prediction]] | None = None,
) -> dict[str, tuple[Scores, list[Prediction]]]:
    """Predict the views of one split under each condition of `params`, and score them.

    A split without labels is predicted, but not scored, nor shuffled, which is of use for scores alone.

    Args:
        progress: wraps the predictions of a condition (their number and the condition's name given), for a bar.

    Returns:
        {condition: (scores as of :func:`ner.scoring.f1.score`, or empty, and predictions in order)}

    Raises:
        UserError: one post has labels and another has none.
    """
    unlabelled = [view.id for view in views if view.labels is None]
    if unlabelled and len(unlabelled) < len(views):
        raise UserError(
            f"evaluate: post {unlabelled[0]} has no labels to score against, but others of its split do; "
            "leave it out of data, or have a split without any labels, which is then predicted only"
        )
    gold = [view.labels or [] for view in views]
    scored = len(unlabelled) < len(views)
    results: dict[str, Any] = {}
    for condition in params.conditions:
        if condition == "shuffled" and not scored:
            continue
        seen = condition_views(views, condition, params.shuffle_seed)
        stream = tagger.predict(seen, batch_size)
        if progress is not None:
            stream = progress(stream, len(views), condition)
        relations = tagger.relations(seen, batch_size)
        predictions = [replace(each, relation=value) for each, value in zip(stream, relations, strict=True)]
        if params.attention and condition == "cross_modal":
            attention = tagger.attention(seen, predictions, batch_size)
            predictions = [replace(each, attention=value) for each, value in zip(predictions, attention, strict=True)]
        scores = (
            {}
            if not scored
            else score(
                gold,
                [prediction.predicted for prediction in predictions],
                bootstrap_samples=params.bootstrap_samples,
                confidence=params.confidence,
                seed=params.bootstrap_seed,
            )
        )
        results[condition] = scores, predictions
    return results
