"""Contexts as vectors: what they are, that they are made once, and what one without words has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from ner.training import context_vectors
from ner.training.context_vectors import ContextVectors
from pipeline.core.store import Store
from tests.ner.conftest import small_params

CPU = torch.device("cpu")
CONTEXTS = ["photo of court", "Jordan in the desert : a love of Paris", "", "photo of court", " \n"]


def test_they_are_means_of_last_states_by_the_encoder_as_it_is_made_once(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(tmp_path) as store:
        found = ContextVectors(small_params(xlm_r_folder), store, xlm_r_folder, "one").of(CONTEXTS, CPU)
        encoder, tokenizer = AutoModel.from_pretrained(xlm_r_folder).eval(), AutoTokenizer.from_pretrained(xlm_r_folder)
        for context, vector in zip(CONTEXTS, found, strict=True):
            if not context.split():
                assert vector is None
                continue
            with torch.inference_mode():
                states = encoder(**tokenizer(context, return_tensors="pt")).last_hidden_state[0]
            assert vector is not None
            np.testing.assert_allclose(vector, states[1:-1].mean(0), atol=2e-3)
        assert "vectors of 2 contexts, 2 of which are new" in capsys.readouterr().err
        monkeypatch.setattr(context_vectors, "load_encoder", lambda *_, **__: pytest.fail("read again"))
        again = ContextVectors(small_params(xlm_r_folder, seed=4), store, xlm_r_folder, "one").of(CONTEXTS[:1], CPU)
        assert again[0] is not None
        assert found[0] is not None
        assert np.array_equal(again[0], found[0])
        with pytest.raises(pytest.fail.Exception, match="read again"):
            ContextVectors(small_params(xlm_r_folder), store, xlm_r_folder, "two").of(CONTEXTS[:1], CPU)


def test_of_a_long_context_the_first_window_counts(xlm_r_folder: Path, tmp_path: Path) -> None:
    long = "photo of the court " * 50
    with Store.open(tmp_path) as store:
        vectors = ContextVectors(small_params(xlm_r_folder), store, xlm_r_folder, "one")
        one, other = vectors.of([long, long + "Paris"], CPU)
    assert one is not None
    assert other is not None
    assert np.array_equal(one, other)
