"""Vectors of words from a file as word2vec and GloVe write them: text with or without a header, or word2vec's binary.

Files are data and nothing else: no pickle is read, what a header claims is held against the file's size, and words and
lines have a greatest length. What vectors are for is left to :mod:`ner.models.augmentation`.
"""

import mmap
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import UserError
from pipeline.core.files import require_regular

MOST_NUMBERS = 4096
"""Of one vector."""
MOST_WORD_BYTES = 4096
_MOST_LINE_BYTES = MOST_WORD_BYTES + 64 * MOST_NUMBERS
_HEADER = re.compile(rb"^\s*(\d{1,12})[ \t]+(\d{1,12})\s*$")
_EXPECTED = "expected word2vec's or GloVe's text format, or word2vec's binary one"
_PACKED = {
    b"\x80": "a pickle, which can run code when it is loaded; save it in one of those with gensim's "
    "KeyedVectors.save_word2vec_format",
    b"PK": "a ZIP archive; unpack it",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\x93NUMPY": "an array without words",
}


@dataclass(frozen=True, slots=True, eq=False)
class WordVectors:
    """Words and their vectors.

    Attributes:
        words: each once, in the file's order.
        vectors: *Shape:* (n_words, width), float32, finite.
    """

    words: list[str]
    vectors: NDArray[np.float32]

    @property
    def lower_cased(self) -> bool:
        """Whether no word has an upper-case letter."""
        return all(word == word.lower() for word in self.words)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a file is written: its vectors' width, how many words its header claims, and where the first begins."""

    width: int
    claimed: int | None
    begin: int
    binary: bool


def require(path: Path) -> None:
    """Check that :func:`read` would begin to read the file: that it is there, and how its first word is written.

    Raises:
        UserError: it is not.
    """
    with _opened(path) as file:
        _layout(file, path)


def read(path: Path) -> WordVectors:
    """Read a file of vectors.

    The memory taken is that of the vectors, four bytes a number, and of the words.

    Raises:
        UserError: the file is missing, is written in another way, ends early, or has a vector of another width or with
            numbers that are not finite; the message has file and line, or word and byte.
    """
    with _opened(path) as file:
        layout = _layout(file, path)
        words, vectors = (_read_binary if layout.binary else _read_text)(file, layout, path)
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        bad = int(finite.argmin())
        raise UserError(f"word vectors {path}: the vector of word {bad + 1}, {words[bad]!r:.60}, is not finite")
    first: dict[str, int] = {}
    for place, word in enumerate(words):
        first.setdefault(word, place)
    if len(first) < len(words):  # of a word that comes twice, the first is the more frequent
        vectors = vectors[list(first.values())]
    return WordVectors(list(first), vectors)


def _opened(path: Path) -> IO[bytes]:
    try:
        require_regular(path)
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"word vectors {path}: cannot be read ({error.strerror}); {_EXPECTED}") from None


def _layout(file: IO[bytes], path: Path) -> _Layout:
    """How the file is written, from its first two lines; the file is then at its first word."""
    line = file.readline(_MOST_LINE_BYTES)
    for magic, what in _PACKED.items():
        if line.startswith(magic):
            raise UserError(f"word vectors {path}: {_EXPECTED}, found {what}")
    header = _HEADER.match(line)
    if header is None:
        file.seek(0)
        width = len(line.split()) - 1
        if not 1 <= width <= MOST_NUMBERS or _numbers(line, width) is None:
            raise UserError(f"word vectors {path}:1: {_EXPECTED}: a word and 1 to {MOST_NUMBERS} numbers a line")
        return _Layout(width, None, 0, binary=False)
    claimed, width, begin = int(header[1]), int(header[2]), len(line)
    if not 1 <= width <= MOST_NUMBERS or not claimed:
        raise UserError(
            f"word vectors {path}:1: found {claimed} words with vectors of {width} numbers; expected at least "
            f"1 word, and 1 to {MOST_NUMBERS} numbers"
        )
    text = _numbers(file.readline(_MOST_LINE_BYTES), width) is not None
    size = file.seek(0, 2)
    file.seek(begin)
    least = claimed * (2 * width + 1 if text else 4 * width + 1)
    if size - begin < least - 1:
        raise UserError(
            f"word vectors {path}: its header claims {claimed} words with vectors of {width} numbers, which take "
            f"at least {least} bytes; found {size - begin}: the file is cut off, or written in another way; {_EXPECTED}"
        )
    return _Layout(width, claimed, begin, binary=not text)


def _numbers(line: bytes, width: int) -> tuple[bytes, NDArray[np.float32]] | None:
    """A line's word, which may have spaces in it, and its `width` numbers; None where it has not so many."""
    word, _, rest = line.strip(b" \t\r\n").partition(b" ")
    values = _parsed(rest)
    if values is None:  # a word with spaces in it, as some of GloVe's
        parts = line.rsplit(None, width)
        if len(parts) != width + 1:
            return None
        word, values = parts[0].strip(), _parsed(b" ".join(parts[1:]))
    return None if values is None or len(values) != width or len(word) > MOST_WORD_BYTES else (word, values)


def _parsed(text: bytes) -> NDArray[np.float32] | None:
    try:
        return np.fromstring(text, np.float32, sep=" ")
    except ValueError:
        return None


def _read_text(file: IO[bytes], layout: _Layout, path: Path) -> tuple[list[str], NDArray[np.float32]]:
    words: list[str] = []
    numbers = array("f")  # grows in place
    first_line = 1 if layout.claimed is None else 2
    for line_number, line in enumerate(_lines(file), first_line):
        if not line.strip():
            continue
        found = _numbers(line, layout.width)
        if found is None:
            raise UserError(
                f"word vectors {path}:{line_number}: expected a word and {layout.width} numbers, found {line[:60]!r}"
            )
        words.append(found[0].decode(errors="replace"))
        numbers.frombytes(found[1].tobytes())
    if layout.claimed not in (None, len(words)):
        raise UserError(
            f"word vectors {path}: its header claims {layout.claimed} words, found {len(words)}; copy it again"
        )
    return words, np.frombuffer(numbers, np.float32).reshape(len(words), layout.width)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(_MOST_LINE_BYTES):
        yield line


def _read_binary(file: IO[bytes], layout: _Layout, path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """word2vec's binary format: for each word its bytes, a space, and its numbers as they are in memory."""
    words: list[str] = []
    n_words, length = layout.claimed or 0, 4 * layout.width
    vectors = np.empty((n_words, layout.width), np.float32)  # at most the file's size, as _layout has seen to
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = layout.begin
        for row in range(n_words):
            end = content.find(b" ", place, place + MOST_WORD_BYTES + 1)
            if end < 0 or end + 1 + length > len(content):
                raise UserError(
                    f"word vectors {path}: word {row + 1} of {n_words}, at byte {place}: expected at most "
                    f"{MOST_WORD_BYTES} bytes, a space and {length} bytes of numbers; the file is cut off, or written "
                    f"in another way; {_EXPECTED}"
                )
            words.append(content[place:end].lstrip(b"\n").decode(errors="replace"))
            vectors[row] = np.frombuffer(content, "<f4", layout.width, end + 1)
            place = end + 1 + length
    return words, vectors
