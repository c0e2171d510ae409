"""How tokens are written, for encoders that read lower case: the features, and taggers that look at them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ner.bioes import scheme_labels
from ner.encoder.casing import FEATURES, casing_of
from ner.interop import onnx
from ner.models.folder import load_tagger, load_tokenizer, view_encoder
from ner.models.registry import SYSTEMS, tagger_class
from ner.views import collate
from pipeline.core.records import View
from tests.ner.conftest import many_views, system_params


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("jordan", set()),
        ("Jordan", {"initial_capital"}),
        ("NATO", {"all_capitals", "initial_capital"}),
        ("I", {"initial_capital"}),
        ("iPhone7", {"inner_capital", "digit"}),
        ("#JeSuisParis", {"initial_capital", "inner_capital", "hash"}),
        ("@nato", {"at"}),
        ("\u200b", set()),
        ("東京", set()),
    ],
)
def test_a_token_has_the_features_of_how_it_is_written(token: str, expected: set[str]) -> None:
    assert {name for name, has in zip(FEATURES, casing_of(token), strict=True) if has} == expected


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_tagger_begins_as_it_would_without_and_tells_capitals_apart_once_it_has_learned(
    system: str, bert_folder: Path, tmp_path: Path
) -> None:
    """BERT's tokenizer here lowers every letter, so that nothing else can."""
    labels = scheme_labels([["B-PER"]])
    torch.manual_seed(1)
    params = system_params(bert_folder, system, casing=True, views="text_only", word_dropout=0.0)
    model = tagger_class(system).from_encoder(bert_folder, labels, params).eval()
    views = view_encoder(load_tokenizer(bert_folder), model.config)
    posts = [View("1", ["love", "Jordan"], None, ""), View("2", ["love", "jordan"], None, "")]
    one, other = (collate(views.encode([post], with_context=False), views.pad_id) for post in posts)
    assert torch.equal(one["input_ids"], other["input_ids"])
    assert one["casing"].shape == (1, 2, len(FEATURES))
    assert torch.equal(model.emissions(one), model.emissions(other))
    assert model.casing is not None
    torch.nn.init.normal_(model.casing.weight)
    assert not torch.allclose(model.emissions(one)[0, 1], model.emissions(other)[0, 1])
    model.save_pretrained(tmp_path / "tagger")
    views.tokenizer.save_pretrained(tmp_path / "tagger")
    loaded, again = load_tagger(tmp_path / "tagger")
    batch = collate(again.encode([posts[0], *many_views(5)], with_context=False), again.pad_id)
    assert batch["casing"][0].sum().item() == 1
    with torch.no_grad():
        torch.testing.assert_close(loaded.emissions(batch)[:1, :2], model.emissions(one), rtol=1e-4, atol=1e-5)
    exported, _ = onnx.load(onnx.export(tmp_path / "tagger", tmp_path / "onnx"))
    with torch.no_grad():
        wanted = loaded.emissions(batch)[batch["mask"]]
    torch.testing.assert_close(exported.emissions(batch)[batch["mask"]], wanted, rtol=1e-4, atol=1e-4)


def test_both_views_of_a_tweet_are_marked(bert_folder: Path) -> None:
    model = (
        tagger_class("ita")
        .from_encoder(bert_folder, scheme_labels([["B-PER"]]), system_params(bert_folder, "ita", casing=True))
        .eval()
    )
    assert model.casing is not None
    torch.nn.init.normal_(model.casing.weight)
    views = view_encoder(load_tokenizer(bert_folder), model.config)
    posts = [replace(post, tokens=[*post.tokens, "Jordan"]) for post in many_views(4)]
    text, crossed = (
        collate(views.encode(posts, with_context=with_context), views.pad_id) for with_context in (False, True)
    )
    with torch.no_grad():
        both = model.two_view_emissions(text, crossed)
        alone = model.emissions(text), model.emissions(crossed)
    for one, other in zip(both, alone, strict=True):
        torch.testing.assert_close(one[text["mask"]], other[text["mask"]], rtol=1e-4, atol=1e-5)
