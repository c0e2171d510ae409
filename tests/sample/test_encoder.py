"""The sample's encoder: loads as any XLM-R, knows its own alphabet, and is as good as its card says."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, XLMRobertaModel

from sample import text, train_encoder
from sample.render import TRAINING_SPACE

FOLDER = train_encoder.FOLDER
POST, CONTEXT = ["RT", "@jess", ":", "finally", "Jordan", "!", "❤️", "🔥", "#tbt"], "red ball . a red ball on a beach"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


def test_folder_is_small_and_holds_no_pickle() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 5e6
    assert {path.suffix for path in FOLDER.iterdir()} == {".json", ".md", ".safetensors"}


def test_it_loads_as_any_xlm_r(tokenizer: Any) -> None:
    model = AutoModel.from_pretrained(FOLDER, add_pooling_layer=False).eval()
    assert isinstance(model, XLMRobertaModel)
    assert model.config.vocab_size == len(tokenizer)
    with torch.inference_mode():
        hidden = model(**tokenizer(" ".join(POST), CONTEXT, return_tensors="pt")).last_hidden_state
    assert hidden.shape[-1] == model.config.hidden_size
    assert hidden.isfinite().all()


def test_tokenizer_frames_and_separates_as_xlm_r_does(tokenizer: Any) -> None:
    assert tokenizer.is_fast
    ids = tokenizer(" ".join(POST), CONTEXT).input_ids
    assert ids[0] == tokenizer.cls_token_id == 0
    assert ids[-1] == tokenizer.sep_token_id == 2
    assert [one == other == 2 for one, other in itertools.pairwise(ids)].count(True) == 1
    assert tokenizer.unk_token_id not in ids
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (1, 3, len(tokenizer) - 1)


def test_unknown_characters_are_unknown_and_invisible_ones_vanish(tokenizer: Any) -> None:
    encoded = tokenizer(["Jordan", "漢", "\u200b"], is_split_into_words=True, add_special_tokens=False)
    by_word: dict[int, list[int]] = {word: [] for word in range(3)}
    for word, piece in zip(encoded.word_ids(), encoded.input_ids, strict=True):
        by_word[word].append(piece)
    assert 3 not in by_word[0]
    assert by_word[1][-1] == 3
    assert not by_word[2]


def test_tokenizer_survives_saving(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for words in (POST, ["ﬁn", "été", "mañana", "🙌", "x" * 40]):
        assert again(" ".join(words), CONTEXT).input_ids == tokenizer(" ".join(words), CONTEXT).input_ids


def test_it_was_pretrained_without_the_names_that_only_the_test_split_has() -> None:
    corpus = "\n".join(f" {post} " for post, _ in train_encoder.pairs(TRAINING_SPACE, 3000)).lower()
    for name in (*text.AMBIGUOUS_UNSEEN, *text.UNSEEN_LAST, *sum(text.UNAMBIGUOUS_UNSEEN.values(), ())):
        assert f" {name.lower()} " not in corpus


@pytest.mark.slow  # measures it
def test_the_card_states_what_is_measured() -> None:
    stated = re.search(r"\*\*Quality\*\*: ([\d.]+)% of", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert stated is not None
    accuracy, _ = train_encoder.masked_accuracy(FOLDER)
    assert 100 * accuracy == pytest.approx(float(stated.group(1)), abs=0.2)
