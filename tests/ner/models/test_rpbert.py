"""RpBERT: its gates and their gradients, and that nothing else of a batch moves a tweet's emissions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ner.bioes import scheme_labels, to_scheme
from ner.encoder import windows
from ner.models.config import TaggerConfig
from ner.models.folder import load_tagger, load_tokenizer, view_encoder
from ner.models.rpbert import RpbertTagger
from ner.training.run import set_up
from ner.training.sampler import Example, collate_examples
from ner.views import EncodedView, ViewEncoder, collate
from ner.visual import PostVisual, Visuals, collate_visuals
from pipeline.core.errors import UserError
from pipeline.core.records import View
from tests.ner.conftest import ambiguous_views, many_views, small_params

FACTS = {"region_width": 6, "n_cells": 4, "object_labels": []}


def tagger(folder: Path, facts: dict[str, Any] = FACTS, **options: Any) -> RpbertTagger:
    torch.manual_seed(1)
    params = small_params(
        folder, model="rpbert", rpbert={"lstm_layers": 1, "lstm_width": 16} | options, word_dropout=0.0
    )
    labels = scheme_labels([["B-PER", "B-LOC"]])
    model = RpbertTagger.from_encoder(folder, labels, params, facts=facts, local_files_only=True).eval()
    if model.projection is not None:
        torch.nn.init.normal_(model.projection.weight)  # as strong as a trained one: what is tested is seen
    return model


def views_of(model: RpbertTagger, folder: Path) -> ViewEncoder:
    return view_encoder(load_tokenizer(folder, local_files_only=True), model.config)


def picture(seed: int, n: int = 1) -> PostVisual:
    rng = np.random.default_rng(seed)
    return PostVisual(tuple(rng.normal(size=(4, 6)).astype(np.float16) for _ in range(n)), ())


def read(
    model: RpbertTagger, encoded: Sequence[EncodedView], pictures: Sequence[PostVisual | None], pad_id: int
) -> Tensor:
    return model.emissions(collate(encoded, pad_id), collate_visuals(pictures))


GATES = [{"gate": gate, "gate_on": gate_on} for gate in ("soft", "hard") for gate_on in ("input", "attention")] + [
    {"gate": "none"},
    {"pooling": "first"},
    {"lstm_layers": 0},
]


@pytest.mark.parametrize("options", GATES, ids=str)
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("folder", ["xlm_r_folder", "bert_folder"])
def test_nothing_else_in_a_batch_changes_a_tweets_emissions(
    folder: str, packs: bool, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Long tweets of several windows, two pictures, none: each alone, in a batch, and in pieces that fit memory."""
    source = request.getfixturevalue(folder)
    model = tagger(source, **options)
    model.packs = packs
    views = views_of(model, source)
    encoded = views.encode(many_views(12), with_context=True)
    pictures = [None if row % 3 == 0 else picture(row, n=1 + row % 2) for row in range(12)]
    assert max(len(view.windows) for view in encoded) > 1
    together = read(model, encoded, pictures, views.pad_id)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "MAX_SUBTOKENS_AT_ONCE", 100)
        in_pieces = read(model, encoded, pictures, views.pad_id)
    torch.testing.assert_close(in_pieces, together, rtol=1e-3, atol=1e-5)
    for row, view in enumerate(encoded):
        alone = read(model, [view], [pictures[row]], views.pad_id)[0]
        torch.testing.assert_close(together[row, : len(view)], alone, rtol=1e-3, atol=1e-5)
        of_text = read(model, [view], [None], views.pad_id)[0]
        seen = (alone - of_text).abs().max() > 1e-4
        assert bool(seen) == (pictures[row] is not None) or options.get("gate") == "hard"


def test_packed_and_padded_passes_have_the_same_gradients(xlm_r_folder: Path) -> None:
    for gate_on in ("input", "attention"):
        found = []
        for packs in (True, False):
            model = tagger(xlm_r_folder, gate_on=gate_on).double()
            model.packs = packs
            views = views_of(model, xlm_r_folder)
            encoded = views.encode(many_views(5), with_context=True)
            pictures = [picture(1), None, picture(2), picture(3, n=2), None]
            emissions = read(model, encoded, pictures, views.pad_id)
            (emissions * collate(encoded, 1)["mask"].unsqueeze(-1)).square().sum().backward()
            found.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
        assert {"projection.weight", "relation_head.weight", "region_vector"} <= found[0].keys() == found[1].keys()
        for name, gradient in found[0].items():
            torch.testing.assert_close(gradient, found[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gate_on", ["input", "attention"])
@pytest.mark.parametrize("gate", ["soft", "hard"])
@pytest.mark.parametrize("detach", [False, True])
def test_the_relation_learns_from_entities_unless_it_is_detached(
    xlm_r_folder: Path, gate_on: str, gate: str, detach: bool
) -> None:
    model = tagger(xlm_r_folder, gate=gate, gate_on=gate_on, detach_gate=detach)
    assert model.relation_head is not None
    with torch.no_grad():
        model.relation_head.bias.copy_(torch.tensor([-1.0, 1.0]))  # open, so that a hard gate on attention has gradient
    views = views_of(model, xlm_r_folder)
    encoded = views.encode(ambiguous_views(3, seed=1), with_context=False)
    batch = collate(encoded, views.pad_id)
    labels = torch.zeros(batch["mask"].shape, dtype=torch.long)
    visual = collate_visuals([picture(1), None, picture(2)])
    model(batch, batch, visual, labels)["loss"].backward()
    for parameter in model.relation_head.parameters():
        assert (parameter.grad is None or not parameter.grad.any()) == detach
    assert model.projection is not None
    assert model.projection.weight.grad is not None


@torch.no_grad()
def test_a_hard_gate_opens_at_one_half_and_r_is_of_class_one(xlm_r_folder: Path) -> None:
    views = views_of(tagger(xlm_r_folder), xlm_r_folder)
    encoded = views.encode(ambiguous_views(1, seed=1), with_context=False)
    batch, visual = collate(encoded, views.pad_id), collate_visuals([picture(1)])
    assert visual is not None
    read_at = {}
    for gate, gate_on in (("hard", "input"), ("hard", "attention"), ("none", "input")):
        model = tagger(xlm_r_folder, gate=gate, gate_on=gate_on)
        assert model.relation_head is not None
        model.relation_head.weight.zero_()
        for margin in (-1e-4, 1e-4):
            model.relation_head.bias.copy_(torch.tensor([0.0, margin]))
            torch.testing.assert_close(model.relation(batch, visual), torch.sigmoid(torch.tensor([margin])))
            read_at[gate, gate_on, margin > 0] = model.emissions(batch, visual)
    text = model.emissions(batch)
    every = read_at["none", "input", True]
    assert not torch.allclose(text, every, atol=1e-3)
    for gate_on in ("input", "attention"):
        torch.testing.assert_close(read_at["hard", gate_on, True], every)
    torch.testing.assert_close(read_at["hard", "attention", False], text)
    # Scaled by 0, the published gate still leaves positions to attend to.
    assert not torch.allclose(read_at["hard", "input", False], every, atol=1e-3)
    assert not torch.allclose(read_at["hard", "input", False], text, atol=1e-5)


@torch.no_grad()
def test_without_regions_a_view_is_the_text_only_one_bit_for_bit(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder)
    blind = RpbertTagger(TaggerConfig.from_dict(model.config.to_dict() | {"facts": {}})).eval()
    blind.load_state_dict({name: one for name, one in model.state_dict().items() if name in blind.state_dict()})
    assert blind.projection is blind.relation_head is blind.region_vector is None
    views = views_of(model, xlm_r_folder)
    batch = collate(views.encode(many_views(6), with_context=False), views.pad_id)
    nothing = PostVisual((), (1,))
    text = model.emissions(batch)
    assert torch.equal(text, model.emissions(batch, collate_visuals([None, nothing] * 3)))
    assert torch.equal(text, blind.emissions(batch))
    assert model.relation(batch, collate_visuals([nothing] * 6)).isnan().all()


@torch.no_grad()
def test_every_picture_of_a_post_is_read_and_a_long_tweet_has_one_relation(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder)
    views = views_of(model, xlm_r_folder)
    encoded = views.encode([View("1", ["Jordan", "Paris"] * 40, None, "")], with_context=False)
    batch = collate(encoded, views.pad_id)
    assert len(batch["tweets"]) > 2
    closings = encoded[0].closings[:1]
    first = replace(encoded[0], windows=encoded[0].windows[:1], rows=[0], positions=[1], ends=[2], closings=closings)
    visuals = [collate_visuals([PostVisual(picture(1, n=2).regions[:n], ())]) for n in (1, 2)]
    emissions = []
    for visual in visuals:
        assert visual is not None
        torch.testing.assert_close(model.relation(batch, visual), model.relation(collate([first], 1), visual))
        emissions.append(model.emissions(batch, visual))
    changed = (emissions[0] - emissions[1]).abs().amax(-1)[0]
    assert (changed > 1e-4).all()  # in every window


def test_windows_leave_room_for_a_pictures_regions(xlm_r_folder: Path) -> None:
    params = small_params(xlm_r_folder, model="rpbert", max_length=512)
    many = FACTS | {"n_cells": 20}
    model = RpbertTagger.from_encoder(xlm_r_folder, ["O", "B-X", "I-X"], params, facts=many, local_files_only=True)
    assert model.config.max_length == 44
    assert model.config.max_context == 0
    views = views_of(model, xlm_r_folder)
    view = views.encode([View("1", ["love"] * 60, None, "")], with_context=False)
    assert view[0].width == 44
    seen = PostVisual((np.ones((20, 6), np.float16),), ())
    assert torch.isfinite(read(model, view, [seen], views.pad_id)).all()


@pytest.mark.parametrize("folder", ["xlm_r_folder", "bert_folder"])
def test_a_saved_tagger_gives_the_same_emissions(folder: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = request.getfixturevalue(folder)
    model = tagger(source)
    assert (model.region_vector is None) == (folder == "bert_folder")
    if model.region_vector is not None:
        torch.nn.init.normal_(model.region_vector)
    model.save_pretrained(tmp_path)
    load_tokenizer(source, local_files_only=True).save_pretrained(tmp_path)
    loaded, views = load_tagger(tmp_path)
    assert isinstance(loaded, RpbertTagger)
    encoded = views.encode(many_views(4), with_context=True)
    pictures = [picture(1), None, picture(2, n=2), picture(3)]
    torch.testing.assert_close(read(loaded, encoded, pictures, 1), read(model, encoded, pictures, 1), rtol=0, atol=1e-6)


def examples_of(model: RpbertTagger, views: ViewEncoder, n: int) -> list[Example]:
    """Posts whose pictures alone tell whether a name is a person's or a place's."""
    posts = ambiguous_views(n, seed=2)
    shown = {kind: picture(seed) for seed, kind in enumerate(("court", "desert"))}
    return [
        Example(
            {
                "text_only": view,
                "cross_modal": replace(view, visual=shown["court" if "court" in post.context else "desert"]),
            },
            [model.labels.index(label) for label in to_scheme(post.labels or [])],
        )
        for view, post in zip(views.encode(posts, with_context=False), posts, strict=True)
    ]


def test_it_learns_what_only_the_picture_decides(xlm_r_folder: Path) -> None:
    params = small_params(xlm_r_folder, model="rpbert", new_learning_rate=0.01)
    model = tagger(xlm_r_folder).train()
    views = views_of(model, xlm_r_folder)
    examples = examples_of(model, views, 32)
    optimizer = torch.optim.AdamW(model.parameter_groups(params), lr=params.learning_rate)
    for step in range(50):
        batch = collate_examples(examples[step % 2 * 16 :][:16], views.pad_id, model.training_views)
        outputs = model(**batch)
        outputs["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert outputs["nll_cross_modal"] < 0.3 < outputs["nll_text_only"]


def test_a_step_in_bfloat16_is_near_one_in_float32(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder)
    views = views_of(model, xlm_r_folder)
    batch = collate_examples(examples_of(model, views, 8), views.pad_id)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch)["loss"]
    loss.backward()
    torch.testing.assert_close(loss, model(**batch)["loss"], rtol=0.02, atol=0.0)
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)


def test_layers_on_top_have_the_learning_rate_of_new_ones(xlm_r_folder: Path) -> None:
    params = small_params(
        xlm_r_folder, model="rpbert", learning_rate=1e-5, new_learning_rate=1e-3, crf_learning_rate=2e-3
    )
    model = tagger(xlm_r_folder)
    rates = {id(one): group["lr"] for group in model.parameter_groups(params) for one in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == {"encoder": 1e-5, "crf": 2e-3}.get(name.partition(".")[0], 1e-3), name


def test_without_features_it_is_refused_but_for_text_alone(xlm_r_folder: Path) -> None:
    params = small_params(xlm_r_folder, model="rpbert")
    for visuals in (None, Visuals(None, {"a.jpg": [(0.5, "dog")]})):
        with pytest.raises(UserError, match=r"rpbert with train.views: both reads features .* \(features.extractor\)"):
            set_up(params, xlm_r_folder, ambiguous_views(4, seed=0), visuals)
    alone = params.model_copy(update={"views": "text_only"})
    model, _, _ = set_up(alone, xlm_r_folder, ambiguous_views(4, seed=0))
    assert not any(name.startswith("projection") for name, _ in model.named_parameters())
