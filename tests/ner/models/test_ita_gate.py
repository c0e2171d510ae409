"""A relation as the gate of ITA's context: open it is ITA, shut the text alone; what adds nothing does not teach."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ner.bioes import scheme_labels
from ner.models.folder import load_tokenizer, view_encoder
from ner.models.ita import ItaTagger
from ner.tagger import Tagger
from ner.views import ViewBatch, ViewEncoder, collate
from pipeline.core.records import View
from tests.ner.conftest import ambiguous_views, small_params
from tests.ner.models.test_ita import inputs, tagger


def gated(folder: Path, relation: float, **options: object) -> ItaTagger:
    """A tagger whose every r is the same."""
    model = tagger(folder, ita={"gate": "soft", **options})
    assert model.relation_head is not None
    with torch.no_grad():
        model.relation_head.weight.zero_()
        model.relation_head.bias.copy_(torch.tensor([0.0, torch.logit(torch.tensor(relation)).item()]))
    return model


def ungated(model: ItaTagger, folder: Path) -> ItaTagger:
    other = tagger(folder)
    other.load_state_dict({name: value for name, value in model.state_dict().items() if "relation" not in name})
    return other.eval()


def views_of(folder: Path, model: ItaTagger) -> ViewEncoder:
    return view_encoder(load_tokenizer(folder, local_files_only=True), model.config)


def batches(folder: Path, model: ItaTagger, posts: list[View]) -> tuple[ViewBatch, ViewBatch]:
    views = views_of(folder, model)
    text_only, cross_modal = (views.encode(posts, with_context=seen) for seen in (False, True))
    return collate(text_only, views.pad_id), collate(cross_modal, views.pad_id)


def close(found: Tensor, expected: Tensor, batch: ViewBatch) -> bool:
    return torch.allclose(found[batch["mask"]], expected[batch["mask"]], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("relation", "gate", "like"),
    [
        (1 - 1e-7, "soft", "cross_modal"),
        (1e-9, "soft", "text_only"),
        (0.51, "hard", "cross_modal"),
        (0.49, "hard", "text_only"),
    ],
)
def test_an_open_gate_is_ita_and_a_shut_one_the_text_alone(
    xlm_r_folder: Path, relation: float, gate: str, like: str, packs: bool
) -> None:
    model = gated(xlm_r_folder, relation, gate=gate).eval()
    model.packs = packs
    long = View("long", ["love", "Jordan"] * 20, None, "photo of court")
    text_only, cross_modal = batches(xlm_r_folder, model, [*ambiguous_views(5, seed=5), long])
    plain = ungated(model, xlm_r_folder)
    expected = plain.emissions(cross_modal if like == "cross_modal" else text_only)
    if like == "cross_modal":
        assert close(model.emissions(cross_modal), expected, cross_modal)
    else:  # a long tweet's windows are cut elsewhere where they carry a context
        short = text_only["mask"].sum(1) < 10
        found = model.emissions(cross_modal)[short]
        assert torch.allclose(found[text_only["mask"][short]], expected[short][text_only["mask"][short]], atol=1e-5)
    assert torch.equal(model.emissions(text_only), plain.emissions(text_only))


@torch.no_grad()
def test_a_tweets_emissions_do_not_depend_on_its_batch(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder, ita={"gate": "soft"}).eval()
    posts = ambiguous_views(6, seed=5)
    posts[2] = replace(posts[2], context="")
    _, every = batches(xlm_r_folder, model, posts)
    found = model.emissions(every)
    for place, post in enumerate(posts):
        _, alone = batches(xlm_r_folder, model, [post])
        assert torch.allclose(model.emissions(alone)[0], found[place, : len(post.tokens)], atol=1e-5)


def test_the_relation_learns_from_the_entities(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder, ita={"gate": "soft"}, word_dropout=0.0)
    model(**inputs(model, xlm_r_folder))["loss"].backward()
    assert model.relation_head is not None
    assert model.relation_head.weight.grad is not None
    assert model.relation_head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("small", [True, False])
def test_a_context_that_adds_nothing_does_not_teach(
    xlm_r_folder: Path, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ItaTagger, "_is_small", lambda *_: small)

    def alignment(model: ItaTagger) -> float:
        model.eval()
        return float(model(**inputs(model, xlm_r_folder))["alignment"])

    whole = alignment(gated(xlm_r_folder, 0.25))
    weighed = alignment(gated(xlm_r_folder, 0.25, weigh_alignment=True))
    assert whole > 0
    assert weighed == pytest.approx(0.25 * whole, rel=1e-4)


def test_posts_tell_their_relation_and_those_without_a_context_have_none(xlm_r_folder: Path) -> None:
    model = gated(xlm_r_folder, 0.3).eval()
    posts = ambiguous_views(3, seed=5)
    posts[1] = replace(posts[1], context="")
    found = Tagger(model, views_of(xlm_r_folder, model)).relations(posts)
    assert found == [pytest.approx(0.3), None, pytest.approx(0.3)]
    assert Tagger(ungated(model, xlm_r_folder), views_of(xlm_r_folder, model)).relations(posts) == [None] * 3


def test_it_is_saved_and_loaded(xlm_r_folder: Path, tmp_path: Path) -> None:
    model = tagger(xlm_r_folder, ita={"gate": "hard"}).eval()
    model.save_pretrained(tmp_path)
    loaded = ItaTagger.from_pretrained(tmp_path).eval()
    _, batch = batches(xlm_r_folder, model, ambiguous_views(4, seed=5))
    with torch.no_grad():
        assert close(loaded.emissions(batch), model.emissions(batch), batch)


def test_a_batch_without_contexts_still_gives_every_layer_a_gradient(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder, ita={"gate": "soft"})
    batch: dict[str, Any] = inputs(model, xlm_r_folder)
    model(**{**batch, "cross_modal": batch["text_only"]})["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weighing_needs_a_gate(xlm_r_folder: Path) -> None:
    with pytest.raises(ValidationError, match="set gate: soft or hard"):
        small_params(xlm_r_folder, ita={"weigh_alignment": True})


def test_text_alone_has_no_gate(xlm_r_folder: Path) -> None:
    labels = scheme_labels([["B-PER"]])
    params = small_params(xlm_r_folder, views="text_only", ita={"gate": "soft"})
    assert not ItaTagger.from_encoder(xlm_r_folder, labels, params, local_files_only=True).asks_relation
