"""Learning the relation of text and picture in turn with entities: order, resuming, what it brings, what it needs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from ner.models.folder import load_tagger
from ner.models.rpbert import RpbertTagger
from ner.training.run import train
from ner.training.sampler import Example, LengthGroupedSampler, collate_examples
from ner.views import EncodedView, collate
from ner.visual import PostVisual, Visuals, collate_visuals
from pipeline.core import features
from pipeline.core.errors import UserError
from pipeline.core.features import Features
from pipeline.core.records import RelationPost, View
from pipeline.settings.training import TrainParams
from tests.ner.conftest import ambiguous_views, small_params
from tests.ner.training.test_run import stopped


@pytest.fixture
def visuals(tmp_path: Path) -> Visuals:
    with features.writing(tmp_path / "features", "print") as writer:
        for number, image in enumerate(["court.jpg", "desert.jpg"]):
            writer.add(image, str(number) * 64, "ok", None, np.full((4, 6), 2 - 4 * number, np.float16))
    return Visuals(Features.open(tmp_path / "features"), None)


def pictured(posts: Sequence[View]) -> list[View]:
    return [replace(post, images=["court.jpg" if "court" in post.context else "desert.jpg"]) for post in posts]


TRAIN, DEV = pictured(ambiguous_views(20, seed=0)), pictured(ambiguous_views(6, seed=1))
_ADDS: tuple[str, Literal[0, 1]] = ("court.jpg", 1)
_DOES_NOT: tuple[str, Literal[0, 1]] = ("desert.jpg", 0)
# That of a court adds to the meaning of its post, that of a desert does not.
RELATION = [
    RelationPost(str(number), ["love", "the", *["Paris"] * (number % 3)], [image], relation)
    for number, (image, relation) in enumerate([_ADDS, _DOES_NOT] * 31)
]


def params(folder: Path, **changes: Any) -> TrainParams:
    options = {"lstm_layers": 1, "lstm_width": 8, "relation_weight": 1.0} | changes.pop("rpbert", {})
    return small_params(folder, model="rpbert", rpbert=options, new_learning_rate=0.01, **changes)


def run(settings: TrainParams, folder: Path, visuals: Visuals, **changes: Any) -> dict[str, Any]:
    paths = {"output": folder / "tagger", "work": folder / "work", "curves": folder / "curves"}
    data = {"train": TRAIN, "dev": DEV, "relation": RELATION, "visuals": visuals}
    return train(settings, **{"encoder": settings.encoder, "device": "cpu", **data, **paths, **changes})


def relations(folder: Path, visuals: Visuals) -> dict[str, float]:
    model, views = load_tagger(folder / "tagger")
    assert isinstance(model, RpbertTagger)
    views.show(visuals, model.config.facts or {})
    posts = [View(name, ["love", "the"], None, "", [f"{name}.jpg"]) for name in ("court", "desert")]
    encoded = views.encode(posts, with_context=True)
    visual = collate_visuals([view.visual for view in encoded])
    assert visual is not None
    with torch.no_grad():
        found = model.relation(collate(encoded, views.pad_id), visual)
    return dict(zip(("court", "desert"), found.tolist(), strict=True))


def test_the_relation_is_learned_and_resuming_changes_nothing(
    xlm_r_folder: Path, tmp_path: Path, visuals: Visuals
) -> None:
    settings = params(xlm_r_folder, epochs=3, rpbert={"detach_gate": True})
    whole = run(settings, tmp_path / "whole", visuals)
    assert whole["relation"] == {"posts": 62}
    found = relations(tmp_path / "whole", visuals)
    assert found["court"] > 0.7 > 0.3 > found["desert"]
    curve = (tmp_path / "whole/curves/plots/metrics/train/relation.tsv").read_text(encoding="utf-8").splitlines()
    losses = [float(line.split("\t")[-1]) for line in curve[1:]]
    assert losses[-1] < 0.4 < 0.5 < losses[0]
    with stopped(epoch=2):
        run(settings, tmp_path / "cut", visuals)
    assert run(settings, tmp_path / "cut", visuals) == whole
    assert relations(tmp_path / "cut", visuals) == found


def test_without_posts_of_its_own_the_relation_learns_from_entities_or_is_refused(
    xlm_r_folder: Path, tmp_path: Path, visuals: Visuals, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "relation" not in run(params(xlm_r_folder, epochs=1), tmp_path / "none", visuals, relation=[])
    detached = params(xlm_r_folder, rpbert={"detach_gate": True})
    unseen = [replace(post, images=["unknown.jpg"]) for post in RELATION]
    with pytest.raises(UserError, match=r"detach_gate: true, and data.relation gives no posts"):
        run(detached, tmp_path / "detached", visuals, relation=unseen)
    assert "62 of the 62 posts of data.relation have no text or no picture" in capsys.readouterr().err


@pytest.mark.parametrize("n_apart", [0, 3, 8, 13])
def test_batches_are_of_one_task_and_those_of_the_relation_come_first(n_apart: int) -> None:
    widths = [7 * place % 11 for place in range(n_apart + 21)]
    sampler = LengthGroupedSampler(widths, 8, seed=1, n_apart=n_apart)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler)
        n_first = len(order) - 21
        assert n_first % 8 == 0
        assert set(order[:n_first]) == set(range(n_apart))
        assert sorted(order[n_first:]) == list(range(n_apart, n_apart + 21))
        epochs.append(order)
    assert epochs[0] != epochs[1]
    sampler.set_epoch(0)
    assert list(sampler) == epochs[0]


def test_the_loss_of_the_relation_is_a_weighted_cross_entropy(xlm_r_folder: Path) -> None:
    torch.manual_seed(0)
    facts = {"region_width": 6, "n_cells": 4, "object_labels": []}
    settings = params(xlm_r_folder, rpbert={"relation_weight": 0.05})
    model = RpbertTagger.from_encoder(xlm_r_folder, ["O", "B-X", "I-X"], settings, facts=facts).eval()
    rng = np.random.default_rng(0)
    examples = [
        Example(
            {
                "cross_modal": EncodedView(
                    [[0, 5, 6 + row, 2]], [0], [1], [2], [3], "", visual=PostVisual((rng.normal(size=(4, 6)),), ())
                )
            },
            [],
            row % 2,
        )
        for row in range(3)
    ]
    batch = collate_examples(examples, 1, model.training_views)
    assert set(batch) == {"cross_modal", "visual", "relation"}
    outputs = model(**batch)
    r = model.relation(batch["cross_modal"], batch["visual"])
    wanted = -torch.stack([1 - r[0], r[1], 1 - r[2]]).log().mean()
    torch.testing.assert_close(outputs["relation"], wanted)
    torch.testing.assert_close(outputs["loss"], 0.05 * wanted)
    outputs["loss"].backward()
    moved = {name.partition(".")[0] for name, one in model.named_parameters() if one.grad is not None}
    assert moved == {"encoder", "projection", "relation_head", "region_vector"}
