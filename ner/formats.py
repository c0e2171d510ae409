"""What the prediction command reads: plain text, CoNLL-like files, JSON Lines; each as a stream of views.

Text is split by :mod:`pipeline.core.tokens`, so that entities can be pointed at in it. CoNLL-like files are read as
the stages read them, by :mod:`pipeline.corpus.conll`.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from pipeline.core.errors import UserError
from pipeline.core.files import decoded_lines, parse_object, require_regular
from pipeline.core.names import has_unpaired_surrogate
from pipeline.core.records import View
from pipeline.core.tokens import tokenize
from pipeline.corpus import conll
from pipeline.corpus.reading import without_mark
from pipeline.corpus.report import described

FORMATS = ("text", "conll", "jsonl")


Split: TypeAlias = Callable[[str], list[tuple[str, int]]]
"""Splits a text into tokens, each with its start; a tagger's own is :meth:`ner.tagger.Tagger.split`."""


def read_input(
    path: str, format_name: str, label_column: int = 2, split: Split = tokenize
) -> Iterator[tuple[View, list[int] | None]]:
    """Yield views, and for text where each token starts in its line; ``-`` is stdin, a named pipe is read to its end.

    Args:
        path: the file.
        format_name: one of FORMATS.
        label_column: which column of a CoNLL-like file holds the label, where there is one.
        split: what makes tokens of text.

    Raises:
        UserError: no such file, not UTF-8, or a malformed line; the message names file and line.
    """
    with opened(path) as (name, file):
        lines = decoded_lines(file, name)
        odd: Counter[str] = Counter()
        if format_name == "conll":
            for post in conll.stream(lines, name, label_column, odd):
                yield View(post.id, post.tokens, post.labels, ""), None
        else:
            yield from (_read_text if format_name == "text" else _read_jsonl)(name, lines, odd, split)
        if skipped := ", ".join(described(odd)):
            print(f"{name}: {skipped}", file=sys.stderr)


@contextmanager
def opened(path: str) -> Iterator[tuple[str, IO[bytes]]]:
    """What to tag: a name for messages, and the bytes; ``-`` is stdin, a named pipe is read to its end.

    Raises:
        UserError: there is no such file, or stdin is closed.
    """
    if path in ("-", "/dev/stdin"):
        if sys.stdin is None:  # as a shell's <&- leaves it
            raise UserError("stdin is closed; expected posts on it, or the name of a FILE to tag")
        yield "stdin", sys.stdin.buffer
        return
    try:
        if not Path(path).is_fifo():  # which a shell makes of <(command)
            require_regular(path)
        file = open(path, "rb")  # noqa: SIM115  (below, where an error is the reader's)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a file to tag, or - for stdin") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; expected a file to tag, or - for stdin") from None
    with file:
        yield path, file


def _read_text(
    _name: str, lines: Iterable[tuple[int, str]], odd: Counter[str], split: Split
) -> Iterator[tuple[View, list[int]]]:
    """A post a line; an empty line is a post without tokens, so that output lines match input lines."""
    for number, line in lines:
        text = without_mark(line, odd)
        tokens, skipped = split(text), len(line) - len(text)
        yield View(str(number), [token for token, _ in tokens], None, ""), [skipped + start for _, start in tokens]


def _read_jsonl(
    name: str, lines: Iterable[tuple[int, str]], odd: Counter[str], split: Split
) -> Iterator[tuple[View, list[int] | None]]:
    """Objects with `tokens` (a post or a view, its `context` used) or with `text`; `id`, `labels` where there."""
    for number, line in lines:
        if line.strip():
            row = parse_object(without_mark(line, odd), f"{name}:{number}")
            yield _view_of(row, f"{name}:{number}", number, split)


def _view_of(row: dict[str, Any], place: str, number: int, split: Split) -> tuple[View, list[int] | None]:
    if ("tokens" not in row) == ("text" not in row):
        raise UserError(f"{place}: expected an object with either `tokens` or `text`")
    identifier = str(number if row.get("id") is None else row["id"])
    context, labels, images = row.get("context") or "", row.get("labels"), row.get("images") or []
    starts: list[int] | None = None
    if "text" in row:
        if not isinstance(row["text"], str):
            raise UserError(f"{place}: text: expected a string, found {type(row['text']).__name__}")
        pairs = split(row["text"])
        tokens, starts, labels = [token for token, _ in pairs], [start for _, start in pairs], None
    else:
        tokens = row["tokens"]
        if not isinstance(tokens, list) or not all(isinstance(token, str) and token for token in tokens):
            raise UserError(f"{place}: tokens: expected a list of strings, none of them empty")
    if not isinstance(context, str):
        raise UserError(f"{place}: context: expected a string, found {type(context).__name__}")
    if labels is not None and (
        not isinstance(labels, list)
        or len(labels) != len(tokens)
        or not all(isinstance(label, str) for label in labels)
    ):
        raise UserError(f"{place}: labels: expected null or {len(tokens)} labels, one a token")
    if any("\t" in token or "\n" in token for token in tokens) or "\n" in identifier or "\r" in identifier:
        raise UserError(
            f"{place}: the id holds a line break, or a token one or a tab; CoNLL files end a token or a line there"
        )
    if any(map(has_unpaired_surrogate, (identifier, context, *tokens, *(labels or ())))):
        raise UserError(f"{place}: holds an unpaired surrogate (such as \\ud83d), which cannot be written as UTF-8")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise UserError(f"{place}: images: expected a list of picture names")
    return View(identifier, tokens, labels, context, images), starts
