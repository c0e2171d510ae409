"""The dry pass before the first epoch, on small encoders of the true architectures with a byte-level BPE."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ner.models.folder import load_tagger, load_tokenizer
from ner.training.run import set_up
from pipeline.core.errors import UserError
from tests.ner.conftest import ambiguous_views, saved_encoder, small_params

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
GROUPS = {f"{name}_groups": 2 for name in ("q", "k", "v", "intermediate", "output")}
WORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ModernBERT": ("ModernBertConfig", {**SMALL, "cls_token_id": 0, "sep_token_id": 2}),
    "DeBERTa": ("DebertaConfig", {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "BART": ("BartConfig", {**BART, "encoder_attention_heads": 2, "decoder_attention_heads": 2}),
    "MPNet": ("MPNetConfig", {**SMALL, "max_position_embeddings": 66}),
    "SqueezeBERT": ("SqueezeBertConfig", {**SMALL, **GROUPS, "embedding_size": 32}),
    "ALBERT": ("AlbertConfig", {**SMALL, "embedding_size": 16}),
    "a causal BERT": ("BertConfig", {**SMALL, "is_decoder": True}),
}
FAILS: dict[str, tuple[str, dict[str, Any], str]] = {
    "FNet": ("FNetConfig", SMALL, r"\(fnet\) cannot be trained here: .* depends on what else is in its batch"),
    "X-MOD": ("XmodConfig", {**SMALL, "languages": ("en_XX",)}, r"\(xmod\) .* Input language unknown"),
    "T5": ("T5Config", {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2}, r"\(t5\) cannot be trained here"),
}


@pytest.mark.parametrize("name", WORKS)
def test_an_encoder_that_passes_gives_the_same_tagger_when_it_is_loaded(tmp_path: Path, bpe: Any, name: str) -> None:
    folder = saved_encoder(tmp_path / "encoder", bpe, *WORKS[name])
    params = small_params(folder, max_length=512)
    model, tokenizer, views = set_up(params, folder, ambiguous_views(8, seed=0))
    assert views.limits.max_length == 64
    assert not model.packs
    model.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    again, its_views = load_tagger(tmp_path / "tagger")
    words = ["Jordan", "love", "RT"]
    assert views.words(words) == its_views.words(words)
    together = bpe(" Jordan love RT", add_special_tokens=False)["input_ids"]
    assert [piece for word in words for piece in views.words(words)[word]] == together
    for (key, tensor), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), key


@pytest.mark.parametrize("name", FAILS)
def test_an_encoder_that_fails_is_refused_by_name(tmp_path: Path, bpe: Any, name: str) -> None:
    kind, options, message = FAILS[name]
    folder = saved_encoder(tmp_path / "encoder", bpe, kind, options)
    with pytest.raises(UserError, match=message):
        set_up(small_params(folder, max_length=64), folder, ambiguous_views(8, seed=0))


def test_a_slow_tokenizer_is_refused_with_others_to_take(
    tmp_path: Path, xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = transformers.BertweetTokenizer
    (tmp_path / "vocab.txt").write_text("love 1\n", encoding="utf-8")
    (tmp_path / "bpe.codes").write_text("l o 1\n", encoding="utf-8")
    tokenizer = slow(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes"))
    tokenizer.save_pretrained(tmp_path / "encoder")
    transformers.RobertaConfig().save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match=r"expected a fast tokenizer .* BertweetTokenizer.*twitter-roberta-base"):
        load_tokenizer(tmp_path / "encoder", local_files_only=True)


def test_the_dry_pass_draws_no_random_numbers(xlm_r_folder: Path) -> None:
    set_up(small_params(xlm_r_folder), xlm_r_folder, ambiguous_views(8, seed=0))
    after = torch.rand(1)
    torch.manual_seed(3)
    from ner.models.ita import ItaTagger

    labels = ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"]
    ItaTagger.from_encoder(xlm_r_folder, labels, small_params(xlm_r_folder), local_files_only=True)
    assert torch.equal(after, torch.rand(1))
