"""Files of word vectors: each format gives the same words and numbers, and what is none of them is named."""

import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import word_vectors
from pipeline.core.errors import UserError

WORDS = ["the", "Paris", "new york", "café", "."]
VECTORS = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)


def text(header: bool = False, newline: str = "\n") -> bytes:
    lines = [f"{word} {' '.join(map(repr, map(float, row)))}" for word, row in zip(WORDS, VECTORS, strict=True)]
    return newline.join([*(["5 3"] if header else []), *lines, ""]).encode()


def binary(newline: bytes = b"") -> bytes:
    """As word2vec writes it, which has no words with spaces in them."""
    words = [word.replace(" ", "_").encode() for word in WORDS]
    rows = [word + b" " + row.tobytes() + newline for word, row in zip(words, VECTORS, strict=True)]
    return b"5 3\n" + b"".join(rows)


@pytest.mark.parametrize(
    "content",
    [
        text(),
        text(header=True),
        text(newline="\r\n"),
        text().replace(b"\n", b" \n"),  # as fastText ends its lines
        text().removesuffix(b"\n"),
        binary(),
        binary(newline=b"\n"),
    ],
    ids=["GloVe", "word2vec", "CRLF", "fastText", "no last newline", "binary", "binary with newlines"],
)
def test_every_format_gives_the_same(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vectors").write_bytes(content)
    word_vectors.require(tmp_path / "vectors")
    found = word_vectors.read(tmp_path / "vectors")
    assert [word.replace("_", " ") for word in found.words] == WORDS
    np.testing.assert_array_equal(found.vectors, VECTORS)
    assert not found.lower_cased


def test_of_a_word_that_comes_twice_the_first_counts(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_text("a 1 2\nb 3 4\na 5 6\n", encoding="utf-8")
    found = word_vectors.read(tmp_path / "vectors")
    assert (found.words, found.vectors.tolist(), found.lower_cased) == (["a", "b"], [[1, 2], [3, 4]], True)


HUGE = b"900000000000 300\n" + b"the " + struct.pack("<3f", 1, 2, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: expected word2vec's or GloVe's text format"),
        (b"the first line of a letter\n", ":1: expected word2vec's or GloVe's"),
        (b"a 1 2\nb 3\n", ":2: expected a word and 2 numbers, found b'b 3"),
        (b"a 1 2\n\nb 3 x\n", ":3: expected a word and 2 numbers"),
        (b"a 1 2\nb 3 4 5\n", ":2: expected a word and 2 numbers"),
        (b"a 1 2\nb 3 nan\n", "the vector of word 2, 'b', is not finite"),
        (b"2 2\na 1 2\nb 3 4\nc 5 6\n", "its header claims 2 words, found 3"),
        (HUGE, "its header claims 900000000000 words with vectors of 300 numbers, which take at least"),
        (b"5 99999\nthe 1\n", ":1: found 5 words with vectors of 99999 numbers"),
        (binary()[:-4], "its header claims 5 words with vectors of 3 numbers|word 5 of 5"),
        (b"2 2\n" + b"x" * 5000, "word 1 of 2, at byte 4: expected at most 4096 bytes"),
        (pickle.dumps({"a": [1.0]}), "found a pickle, which can run code"),
        (b"\x1f\x8b\x08\x00", "found a gzip archive; unpack it"),
    ],
)
def test_anything_else_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "vectors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        word_vectors.read(file)
    assert str(caught.value).startswith(f"word vectors {file}")


def test_an_archive_and_what_is_no_file_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "glove.zip", "w") as archive:
        archive.writestr("glove.txt", text())
    with pytest.raises(UserError, match="found a ZIP archive; unpack it"):
        word_vectors.require(tmp_path / "glove.zip")
    with pytest.raises(UserError, match=re.escape("cannot be read (No such file")):
        word_vectors.require(tmp_path / "none")
    with pytest.raises(UserError, match="a folder; expected a file"):
        word_vectors.require(tmp_path)
