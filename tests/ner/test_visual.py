"""What pictures give as tensors: looked up by post, put together as a batch, and carried by cross-modal views alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ner.models.folder import load_tokenizer
from ner.views import ViewEncoder, WindowLimits, collate
from ner.visual import NO_OBJECT, UNKNOWN_OBJECT, PostVisual, Visuals, collate_visuals
from pipeline.core import features
from pipeline.core.errors import UserError
from pipeline.core.features import Features
from pipeline.core.records import View

OBJECTS = {
    "a.jpg": [(0.4, "dog"), (0.9, "car")],
    "b.jpg": [(0.8, "dog"), (0.7, "tree"), (0.6, "hat")],
    "c.jpg": [],
}


def post(*images: str, tokens: Sequence[str] = ("love", "Jordan")) -> View:
    return View("1", list(tokens), None, "", list(images))


@pytest.fixture
def visuals(tmp_path: Path) -> Visuals:
    with features.writing(tmp_path / "features", "print") as writer:
        for number, image in enumerate(["a.jpg", "b.jpg"], 1):
            writer.add(image, str(number) * 64, "ok", None, np.full((4, 3), number, np.float16))
        writer.add("c.jpg", None, "missing", "no such file", None)
    found = Visuals(Features.open(tmp_path / "features"), OBJECTS)
    found.fit({"n_cells": 4, "region_width": 3, "object_labels": ["car", "dog"]})
    return found


def test_a_post_has_the_regions_of_all_its_pictures_and_the_surest_objects_of_all(visuals: Visuals) -> None:
    seen = visuals.of(post("a.jpg", "c.jpg", "b.jpg"))
    assert seen is not None
    assert [float(picture[0, 0]) for picture in seen.regions] == [1.0, 2.0]
    car, dog = UNKNOWN_OBJECT + 1, UNKNOWN_OBJECT + 2
    assert seen.objects == (car, dog, UNKNOWN_OBJECT, UNKNOWN_OBJECT, dog)


def test_a_post_without_a_readable_picture_has_none(visuals: Visuals) -> None:
    assert visuals.of(post()) is None
    assert visuals.of(post("unknown.jpg")) is None
    assert visuals.of(post("c.jpg")) is not None  # a picture on which no object was found


def test_a_batch_is_padded_and_says_where_regions_are(visuals: Visuals) -> None:
    batch = collate_visuals(
        [visuals.of(post("b.jpg", "a.jpg")), None, visuals.of(post("c.jpg")), visuals.of(post("a.jpg"))]
    )
    assert batch is not None
    assert batch["regions"].shape == (4, 8, 3)
    assert batch["regions"][:, :, 0].tolist() == [[2.0] * 4 + [1.0] * 4, [0.0] * 8, [0.0] * 8, [1.0] * 4 + [0.0] * 4]
    assert batch["cells"][0].tolist() == [0, 1, 2, 3] * 2
    assert batch["mask"].sum(1).tolist() == [8, 0, 0, 4]
    assert batch["present"].tolist() == [True, False, True, True]
    assert batch["objects"][1:3].tolist() == [[NO_OBJECT] * 5] * 2


def test_posts_without_pictures_alone_make_no_batch() -> None:
    assert collate_visuals([None, None]) is None


def test_objects_without_features_make_a_batch_without_regions() -> None:
    batch = collate_visuals([PostVisual((), (2,)), None])
    assert batch is not None
    assert batch["regions"].shape == (2, 0, 0)
    assert batch["objects"][0].tolist() == [2, 0, 0, 0, 0]


def test_objects_without_scores_come_first_in_their_own_order() -> None:
    seen = Visuals(None, {"a.jpg": [(0.9, "x"), (None, "y"), (None, "z")]})
    seen.fit({"object_labels": ["x", "y", "z"]})
    found = seen.of(post("a.jpg"))
    assert found is not None
    assert [index - UNKNOWN_OBJECT for index in found.objects] == [2, 3, 1]


def test_facts_are_what_a_tagger_must_keep(visuals: Visuals) -> None:
    assert visuals.facts([post("a.jpg"), post()]) == {
        "region_width": 3,
        "n_cells": 4,
        "fingerprint": "print",
        "object_labels": ["car", "dog"],
    }
    none: dict[str, Any] = {"region_width": None, "n_cells": None, "fingerprint": None, "object_labels": []}
    assert Visuals(None, None).facts([post("a.jpg")]) == none


def test_features_of_another_extractor_are_refused(visuals: Visuals) -> None:
    with pytest.raises(
        UserError, match="found 4 regions of width 3 per picture, but the tagger was trained with 49 of"
    ):
        visuals.fit({"n_cells": 49, "region_width": 2048, "object_labels": []})


def test_features_of_the_same_shape_and_another_extractor_are_warned_of(
    visuals: Visuals, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"n_cells": 4, "region_width": 3, "object_labels": []}
    for known in ("print", None):
        visuals.fit(facts | {"fingerprint": known})
    assert capsys.readouterr().err == ""
    visuals.fit(facts | {"fingerprint": "another"})
    assert "is of another extractor, or of other settings" in capsys.readouterr().err


def test_only_cross_modal_views_carry_visuals(xlm_r_folder: Path, visuals: Visuals) -> None:
    views = ViewEncoder(load_tokenizer(xlm_r_folder, local_files_only=True), WindowLimits(64, 16, 8))
    assert views.encode([post("a.jpg")], with_context=True)[0].visual is None
    views.show(visuals, {"n_cells": 4, "region_width": 3, "object_labels": []})
    assert views.encode([post("a.jpg")], with_context=True)[0].visual is not None
    assert views.encode([post("a.jpg")], with_context=False)[0].visual is None


def test_views_say_where_tokens_and_tweets_end_and_which_words_have_vectors(xlm_r_folder: Path) -> None:
    tokenizer = load_tokenizer(xlm_r_folder, local_files_only=True)
    views = ViewEncoder(tokenizer, WindowLimits(16, 4, 4), {"Jordan": 7})
    words = ["love", "Jordan", "unheard"] * 6
    batch = collate(views.encode([View("1", words, None, "court"), post()], with_context=True), tokenizer.pad_token_id)
    assert batch["tweets"].tolist() == [0] * (len(batch["tweets"]) - 1) + [1]
    assert len(batch["tweets"]) > 2
    closing = batch["input_ids"].gather(1, batch["closings"][:, None])
    assert (closing == tokenizer.sep_token_id).all()
    for tweet, tokens in enumerate([words, ["love", "Jordan"]]):
        for place, word in enumerate(tokens):
            row, first, end = (int(batch[name][tweet, place]) for name in ("rows", "positions", "ends"))
            pieces = batch["input_ids"][row, first:end].tolist()
            assert pieces == views.words([word])[word][: len(pieces)]
            assert len(pieces) == len(views.words([word])[word]) or end == int(batch["closings"][row])
            assert int(batch["words"][row, first]) == (7 if word == "Jordan" else 1)
    # A row for each first sub-token of each window, also of tokens that are scored in another one.
    assert int((batch["words"] > 0).sum()) > len(words) + 2
    assert (batch["words"][:, 0] == 0).all()
