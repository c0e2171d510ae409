"""Whether a confidence of 0.8 is right eight times in ten, and a temperature that brings it closer to that.

A confidence c becomes sigmoid(logit(c) / T), with the T that makes right and wrong entities of dev likeliest:
temperature scaling (Guo, Pleiss, Sun and Weinberger, ICML 2017, "On calibration of modern neural networks"), here of
the entity's own probability. It changes no order and no F1.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.core.labels import entities
from pipeline.core.records import Bin, Prediction, Reliability

FEWEST = 20
"""So many entities, at least, a temperature is fitted on."""
_EDGE = 1e-6  # confidences are kept so far from 0 and 1, where logits end
_STEEPEST = 1e3  # of 1 / T


def of_predictions(predictions: Sequence[Prediction]) -> tuple[list[float], list[bool]]:
    """The confidences of the entities found in labelled posts, and whether each is right, as conlleval reads gold."""
    confidences, right = list[float](), list[bool]()
    for prediction in predictions:
        gold = set(entities(prediction.labels or [], "conlleval"))
        for entity in prediction.entities:
            confidences.append(entity.confidence)
            right.append((entity.start, entity.end, entity.type) in gold)
    return confidences, right


def fit_temperature(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """The T of the least log loss; None of fewer than FEWEST entities, of all right or all wrong ones, and where no
    temperature makes confidences agree with what is right more than by chance.

    The loss is convex in 1 / T, so its one minimum is found by halving.
    """
    if len(right) < FEWEST or all(right) or not any(right):
        return None
    logits, outcomes = _logits(confidences), np.asarray(right, dtype=np.float64)

    def slope(steepness: float) -> float:
        return float((logits * (_sigmoid(steepness * logits) - outcomes)).sum())

    low, high = 0.0, _STEEPEST
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def calibrated(confidence: float, temperature: float) -> float:
    """A confidence under a temperature."""
    return float(_sigmoid(_logits([confidence]) / temperature)[0])


def reliability(confidences: Sequence[float], right: Sequence[bool], n_bins: int = 10) -> Reliability:
    """How often entities are right, by confidence.

    Returns:
        the bins that hold entities, and the expected calibration error: the mean, over entities, of the distance
        between a bin's mean confidence and its share of right entities; None of no entities.
    """
    values, outcomes = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    places = np.minimum((values * n_bins).astype(int), n_bins - 1)
    bins: list[Bin] = []
    for place in range(n_bins):
        inside = places == place
        if inside.any():
            bins.append(
                {
                    "low": place / n_bins,
                    "high": (place + 1) / n_bins,
                    "entities": int(inside.sum()),
                    "confidence": min(float(values[inside].mean()), 1.0),
                    "right": float(outcomes[inside].mean()),
                }
            )
    total = sum(each["entities"] for each in bins)
    error = sum(each["entities"] * abs(each["confidence"] - each["right"]) for each in bins)
    return {"bins": bins, "error": error / total if total else None}


def _logits(confidences: Sequence[float]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(confidences, dtype=np.float64), _EDGE, 1 - _EDGE)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -values))


def with_calibrated(predictions: Sequence[Prediction], temperature: float | None) -> list[Prediction]:
    """Predictions whose entities have calibrated confidences; as they are without a temperature."""
    if temperature is None:
        return list(predictions)
    return [
        replace(
            prediction,
            entities=[
                replace(entity, calibrated=calibrated(entity.confidence, temperature)) for entity in prediction.entities
            ],
        )
        for prediction in predictions
    ]
