"""An encoder with fewer sub-tokens reads the texts that it was made for as the whole one does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from ner import trim
from ner.models.folder import load_tokenizer
from ner.models.pretrained import load_encoder
from ner.views import ViewEncoder, WindowLimits, collate
from pipeline.core import checksums, records
from pipeline.core.errors import UserError
from pipeline.core.records import View
from tests.conftest import ROOT
from tests.ner.conftest import saved_encoder

VIEWS = [
    View("1", ["In", "the", "Jordan", "\u200b", "!"], None, "photo of court"),
    View("2", ["@love", "[UNK]", "</s>", "\U0001f600"], None, ""),
]


def states(folder: Path, views: list[View]) -> torch.Tensor:
    """The vectors of all sub-tokens, of views with their contexts."""
    tokenizer, encoder = load_tokenizer(folder, local_files_only=True), load_encoder(folder, None, True).eval()
    encoded = ViewEncoder(tokenizer, WindowLimits(60, 20, 4)).encode(views, with_context=True)
    ids = collate(encoded, tokenizer.pad_token_id)["input_ids"]
    there = ids != tokenizer.pad_token_id
    with torch.inference_mode():
        found: torch.Tensor = encoder(ids, there).last_hidden_state[there]
    return found


def pieces(folder: Path, text: str) -> list[str]:
    tokenizer = load_tokenizer(folder, local_files_only=True)
    found: list[str] = tokenizer.tokenize(text)
    return found


def sizes(folder: Path) -> tuple[int, int]:
    """Sub-tokens that there are vectors of, and those that the tokenizer has."""
    encoder: PreTrainedModel = load_encoder(folder, None, True)
    table: Any = encoder.get_input_embeddings()
    assert encoder.config.vocab_size == table.num_embeddings
    return table.num_embeddings, len(load_tokenizer(folder, local_files_only=True))


@pytest.mark.parametrize("kind", ["xlm_r_folder", "bert_folder"])
def test_what_it_was_made_for_is_read_as_before(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    whole, own = request.getfixturevalue(kind), tmp_path / "own"
    before, after = trim.trim(str(whole), own, VIEWS)
    assert (before, after) == (sizes(whole)[0], sizes(own)[0])
    assert after == sizes(own)[1] < before
    torch.testing.assert_close(states(own, VIEWS), states(whole, VIEWS), rtol=0, atol=0)
    assert sum(path.stat().st_size for path in own.iterdir()) < sum(path.stat().st_size for path in whole.iterdir())


def test_other_texts_are_cut_into_what_is_left(xlm_r_folder: Path, tmp_path: Path) -> None:
    trim.trim(str(xlm_r_folder), tmp_path / "own", VIEWS)
    assert pieces(xlm_r_folder, "in Paris") == ["▁in", "▁Paris"]
    assert pieces(tmp_path / "own", "Jordan Paris") == ["▁Jordan", "▁", *"Paris"]


def test_mentions_are_read_as_a_tagger_of_the_data_writes_them(xlm_r_folder: Path, tmp_path: Path) -> None:
    joined = View("1", ["@court"], ["O"], "")
    trim.trim(str(xlm_r_folder), tmp_path / "own", [joined, View("2", ["@", "Jordan"], None, "")])
    views = [View("2", ["@Jordan"], None, "")]
    torch.testing.assert_close(states(tmp_path / "own", views), states(xlm_r_folder, views), rtol=0, atol=0)
    assert pieces(tmp_path / "own", "Jordan") == ["▁Jordan"]


def test_the_command_reads_views_and_further_texts(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.txt").write_text("\n(Paris) love @in\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["trim", "--texts", "more.txt", str(xlm_r_folder), "own"])
    with pytest.raises(UserError, match=r"data/views: no views here; run dvc repro views"):
        trim.main()
    records.write(tmp_path / "data/views/train.jsonl", VIEWS)
    records.write(tmp_path / "data/views/test.jsonl", [View("3", ["in", "desert"], None, "")])
    trim.main()
    count = sizes(tmp_path / "own")[0]
    assert capsys.readouterr().out == f"own: {count} of {sizes(xlm_r_folder)[0]} sub-tokens\n"
    assert pieces(tmp_path / "own", "Paris love desert") == ["▁Paris", "▁love", "▁", *"desert"]
    with pytest.raises(UserError, match="own: it is there already"):
        trim.main()
    monkeypatch.setattr("sys.argv", ["trim", str(xlm_r_folder), "other", "--test"])
    trim.main()
    assert pieces(tmp_path / "other", "desert") == ["▁desert"]
    monkeypatch.setattr("sys.argv", ["trim", str(xlm_r_folder), "none/other"])
    with pytest.raises(UserError, match="none/other: cannot be written: No such file"):
        trim.main()


def test_the_folder_is_whole_sealed_and_the_same_each_time(xlm_r_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        trim.trim(str(xlm_r_folder), tmp_path / name, VIEWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    checksums.verify(tmp_path / "one", "one")
    assert (tmp_path / "one/checksums.json").read_bytes() == (tmp_path / "two/checksums.json").read_bytes()
    assert (tmp_path / "one/model.safetensors").stat().st_mode & 0o044


def test_the_samples_encoder_reads_as_before(tmp_path: Path) -> None:
    sample = ROOT / "checkpoints/sample/xlm-r"
    views = [View("1", ["Jordan", "won", "again"], None, "a man with a ball")]
    _, after = trim.trim(str(sample), tmp_path / "own", views)
    assert after < sizes(sample)[0]
    torch.testing.assert_close(states(tmp_path / "own", views), states(sample, views), rtol=0, atol=0)


def unigram(vocabulary: list[str], **special: str) -> Any:
    """A tokenizer whose special tokens may stand anywhere in its vocabulary."""
    made = Tokenizer(models.Unigram([(piece, -float(place)) for place, piece in enumerate(vocabulary)], unk_id=4))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
SPECIAL = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
PIECES = ["<s>", "▁zz", "▁yy", "</s>", "<unk>", "<pad>", "▁in", "▁court", "▁", *"couritn"]


@pytest.mark.parametrize("kind", ["XLMRobertaConfig", "BertConfig"])
def test_special_tokens_may_stand_anywhere(kind: str, tmp_path: Path) -> None:
    options = {**SMALL, "pad_token_id": 5, "eos_token_id": 3, "vocab_size": len(PIECES)}
    whole = saved_encoder(tmp_path / "whole", unigram(PIECES, **SPECIAL), kind, options)
    views = [View("1", ["in", "court"], None, "in"), View("2", ["in"], None, "")]
    before, after = trim.trim(str(whole), tmp_path / "own", views)
    assert (before, after) == (len(PIECES), len(PIECES) if kind == "XLMRobertaConfig" else len(PIECES) - 2)
    torch.testing.assert_close(states(tmp_path / "own", views), states(whole, views), rtol=0, atol=0)


def test_what_is_left_of_bytes_and_of_half_precision(tmp_path: Path) -> None:
    tokenizer = unigram([*PIECES, "<0xC3>", "▁of"], **SPECIAL)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["byte_fallback"] = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **SPECIAL)
    whole = saved_encoder(tmp_path / "whole", tokenizer, "BertConfig", {**SMALL, "vocab_size": len(PIECES) + 2})
    AutoModel.from_pretrained(whole).half().save_pretrained(whole)
    trim.trim(str(whole), tmp_path / "own", [View("1", ["in"], None, "")])
    kept = load_tokenizer(tmp_path / "own", local_files_only=True).get_vocab()
    assert "<0xC3>" in kept
    assert "▁court" not in kept
    weights = load_file(tmp_path / "own/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_tokens_that_the_encoder_has_no_vectors_of_are_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(xlm_r_folder, local_files_only=True)
    count = len(tokenizer)
    tokenizer.add_tokens(["HTTPURL"])
    shutil.copytree(xlm_r_folder, tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    with pytest.raises(
        UserError, match=rf"whole: its tokenizer has a token of number {count}, and .* vectors of {count}"
    ):
        trim.trim(str(tmp_path / "whole"), tmp_path / "own", VIEWS)
    assert not (tmp_path / "own").exists()


def test_sub_tokens_that_are_made_of_each_other_are_refused(bpe: Any, tmp_path: Path) -> None:
    folder = saved_encoder(tmp_path / "whole", bpe, "RobertaConfig", SMALL)
    with pytest.raises(UserError, match=r"whole: a tokenizer of the kind BPE; expected Unigram"):
        trim.trim(str(folder), tmp_path / "own", VIEWS)
