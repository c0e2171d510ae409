"""Posts to tag as they come, from text, JSON Lines, CSV or CoNLL-like lines; a row that is none says what is wrong.

Unlike a data set's (:mod:`pipeline.corpus`), such rows may lack an id, may have keys of their own, and stop nothing.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from ner.formats import Split, opened
from pipeline.core.errors import UserError
from pipeline.core.files import decoded_lines
from pipeline.core.names import has_unpaired_surrogate
from pipeline.core.records import Post
from pipeline.corpus import conll
from pipeline.corpus import csv as table
from pipeline.corpus.reading import KEYS, Labels, from_row, images_of, without_mark

Format = Literal["auto", "text", "jsonl", "csv", "conll"]
FORMATS: tuple[Format, ...] = ("auto", "text", "jsonl", "csv", "conll")

_Lines = Iterator[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of what is to be tagged.

    Attributes:
        id: the post's; where there is none, the number of its line.
        post: what it stands for, or None.
        text: what the post's tokens were made of; None where tokens were given.
        starts: where each token starts in the text.
        error: what is wrong with it where it stands for no post: file, line, what was found and expected.
    """

    id: str
    post: Post | None
    text: str | None = None
    starts: tuple[int, ...] = ()
    error: str | None = None


def read(
    path: str, form: Format, split: Split, image_name: str | None = None, *, of_lines: bool = False
) -> Iterator[Row]:
    """The rows of a file, one for each post, as they are gone through.

    Args:
        path: the file; ``-`` is stdin, a named pipe is read to its end.
        form: how it is written. ``auto``: as its name says (.jsonl, .csv), else as its first line looks.
        split: what makes tokens of text (:meth:`ner.tagger.Tagger.split`).
        image_name: how an id names the picture of a row that names none itself; None: such a row has none.
        of_lines: whether it also names the pictures of lines of text, whose ids are their numbers.

    Raises:
        UserError: there is no such file, or it has another format.
    """
    with opened(path) as (name, file):
        lines = _numbered(file)
        if form == "auto":
            form, lines = _recognised(path, lines)
        if form == "conll":
            undecoded = ((line.encode("utf-8", "surrogateescape") + b"\n") for _, line in lines)
            for post in conll.stream(decoded_lines(undecoded, name), name):
                yield Row(post.id, replace(post, images=post.images or images_of([post.id], image_name)))
        else:
            reader = {"text": _texts, "jsonl": _objects, "csv": _table}[form]
            by_id = image_name if form != "text" or of_lines else None
            for number, value in reader(name, lines):
                yield _row(f"{name}:{number}", number, value, split, by_id)


def _numbered(file: Iterable[bytes]) -> _Lines:
    """Lines with their numbers; bytes that are not UTF-8 become unpaired surrogates, which a row is refused for."""
    for number, raw in enumerate(file, start=1):
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
        yield number, line.removesuffix("\n").removesuffix("\r").removesuffix("\r")


def _recognised(path: str, lines: _Lines) -> tuple[Format, _Lines]:
    for suffix, form in ((".jsonl", "jsonl"), (".csv", "csv"), (".conll", "conll")):
        if path.lower().endswith(suffix):
            return form, lines  # type: ignore[return-value]
    seen: list[tuple[int, str]] = []
    for number, line in lines:
        seen.append((number, line))
        if line.strip():
            break
    first = seen[-1][1] if seen else ""
    return _format_of(first), chain(seen, lines)


def _format_of(first: str) -> Format:
    if first.startswith("IMGID:"):
        return "conll"
    fields = set(next(csv.reader([first]), []))
    if "id" in fields and fields & {"text", "tokens"}:
        return "csv"
    try:
        return "jsonl" if isinstance(json.loads(first), dict) else "text"
    except (ValueError, RecursionError):
        return "text"


def _texts(_name: str, lines: _Lines) -> Iterator[tuple[int, Any]]:
    """A post a line; an empty one is a post without tokens, so that rows match lines."""
    return ((number, {"text": without_mark(line, Counter())}) for number, line in lines)


def _objects(_name: str, lines: _Lines) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            yield number, json.loads(without_mark(line, Counter()))
        except (ValueError, RecursionError) as error:
            yield number, ValueError("not UTF-8" if has_unpaired_surrogate(line) else f"not JSON: {error}")


def _table(name: str, lines: _Lines) -> Iterator[tuple[int, Any]]:
    """Rows of a table; raises UserError where it has no header, without which none of its rows means anything."""
    found = False
    for number, row in table.stream(lines, Counter()):
        if isinstance(row, ValueError) and not found:
            raise UserError(f"{name}:{number}: {row}")
        found = True
        yield number, row


def _row(place: str, number: int, value: Any, split: Split, image_name: str | None) -> Row:
    """The post of a JSON value or of a row of a table, or why it stands for none."""
    identifier = str(number)
    try:
        if isinstance(value, Exception):
            raise ValueError(str(value))
        if not isinstance(value, dict):
            raise ValueError(f"expected a JSON object, found {type(value).__name__}")
        known = {key: each for key, each in value.items() if key in KEYS}
        if known.get("id") in (None, ""):
            known["id"] = identifier
        if isinstance(known["id"], str | int) and not has_unpaired_surrogate(str(known["id"])):
            identifier = str(known["id"])
        post = from_row(known, Labels(), image_name, Counter())
    except ValueError as error:
        why = "not UTF-8, or an unpaired surrogate" if "unpaired surrogate" in str(error) else str(error)
        said = f"{place}: {why}"[:500]  # a file's name may be no UTF-8, which no output takes
        return Row(identifier, None, error=said.encode("utf-8", "backslashreplace").decode())
    if "text" not in known:
        return Row(post.id, post)
    pairs = split(known["text"])
    tokens, starts = [token for token, _ in pairs], tuple(start for _, start in pairs)
    return Row(post.id, replace(post, tokens=tokens), known["text"], starts)
