"""A temperature that was put in is found again; calibrated confidences are as often right as they say."""

import numpy as np
import pytest

from ner.scoring.calibration import FEWEST, calibrated, fit_temperature, of_predictions, reliability, with_calibrated
from pipeline.core.records import FoundEntity, Prediction


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_behind_overconfident_scores_is_found_again(true: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(1.0, 2.0, 20_000)  # of how likely entities really are
    right = (rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).tolist()
    confidences = (1 / (1 + np.exp(-logits * true))).tolist()
    found = fit_temperature(confidences, right)
    assert found is not None
    assert found == pytest.approx(true, rel=0.05)
    scaled = [calibrated(each, found) for each in confidences]
    before, after = (reliability(values, right)["error"] for values in (confidences, scaled))
    assert after is not None
    assert before is not None
    assert after < 0.015
    assert after < before or true == 1.0


def test_there_is_no_temperature_where_dev_says_nothing_of_it() -> None:
    few = FEWEST - 1
    assert fit_temperature([0.9] * few, [True] * (few - 1) + [False]) is None
    assert fit_temperature([0.9] * 50, [True] * 50) is None
    assert fit_temperature([0.9] * 50, [False] * 50) is None
    assert fit_temperature([0.9] * 25 + [0.1] * 25, [False] * 25 + [True] * 25) is None, "sure of what is wrong"
    assert fit_temperature([1.0] * 40, [True] * 39 + [False]) is not None, "a confidence of 1 has no infinite loss"


def test_reliability_counts_by_tenths() -> None:
    found = reliability([0.05, 0.95, 1.0, 0.91], [False, True, True, False])
    assert [(each["low"], each["entities"]) for each in found["bins"]] == [(0.0, 1), (0.9, 3)]
    assert found["bins"][1]["right"] == pytest.approx(2 / 3)
    assert found["error"] == pytest.approx((1 * 0.05 + 3 * abs((0.95 + 1 + 0.91) / 3 - 2 / 3)) / 4)
    assert reliability([], []) == {"bins": [], "error": None}


def test_predictions_get_their_calibrated_confidence_beside_their_own() -> None:
    entity = FoundEntity(0, 1, "LOC", "Rome", 0.9)
    posts = [Prediction("1", ["Rome"], ["B-LOC"], ["B-LOC"], [entity], "")]
    assert of_predictions(posts) == ([0.9], [True])
    [changed] = with_calibrated(posts, 2.0)
    assert changed.entities[0].confidence == 0.9
    assert changed.entities[0].calibrated == pytest.approx(0.75)
    assert with_calibrated(posts, None) == posts
