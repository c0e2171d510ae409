"""What tokens attend to in pictures: as the passes that make emissions have it, computed again by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ner.encoder import packing
from ner.models import iie4mner, rpbert
from ner.models.rpbert import RpbertTagger
from ner.views import EncodedView, collate
from ner.visual import PostVisual, collate_visuals
from pipeline.core.errors import UserError
from tests.ner.conftest import many_views, saved_encoder
from tests.ner.models import test_iie4mner as of_iie4mner
from tests.ner.models import test_rpbert as of_rpbert

N_POSTS = 9


def by_hand(model: RpbertTagger, view: EncodedView, seen: PostVisual) -> Tensor:
    """One tweet's weights from the queries and keys of the last layer, window by window, *Shape:* (L, R)."""
    encoder = model.encoder
    visual = collate_visuals([seen])
    assert visual is not None
    assert model.projection is not None
    regions = model.projection(visual["regions"][0].float())
    relation = model.relation(collate([view], 1), visual)
    if model.options.gate == "hard":
        relation = (relation >= 0.5).float()
    bias = torch.zeros(len(regions))
    if model.options.gate != "none" and model.options.gate_on == "input":
        regions = regions * relation
    elif model.options.gate != "none":
        bias = bias + relation.log()
    if model.region_vector is not None:
        regions = regions + model.region_vector
    layer = encoder.encoder.layer[-1].attention.self
    every = []
    for window, closing in zip(view.windows, view.closings, strict=True):
        n = len(window)
        words = encoder.get_input_embeddings()(torch.tensor(window))
        positions = torch.cat([torch.arange(n), closing + 1 + visual["cells"][0]]) + packing.first_position(encoder)
        types = torch.tensor([0] * n + [int(model.typed)] * len(regions))
        scores = torch.cat([torch.zeros(n), bias])
        hidden = encoder(
            inputs_embeds=torch.cat([words, regions])[None],
            attention_mask=scores[None, None, None],
            position_ids=positions[None],
            token_type_ids=types[None],
            output_hidden_states=True,
        ).hidden_states[-2][0]
        size = layer.attention_head_size
        heads = []
        for start in range(0, layer.all_head_size, size):
            query, key = (projection(hidden)[:, start : start + size] for projection in (layer.query, layer.key))
            heads.append((query @ key.T / size**0.5 + scores).softmax(-1)[:, n:])
        every.append(torch.stack(heads).mean(0))
    first = model.options.pooling == "first"
    return torch.stack(
        [
            every[row][position : position + 1 if first else end].mean(0)
            for row, position, end in zip(view.rows, view.positions, view.ends, strict=True)
        ]
    )


@pytest.mark.parametrize("options", of_rpbert.GATES[:-1], ids=str)
@pytest.mark.parametrize(("folder", "packs"), [("xlm_r_folder", True), ("bert_folder", False)])
@torch.no_grad()
def test_rpberts_weights_are_those_of_the_last_layer(
    folder: str, packs: bool, options: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = request.getfixturevalue(folder)
    model = of_rpbert.tagger(source, **options)
    assert model.packs
    model.packs = packs
    if model.region_vector is not None:
        torch.nn.init.normal_(model.region_vector)
    views = of_rpbert.views_of(model, source)
    encoded = views.encode(many_views(N_POSTS), with_context=True)
    assert max(len(view.windows) for view in encoded) > 1
    pictures = [None if row % 3 == 0 else of_rpbert.picture(row, n=1 + row % 2) for row in range(N_POSTS)]
    batch, visual = collate(encoded, views.pad_id), collate_visuals(pictures)
    assert visual is not None
    implementation, emissions = model.encoder.config._attn_implementation, model.emissions(batch, visual)

    weights = model.grid_attention(batch, visual)
    assert weights.shape == (*batch["mask"].shape, 8)
    assert float(weights.sum(-1).max()) < 1, "the rest goes to the tweet"
    for row, (view, seen) in enumerate(zip(encoded, pictures, strict=True)):
        wanted = torch.zeros_like(weights[row])
        if seen is not None:
            found = by_hand(model, view, seen)
            wanted[: len(view), : found.shape[1]] = found
        torch.testing.assert_close(weights[row], wanted, rtol=1e-4, atol=1e-6)
    if "gate" not in options or options["gate"] != "hard":
        assert float(weights.sum(-1)[1, 0]) > 0.05

    monkeypatch.setattr(rpbert, "_WEIGHED_AT_ONCE", 1)
    torch.testing.assert_close(model.grid_attention(batch, visual), weights, rtol=1e-4, atol=1e-6)
    assert model.encoder.config._attn_implementation == implementation
    assert torch.equal(model.emissions(batch, visual), emissions), "the next pass is as the one before"


def test_an_encoder_that_does_not_tell_what_it_attends_to_is_named(tmp_path: Path, bpe: Any) -> None:
    folder = saved_encoder(tmp_path, bpe, "FNetConfig", {"hidden_size": 32, "num_hidden_layers": 2})
    model = of_rpbert.tagger(folder, gate="none")
    batch = collate(of_rpbert.views_of(model, folder).encode(many_views(2), with_context=False), 1)
    visual = collate_visuals([of_rpbert.picture(1)] * 2)
    assert visual is not None
    with pytest.raises(
        UserError, match=r"FNetModel does not tell what its sub-tokens attend to; set evaluate\.attention"
    ):
        model.grid_attention(batch, visual)


@torch.no_grad()
def test_pictures_without_features_are_not_attended_to(xlm_r_folder: Path) -> None:
    nothing = PostVisual((), (1,))
    model = of_rpbert.tagger(xlm_r_folder)
    views = of_rpbert.views_of(model, xlm_r_folder)
    batch = collate(views.encode(many_views(3), with_context=False), views.pad_id)
    visual = collate_visuals([nothing] * 3)
    assert visual is not None
    assert model.grid_attention(batch, visual).shape == (*batch["mask"].shape, 0)
    other, _ = of_iie4mner.tagger(xlm_r_folder)
    weights = other.eval().grid_attention(batch, visual)
    assert weights is not None
    assert weights.shape == (*batch["mask"].shape, 0)
    blind, _ = of_iie4mner.tagger(xlm_r_folder, of_iie4mner.FACTS | {"region_width": None})
    assert blind.eval().grid_attention(batch, visual) is None


@torch.no_grad()
def test_iie4mners_weights_are_those_of_the_layer_that_looks_at_the_grid(
    xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, views = of_iie4mner.tagger(xlm_r_folder, of_iie4mner.WORDS)
    model.eval()
    assert model.coarse is not None
    posts = [post for post in many_views(14) if post.tokens][: len(of_iie4mner.PICTURES)]
    some = of_iie4mner.encoded(views, posts, of_iie4mner.PICTURES)
    assert any(len(each.windows) > 1 for each in some)
    batch, visual = of_iie4mner.batches(views, some)
    assert visual is not None
    weights = model.grid_attention(batch, visual)
    assert weights is not None
    assert weights.shape == (*batch["mask"].shape, 8)

    layer, seen = model.coarse.direct, list[tuple[Tensor, Tensor]]()
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    for row, each in enumerate(some):
        seen.clear()
        model.emissions(*of_iie4mner.batches(views, [each]))
        n_regions = sum(map(len, each.visual.regions)) if each.visual else 0
        if not n_regions:
            assert not weights[row].any()
            continue
        [(tokens, items)] = seen
        queries, keys = (
            projection(vectors).unflatten(-1, (layer.n_heads, -1)).transpose(1, 2)
            for projection, vectors in ((layer.query, tokens), (layer.key, items))
        )
        # Values that are the rows of an identity come out as the weights themselves.
        same = torch.eye(n_regions).expand(*keys.shape[:2], -1, -1)
        looked = scaled_dot_product_attention(queries, keys, same).mean(1)
        slots = [each.rows[:place].count(window) for place, window in enumerate(each.rows)]
        wanted = looked[each.rows, slots]
        torch.testing.assert_close(weights[row, : len(each), :n_regions], wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weights[row, : len(each)].sum(-1), torch.ones(len(each)))
        assert not weights[row, len(each) :].any()
        assert float(wanted.std()) > 1e-3, "not the same for all regions"
    handle.remove()

    monkeypatch.setattr(iie4mner, "MAX_SUBTOKENS_AT_ONCE", 2 * batch["input_ids"].shape[1])
    in_pieces = model.grid_attention(batch, visual)
    assert in_pieces is not None
    torch.testing.assert_close(in_pieces, weights, rtol=1e-4, atol=1e-6)
