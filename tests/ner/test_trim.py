"""An encoder with fewer sub-tokens reads the texts that it was made for as the whole one does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ner import trim
from ner.models.folder import load_tokenizer
from ner.models.pretrained import load_encoder
from ner.views import ViewEncoder, WindowLimits, collate
from pipeline.core import records
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


def test_the_command_reads_views_and_further_texts(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.txt").write_text("\nlove desert\n", encoding="utf-8")
    command = ["trim", str(xlm_r_folder), "own", "--texts", "more.txt"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(UserError, match=r"data/views: no views here .*dvc repro views"):
        trim.main()
    records.write(tmp_path / "data/views/train.jsonl", VIEWS)
    trim.main()
    count = sizes(tmp_path / "own")[0]
    assert capsys.readouterr().out == f"own: {count} of {sizes(xlm_r_folder)[0]} sub-tokens\n"
    assert pieces(tmp_path / "own", "love desert") == ["▁love", "▁desert"]
    with pytest.raises(UserError, match="own: it is there already"):
        trim.main()


def test_the_samples_encoder_has_all_that_its_views_have(tmp_path: Path) -> None:
    sample = ROOT / "checkpoints/sample/xlm-r"
    views = [View("1", ["Jordan", "won", "again"], None, "a man with a ball")]
    _, after = trim.trim(str(sample), tmp_path / "own", views)
    assert after < sizes(sample)[0]
    torch.testing.assert_close(states(tmp_path / "own", views), states(sample, views), rtol=0, atol=0)


def test_sub_tokens_that_are_made_of_each_other_are_refused(bpe: Any, tmp_path: Path) -> None:
    folder = saved_encoder(
        tmp_path / "whole",
        bpe,
        "RobertaConfig",
        {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    )
    with pytest.raises(UserError, match=r"whole: a tokenizer of the kind BPE, .*expected Unigram"):
        trim.trim(str(folder), tmp_path / "own", VIEWS)
