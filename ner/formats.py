"""What the prediction command reads: plain text, CoNLL-like files, JSON Lines; each as a stream of views.

Text is split by :mod:`pipeline.core.tokens`, so that entities can be pointed at in it. Training data is read by
:mod:`pipeline.corpus.posts`, which checks whole files; here a line is enough.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.core.tokens import tokenize

FORMATS = ("text", "conll", "jsonl")


def read_input(path: str, format_name: str) -> Iterator[tuple[View, list[int] | None]]:
    """Yield views, and for text where each token starts in its line; ``-`` is stdin.

    Raises:
        UserError: no such file, not UTF-8, or a malformed line; the message names file and line.
    """
    readers = {"text": _read_text, "conll": _read_conll, "jsonl": _read_jsonl}
    with _lines(path) as (name, lines):
        yield from readers[format_name](name, lines)


@contextmanager
def _lines(path: str) -> Iterator[tuple[str, Iterator[str]]]:
    name = "stdin" if path == "-" else path

    def without_ends(file: IO[bytes]) -> Iterator[str]:
        # Bytes, so that lines end at \n alone and an error knows its line.
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{name}:{number}: not UTF-8 (byte {error.start} of the line); convert it first "
                    "(iconv -f latin1 -t utf-8)"
                ) from None
            yield line.removesuffix("\n").removesuffix("\r")

    if path == "-":
        yield name, without_ends(sys.stdin.buffer)
        return
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; expected a file to tag, or - for stdin")
    with open(path, "rb") as file:
        yield name, without_ends(file)


def _read_text(name: str, lines: Iterable[str]) -> Iterator[tuple[View, list[int]]]:
    """A post a line; an empty line is a post without tokens, so that output lines match input lines."""
    for number, line in enumerate(lines, start=1):
        tokens = tokenize(line)
        yield View(str(number), [token for token, _ in tokens], None, ""), [start for _, start in tokens]


def _read_conll(name: str, lines: Iterable[str]) -> Iterator[tuple[View, None]]:
    """``IMGID:`` lines, token lines (what stands behind a tab is kept as label), blank lines between posts."""
    identifier: str | None = None
    rows: list[list[str]] = []
    count = 0

    def post() -> View:
        labelled = all(len(row) > 1 for row in rows)
        return View(
            identifier or str(count), [row[0] for row in rows], [row[-1] for row in rows] if labelled else None, ""
        )

    for number, line in enumerate(lines, start=1):
        if line.strip("\t") and not line.startswith("IMGID:"):
            rows.append(line.split("\t"))
            if not rows[-1][0]:
                raise UserError(f"{name}:{number}: no token before the first tab; expected token or token<TAB>label")
            continue
        if rows:
            count += 1
            yield post(), None
            rows, identifier = [], None
        if line.startswith("IMGID:"):
            identifier = line.removeprefix("IMGID:")
    if rows:
        count += 1
        yield post(), None


def _read_jsonl(name: str, lines: Iterable[str]) -> Iterator[tuple[View, list[int] | None]]:
    """Objects with `tokens` (a post or a view, its `context` used) or with `text`; `id`, `labels` where there."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise UserError(f"{name}:{number}: not JSON: {error.msg} at column {error.colno}") from None
        except UnicodeEncodeError:
            raise UserError(
                f"{name}:{number}: an escape such as \\ud83d stands alone: half of a surrogate pair is no "
                "character; expected both halves"
            ) from None
        yield _view_of(row, f"{name}:{number}", number)


def _view_of(row: Any, place: str, number: int) -> tuple[View, list[int] | None]:
    if not isinstance(row, dict) or ("tokens" not in row) == ("text" not in row):
        raise UserError(f"{place}: expected an object with either `tokens` or `text`")
    identifier = str(number if row.get("id") is None else row["id"])
    context, labels = row.get("context") or "", row.get("labels")
    starts: list[int] | None = None
    if "text" in row:
        if not isinstance(row["text"], str):
            raise UserError(f"{place}: text: expected a string, found {type(row['text']).__name__}")
        pairs = tokenize(row["text"])
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
    return View(identifier, tokens, labels, context), starts
