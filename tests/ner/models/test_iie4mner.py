"""IIE4MNER: what pictures may and may not change, and that they can be learned from."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ner.bioes import scheme_labels, to_scheme
from ner.decoding import decode_labels
from ner.models import iie4mner
from ner.models.folder import load_tagger, load_tokenizer, view_encoder
from ner.models.iie4mner import Iie4mnerTagger
from ner.models.trial import require_trainable
from ner.tagger import Tagger
from ner.training.run import set_up
from ner.training.sampler import Example, collate_examples
from ner.views import UNKNOWN_WORD, EncodedView, ViewBatch, ViewEncoder, collate
from ner.visual import NO_OBJECT, UNKNOWN_OBJECT, PostVisual, VisualBatch, collate_visuals
from pipeline.core.errors import UserError
from pipeline.core.records import View
from tests.ner.conftest import ambiguous_views, many_views, small_params

FACTS = {"region_width": 6, "n_cells": 4, "object_labels": ["ball", "cactus"]}


# Each of our modules and what the published class calls it.
def tagger(folder: Path, facts: dict[str, Any] | None = None, **changes: Any) -> tuple[Iie4mnerTagger, ViewEncoder]:
    torch.manual_seed(1)
    labels = scheme_labels([["B-PER", "B-LOC"]])
    params = small_params(folder, model="iie4mner", word_dropout=0.0, **changes)
    facts = FACTS if facts is None else facts
    model = Iie4mnerTagger.from_encoder(folder, labels, params, facts=facts, local_files_only=True)
    if model.table is not None:
        model.table[UNKNOWN_WORD + 1 :] = torch.randn(len(model.table) - UNKNOWN_WORD - 1, model.table.shape[1])
    return model, view_encoder(load_tokenizer(folder, local_files_only=True), model.config)


def picture(number: int, objects: tuple[int, ...] = (UNKNOWN_OBJECT + 1,), pictures: int = 1) -> PostVisual:
    rng = np.random.default_rng(number)
    regions = tuple(rng.standard_normal((4, 6)).astype(np.float16) for _ in range(pictures))
    return PostVisual(regions, objects)


def encoded(views: ViewEncoder, posts: Sequence[View], pictures: Sequence[PostVisual | None]) -> list[EncodedView]:
    return [
        replace(each, visual=visual)
        for each, visual in zip(views.encode(posts, with_context=True), pictures, strict=True)
    ]


def batches(views: ViewEncoder, some: Sequence[EncodedView]) -> tuple[ViewBatch, VisualBatch | None]:
    return collate(some, views.pad_id), collate_visuals([each.visual for each in some])


PICTURES = [
    picture(0),
    picture(1, (3, 2, 1)),
    picture(2, ()),  # regions alone
    PostVisual((), (2, 2)),  # objects alone
    PostVisual((), ()),  # a picture in which nothing was found, without features
    picture(3, (2, 3, 1, 1, 2), pictures=2),
    None,
]
WORDS = FACTS | {"words": ["Jordan", "love"], "word_width": 5}


@pytest.mark.parametrize("facts", [FACTS, WORDS], ids=["without words", "with words"])
def test_a_tweets_emissions_do_not_depend_on_its_batch(xlm_r_folder: Path, facts: dict[str, Any]) -> None:
    model, views = tagger(xlm_r_folder, facts)
    model.eval()
    posts = [post for post in many_views(14) if post.tokens][: len(PICTURES)]
    some = encoded(views, posts, PICTURES)
    assert any(len(each.windows) > 1 for each in some)
    with torch.no_grad():
        together = model.emissions(*batches(views, some))
        for row, each in enumerate(some):
            alone = model.emissions(*batches(views, [each]))[0]
            torch.testing.assert_close(together[row, : len(each)], alone, rtol=1e-4, atol=1e-5)
    blind = model.emissions(batches(views, some)[0])
    changed = (blind - together).abs().amax((1, 2))
    assert (changed[:4] > 1e-3).all()
    assert changed[5] > 1e-3


def test_a_tweet_without_a_picture_is_the_text_only_view_bit_for_bit(xlm_r_folder: Path) -> None:
    model, views = tagger(xlm_r_folder, WORDS)
    model.eval()
    posts = ambiguous_views(8, seed=3)
    some = encoded(views, posts, [picture(place) if place % 2 else None for place in range(8)])
    view, visual = batches(views, some)
    text_only = collate(views.encode(posts, with_context=False), views.pad_id)
    mixed, alone = model.emissions(view, visual), model.emissions(text_only)
    assert torch.equal(mixed[::2], alone[::2])
    assert not torch.isclose(mixed[1::2], alone[1::2]).all()
    student, teacher = model.two_view_emissions(text_only, view, visual)
    assert torch.equal(student, alone)
    assert torch.equal(teacher, mixed)


def test_windows_in_pieces_give_the_same_as_all_at_once(xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, views = tagger(xlm_r_folder, WORDS)
    model.eval()
    posts = [View("a", ["love"] * 120, None, ""), View("b", ["in", "Jordan"], None, ""), View("c", ["Paris"], None, "")]
    view, visual = batches(views, encoded(views, posts, [picture(0, pictures=2), None, picture(1)]))
    with torch.no_grad():
        at_once = model.emissions(view, visual)
        monkeypatch.setattr(iie4mner, "MAX_SUBTOKENS_AT_ONCE", 2 * view["input_ids"].shape[1])
        in_pieces = model.emissions(view, visual)
    assert len(view["input_ids"]) > 5
    torch.testing.assert_close(in_pieces[view["mask"]], at_once[view["mask"]], rtol=1e-4, atol=1e-5)


def test_a_token_of_a_long_tweet_is_read_in_its_own_window(xlm_r_folder: Path) -> None:
    """The tokens of each window, scored one by one from that window alone."""
    model, views = tagger(xlm_r_folder)
    model.eval()
    [long] = encoded(views, [View("a", ["love", "Jordan", "x"] * 25, None, "")], [picture(0)])
    assert len(long.windows) > 2
    found = model.emissions(*batches(views, [long]))[0]
    for token, (row, position, end) in enumerate(zip(long.rows, long.positions, long.ends, strict=True)):
        one = EncodedView([long.windows[row]], [0], [position], [end], [long.closings[row]], "", None, long.visual)
        torch.testing.assert_close(found[token], model.emissions(*batches(views, [one]))[0, 0], rtol=1e-4, atol=1e-5)


def test_words_vectors_are_added_at_first_sub_tokens_alone(xlm_r_folder: Path) -> None:
    model, views = tagger(xlm_r_folder, WORDS)
    model.eval()
    [post] = views.encode([View("a", ["love", "ab", "Jordan"], None, "")], with_context=False)
    view = collate([post], views.pad_id)
    assert [int(row) for row in view["words"][0] if row] == [3, UNKNOWN_WORD, 2]
    model.emissions(view)
    assert model._last is not None
    with_vectors = model._last.augmented
    model.table = torch.zeros_like(model.table)  # type: ignore[arg-type]
    model.emissions(view)
    assert model._last is not None
    added = (with_vectors - model._last.augmented).abs().amax(-1)[0] > 1e-4
    firsts = {post.positions[0], post.positions[2]}
    assert {int(place) for place in added.nonzero()} == firsts


def test_without_objects_text_attends_evenly_to_the_vector_of_nothing(xlm_r_folder: Path) -> None:
    """Five times nothing look like one nothing, and are independent of what the text asks."""
    model, _ = tagger(xlm_r_folder)
    model.eval()
    branch, width = model.fine, model.config.encoder["hidden_size"]  # type: ignore[index]
    assert branch is not None
    nothing = model.objects(torch.full((1, 5), NO_OBJECT))
    mask = torch.zeros(1, 5, dtype=torch.bool)
    text, bias, of = torch.randn(1, 7, width), torch.zeros(1, 1, 1, 7), torch.zeros(1, dtype=torch.long)
    found = branch(text, text, bias, (nothing, nothing), mask, of)
    one = branch(text, text, bias, (nothing[:, :1],) * 2, mask[:, :1], of)
    torch.testing.assert_close(found, one)


def test_the_gate_of_objects_weighs_the_objects_that_have_read_the_text(xlm_r_folder: Path) -> None:
    """g = 1 leaves C₁ of the grid and C₄ of the objects (published: in that order)."""
    model, _ = tagger(xlm_r_folder)
    model.eval()
    width = model.config.encoder["hidden_size"]  # type: ignore[index]
    text, bias, of = torch.randn(1, 7, width), torch.zeros(1, 1, 1, 7), torch.zeros(1, dtype=torch.long)
    items, mask = torch.randn(1, 3, width), torch.ones(1, 3, dtype=torch.bool)
    no_bias = torch.zeros(1, 1, 1, 3)
    for branch in (model.coarse, model.fine):
        assert branch is not None
        with torch.no_grad():
            branch.gate.one.bias.fill_(1e4)
        found = branch(text, text, bias, (items, items), mask, of)
        direct = branch.direct(text, branch.items(items, items, no_bias), no_bias)
        again = branch.items_again(items, items, no_bias)
        aware = branch.aware(text, branch.read_text(again, text, bias), no_bias)
        torch.testing.assert_close(found, direct if branch is model.coarse else aware)


@pytest.mark.parametrize(
    ("facts", "views", "coarse", "fine"),
    [
        (FACTS, "both", True, True),
        (FACTS, "cross_modal", True, True),
        (FACTS, "text_only", False, False),
        (FACTS | {"region_width": None, "n_cells": None}, "both", False, True),
        (FACTS | {"object_labels": []}, "both", True, False),
        ({}, "both", False, False),
    ],
)
def test_every_layer_that_is_there_is_trained(
    xlm_r_folder: Path, facts: dict[str, Any], views: str, coarse: bool, fine: bool
) -> None:
    """As processes that train together expect; and what nothing would train is not there."""
    model, encoder = tagger(xlm_r_folder, facts, views=views)
    assert (model.coarse is not None, model.fine is not None) == (coarse, fine)
    require_trainable(model, encoder, xlm_r_folder)
    outputs = model(
        **training_batch(model, encoder, ambiguous_views(4, seed=1), [picture(place) for place in range(4)])
    )
    assert outputs["spans"] > 0
    outputs["loss"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def training_batch(
    model: Iie4mnerTagger, views: ViewEncoder, posts: Sequence[View], pictures: Sequence[PostVisual | None]
) -> dict[str, Any]:
    names: list[Any] = ["text_only", "cross_modal"] if model.config.views == "both" else [model.config.views]
    text_only = views.encode(posts, with_context=False)
    seen = encoded(views, posts, pictures)
    examples = [
        Example(
            {name: {"text_only": one, "cross_modal": other}[name] for name in names},
            [model.labels.index(label) for label in to_scheme(post.labels or [])],
        )
        for one, other, post in zip(text_only, seen, posts, strict=True)
    ]
    return collate_examples(examples, views.pad_id, model.training_views)


def test_the_loss_of_spans_is_that_of_labels_without_types(xlm_r_folder: Path) -> None:
    model, views = tagger(xlm_r_folder, iie4mner={"span_weight": 0.25})
    model.eval()
    posts = ambiguous_views(6, seed=2)
    batch = training_batch(model, views, posts, [None] * 6)
    outputs = model(**batch)
    model.emissions(batch["text_only"])
    assert model._last is not None
    text = model._last
    every = model.span_emission(model.spans(text.augmented, text.augmented, text.bias))
    emissions = every[batch["text_only"]["rows"], batch["text_only"]["positions"]]
    names = iie4mner.span_labels(model.labels)
    assert names == ["O", "B-span", "I-span", "E-span", "S-span"]
    gold = torch.zeros_like(batch["labels"])
    for row, post in enumerate(posts):
        for place, label in enumerate(to_scheme(post.labels or [])):
            gold[row, place] = names.index("O" if label == "O" else f"{label[0]}-span")
    wanted = -0.25 * model.span_crf.log_likelihood(emissions, gold, batch["text_only"]["mask"]).mean()
    torch.testing.assert_close(outputs["spans"], wanted.detach())
    with torch.no_grad():
        torch.testing.assert_close(model(**batch)["spans"], wanted.detach())  # nothing is kept of the pass before
    assert "spans" not in tagger(xlm_r_folder, iie4mner={"span_weight": 0.0})[0](**batch)


def test_a_saved_tagger_is_the_same_when_it_is_loaded(xlm_r_folder: Path, tmp_path: Path) -> None:
    model, views = tagger(xlm_r_folder, WORDS)
    model.eval().save_pretrained(tmp_path)
    views.tokenizer.save_pretrained(tmp_path)
    loaded, its_views = load_tagger(tmp_path)
    assert isinstance(loaded, Iie4mnerTagger)
    assert its_views.table == {"Jordan": 2, "love": 3}
    for (name, one), other in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    some = encoded(its_views, ambiguous_views(7, seed=4), PICTURES)
    assert torch.equal(loaded.emissions(*batches(its_views, some)), model.emissions(*batches(views, some)))


def test_vectors_of_words_come_from_the_file_and_go_with_the_tagger(xlm_r_folder: Path, tmp_path: Path) -> None:
    """Those of the training split and of the words named beside it; the file is not needed afterwards."""
    file = tmp_path / "vectors.txt"
    file.write_text("love 1 0\ncat 0 1\njordan 1 1\ncourt 2 1\n", encoding="utf-8")
    params = small_params(xlm_r_folder, model="iie4mner", iie4mner={"word_vectors": str(file), "neighbours": 2})
    posts = [post for post in ambiguous_views(16, seed=2) if "Paris" not in post.tokens]
    model, tokenizer, _ = set_up(params, xlm_r_folder, posts, words=["cat", "dog"])
    assert model.config.facts is not None
    assert model.config.facts["words"] == ["Jordan", "cat", "love"]
    assert model.config.options is not None
    assert model.config.options["word_vectors"] == "vectors.txt"
    model.eval().save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    file.unlink()
    loaded, its_views = load_tagger(tmp_path / "tagger")
    assert isinstance(loaded, Iie4mnerTagger)
    assert loaded.table is not None
    assert loaded.table[:2].tolist() == [[0, 0], [0, 0]]
    # Nearest to "cat" (0, 1): jordan at cosine 0.707, court at 0.447.
    weight = 1 / (1 + math.exp(1 / math.sqrt(5) - 1 / math.sqrt(2)))
    torch.testing.assert_close(loaded.table[3], torch.tensor([weight + 2 * (1 - weight), 1.0]))
    [post] = its_views.encode([View("a", ["dog", "cat"], None, "")], with_context=False)
    assert [row for row in (post.words or [[]])[0] if row] == [UNKNOWN_WORD, 3]


def test_words_that_training_did_not_have_are_augmented_from_the_file_at_hand(
    xlm_r_folder: Path, tmp_path: Path
) -> None:
    """As if they had been there: emissions equal those of a tagger with the word in its own table."""
    file = tmp_path / "vectors.txt"
    file.write_text("love 1 0\ncat 0 1\njordan 1 1\ncourt 2 1\n", encoding="utf-8")
    params = small_params(xlm_r_folder, model="iie4mner", iie4mner={"word_vectors": str(file), "neighbours": 2})
    posts = ambiguous_views(16, seed=2)
    (model, tokenizer, _), (whole, _, its_views) = (
        set_up(params, xlm_r_folder, posts, words=words) for words in ([], ["cat", "court"])
    )
    model.eval().save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    whole.load_state_dict({**model.state_dict(), "table": whole.table})
    strange = View("1", ["the", "cat", "court"], None, "")
    expected, loaded = Tagger(whole.eval(), its_views), Tagger.load(tmp_path / "tagger", "cpu")

    def scores(tagger: Tagger) -> torch.Tensor:
        [encoding] = tagger._encoded([strange], with_context=False)
        return tagger.model.emissions(collate([encoding], tagger.encoder.pad_id))

    assert not torch.allclose(scores(loaded), scores(expected), atol=1e-3)
    loaded.augment(file)
    for tokens in (["court"], ["love", "cat"], ["a", "dog"]):  # what is read in between leaves nothing behind
        list(loaded.predict([View("0", tokens, None, "")]))
        torch.testing.assert_close(scores(loaded), scores(expected))
    other = tmp_path / "other.txt"
    other.write_text("love 1 0\ncat 0 1\njordan 1 1\ncourt 2 -1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"other\.txt: expected those .* was trained with \(vectors\.txt\)"):
        loaded.augment(other)
    plain, _, views = set_up(small_params(xlm_r_folder, model="iie4mner"), xlm_r_folder, posts)
    with pytest.raises(UserError, match="was trained without word vectors"):
        Tagger(plain, views).augment(file)


@pytest.mark.parametrize("shown_by", ["grid", "objects"])
def test_what_a_picture_alone_decides_is_learned(xlm_r_folder: Path, shown_by: str) -> None:
    model, views = tagger(xlm_r_folder, weights={"text_only": 0.5, "cross_modal": 1.0, "alignment": 0.1})
    posts = ambiguous_views(48, seed=2)

    def shown(court: bool) -> PostVisual:
        grid = np.full((4, 6), (1.0 if court else -1.0) if shown_by == "grid" else 0.0, np.float16)
        return PostVisual((grid,), ((2 if court else 3) if shown_by == "objects" else 1,))

    pictures = [shown("court" in post.context) for post in posts]
    optimizer = torch.optim.AdamW(model.parameter_groups(small_params(xlm_r_folder)))
    for _ in range(8):
        for start in range(0, 48, 12):
            places = slice(start, start + 12)
            model(**training_batch(model, views, posts[places], pictures[places]))["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    gold = [post.labels or [] for post in posts]
    assert decode_labels(model, encoded(views, posts, pictures), views.pad_id, 16) == gold
    others = [shown("court" not in post.context) for post in posts]
    swapped = {"O": "O", "B-PER": "B-LOC", "I-PER": "I-LOC", "B-LOC": "B-PER", "I-LOC": "I-PER"}
    found = decode_labels(model, encoded(views, posts, others), views.pad_id, 16)
    assert found == [[swapped[label] for label in labels] for labels in gold]


def test_it_computes_in_bfloat16(xlm_r_folder: Path) -> None:
    model, views = tagger(xlm_r_folder, WORDS)
    batch = training_batch(model, views, ambiguous_views(7, seed=1), PICTURES)
    model.eval()
    with torch.no_grad():
        wanted = model(**batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(**batch)
    for name, term in wanted.items():
        assert found[name] == pytest.approx(float(term), rel=0.05, abs=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(**batch)["loss"].backward()
