"""Semantic augmentation: neighbours against brute force, what is looked up, and what the store saves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ner.models import augmentation
from ner.models.augmentation import augmented, sums
from pipeline.core import word_vectors
from pipeline.core.errors import UserError
from pipeline.core.word_vectors import WordVectors


def vectors(n: int, width: int = 6) -> WordVectors:
    values = np.random.default_rng(n).standard_normal((n, width)).astype(np.float32)
    return WordVectors([f"w{number}" for number in range(n)], values)


def brute_force(table: WordVectors, word: str, k: int) -> np.ndarray:
    place, values = table.words.index(word), table.vectors.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1)
    cosines = values @ values[place] / (lengths * lengths[place])
    cosines[place] = -np.inf
    nearest = np.argsort(-cosines)[:k]
    weights = np.exp(cosines[nearest])
    return (weights / weights.sum()) @ values[nearest]


@pytest.mark.parametrize(("n", "k"), [(5, 4), (64, 4), (65, 1), (1000, 4), (1000, 90)])
def test_sums_are_those_of_the_nearest_words(monkeypatch: pytest.MonkeyPatch, n: int, k: int) -> None:
    monkeypatch.setattr(augmentation, "_BLOCK", 7)
    monkeypatch.setattr(augmentation, "_CHUNK", 128)
    monkeypatch.setattr(augmentation, "_RESCORED", 3)
    table = vectors(n)
    tokens = [table.words[place] for place in {0, 1, n // 2, n - 2, n - 1, *range(0, n, 53)}]
    found = sums(table, k, [*tokens, "elsewhere"])
    assert found.keys() == set(tokens)
    for token, vector in found.items():
        np.testing.assert_allclose(vector.numpy(), brute_force(table, token, k), rtol=1e-4, atol=1e-5)


def test_capitals_are_lowered_where_the_file_has_none() -> None:
    values = vectors(4).vectors
    lower = sums(WordVectors(["a", "b", "c", "d"], values), 2, ["A", "a", "B"])
    assert torch.equal(lower["A"], lower["a"])
    assert sums(WordVectors(["a", "b", "C", "d"], values), 2, ["A", "C", "c"]).keys() == {"C"}
    with pytest.raises(UserError, match=r"found 4 words; expected more than train.iie4mner.neighbours = 4"):
        sums(WordVectors(["a", "b", "c", "d"], values), 4, ["a"])


def write(file: Path, table: WordVectors) -> Path:
    rows = zip(table.words, table.vectors.tolist(), strict=True)
    file.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows), encoding="utf-8")
    return file


def test_what_the_store_has_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = vectors(20)
    file = write(tmp_path / "vectors.txt", table)
    words, first = augmented(file, 3, ["w3", "w1", "w3", "other"])
    assert words == ["w1", "w3"]
    for word, row in zip(words, first, strict=True):
        np.testing.assert_allclose(row.numpy(), brute_force(table, word, 3), rtol=1e-4, atol=1e-5)

    def never(_: Path) -> WordVectors:
        raise AssertionError("the file is read again")

    with monkeypatch.context() as context:
        context.setattr(word_vectors, "read", never)
        again, second = augmented(file, 3, ["other", "w1", "w3"])
    assert again == words
    assert torch.equal(first, second)
    assert not torch.equal(augmented(file, 4, words)[1], first)
    write(file, vectors(21))
    assert not torch.equal(augmented(file, 3, words)[1], first)
    with pytest.raises(UserError, match="has none of the data's 1 words"):
        augmented(file, 3, ["other"])
