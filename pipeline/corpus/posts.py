"""Posts: tweets as tokens with labels and the name of a picture, and the readers that make them from people's files.

Readers lose nothing and repair nothing silently: a malformed line stops the run with its file and number, and what
is merely odd (orphan `I-`, invisible tokens, ids given twice) is kept and counted in the report. What a label
sequence means is left to pipeline/core/labels.py, pictures to pipeline/images/manifest.py.
"""

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from pipeline.core.errors import UserError
from pipeline.core.labels import Scheme, entities, orphans, split_label, to_iob2
from pipeline.core.records import Post
from pipeline.core.tokens import tokenize
from pipeline.settings.params import RESERVED_TYPES, SPLITS, DataParams, Split

_KEYS = {"id", "tokens", "text", "labels", "image"}  # of a JSON object, and the columns of a CSV file
_MAX_REPORTED = 5
_MAX_MESSAGE = 400  # characters; a token may have a million
_AS_THEY_ARE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Labels:
    """What the labels of a file are written in, and what its entity types are to be called."""

    scheme: Scheme
    types: Mapping[str, str]

    def check(self, label: str) -> None:
        """Raise ValueError for what is no label, or whose type would be called as no type may be."""
        _, entity_type = split_label(label, self.scheme)
        if self.types.get(entity_type, entity_type) in RESERVED_TYPES:
            raise ValueError(
                f"{label!r}: {', '.join(RESERVED_TYPES)} mean something else in scores and counts; give "
                f"the type another name: data.types: {{{entity_type}: …}}"
            )

    def among(self, pieces: Iterable[str]) -> bool:
        """Whether one of the pieces is a label."""
        for piece in pieces:
            try:
                split_label(piece, self.scheme)
            except ValueError:
                continue
            return True
        return False

    def final(self, post: Post) -> Post:
        """The post with IOB2 labels of the final types."""
        if self.scheme != "iob2" and post.labels is not None:
            post = replace(post, labels=to_iob2(post.labels, self.scheme))
        return rename_types(post, self.types)


def read_conll(
    path: str | Path,
    *,
    label_column: int = 2,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = _AS_THEY_ARE,
) -> list[Post]:
    """Read a CoNLL-like file: an `IMGID:<id>` line, then a token a line with its label behind a tab, then a blank line.

    Lines end in LF or CRLF, a byte-order mark is skipped, a line of nothing but tabs counts as blank. A post without
    an `IMGID` line is called `{file}-{number}` and has no picture. A file of tokens alone gives posts without labels.

    Args:
        path: the file.
        label_column: which column holds the label, from 1.
        scheme: what the labels are written in; they become IOB2.
        image_name: how an id names its picture, or None for no picture.
        types: new names of entity types; types it does not name stay.

    Raises:
        UserError: the file is missing, not UTF-8, or has malformed lines; the first few are named.
    """
    path, known = Path(path), _Labels(scheme, types)
    problems: list[str] = []
    posts: list[Post] = []
    current: _Draft | None = None

    def close() -> None:
        nonlocal current
        if current is not None:
            posts.append(current.finish(f"{path.stem}-{len(posts) + 1}", image_name))
            current = None

    for number, line in _numbered(path):
        if line.startswith("IMGID:"):
            close()
            current = _Draft(number, line.removeprefix("IMGID:"))
            if not current.id:
                problems.append(f"{path}:{number}: IMGID: without an id")
        elif not line.strip("\t"):
            if current is not None and current.tokens:
                close()
        else:
            current = current or _Draft(number, None)
            problem = current.add(line.split("\t"), label_column, known)
            if problem:
                problems.append(f"{path}:{number}: {problem}")
    close()
    if not problems and posts and all(_is_parted_by_spaces(post, known) for post in posts):
        problems.append(
            f"{path}: every line is parted by spaces, as is {posts[0].tokens[0]!r}; expected token<TAB>label"
        )
    return _finish(path, posts, problems, known)


def _is_parted_by_spaces(post: Post, known: _Labels) -> bool:
    """Whether a post without labels has one behind a space in each of its lines."""
    return post.labels is None and bool(post.tokens) and all(known.among(token.split(" ")[1:]) for token in post.tokens)


@dataclass(slots=True)
class _Draft:
    """A post that is being read."""

    line: int
    id: str | None
    tokens: list[str] | None = None
    labels: list[str] | None = None

    def add(self, columns: list[str], label_column: int, known: _Labels) -> str | None:
        """Take one line's columns; return what is wrong with them, if anything is."""
        first, self.tokens = self.tokens is None, self.tokens or []
        if not columns[0]:
            return "no token before the first tab"
        if len(columns) == 1:
            if self.labels is not None:
                return f"{columns[0]!r} has no label, but the tokens before it do; expected token<TAB>label"
        elif len(columns) < label_column:
            return f"{len(columns)} columns, but data.label_column is {label_column}"
        elif not first and self.labels is None:
            return f"{columns[0]!r} has a label, but the tokens before it do not; expected token<TAB>label throughout"
        else:
            try:
                known.check(columns[label_column - 1])
            except ValueError as error:
                return str(error)
            self.labels = self.labels or []
            self.labels.append(columns[label_column - 1])
        self.tokens.append(columns[0])
        return None

    def finish(self, default_id: str, image_name: str | None) -> Post:
        image = None if self.id is None or image_name is None else image_name.format(id=self.id)
        return Post(self.id or default_id, self.tokens or [], self.labels, image)


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, without their ends."""
    for number, line in enumerate(_lines(path), start=1):
        yield number, line.removesuffix("\n").removesuffix("\r")


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, split on LF alone: U+2028, U+0085 and their like are part of a token."""
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; expected a file") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x}: {error.reason}); "
            "convert it: iconv -f latin1 -t utf-8"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def read_posts_jsonl(
    path: str | Path,
    *,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = _AS_THEY_ARE,
) -> list[Post]:
    """Read posts from JSON Lines: `id`, `tokens` or `text`, and perhaps `labels` and `image` (else `image_name`).

    A `text` is split by :func:`pipeline.core.tokens.tokenize` and takes no labels, which go with tokens.

    Raises:
        UserError: as :func:`read_conll`.
    """
    path, known = Path(path), _Labels(scheme, types)
    posts, problems = [], []
    for number, line in _numbered(path):
        if not line.strip():
            continue
        try:
            posts.append(_from_row(json.loads(line), known, image_name))
        except (ValueError, RecursionError) as error:  # a JSONDecodeError is a ValueError
            problems.append(f"{path}:{number}: {error}")
    return _finish(path, posts, problems, known)


def read_csv(
    path: str | Path,
    *,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = _AS_THEY_ARE,
) -> list[Post]:
    """Read posts from a CSV file: a header, then a row a post, fields with commas or line breaks in double quotes.

    Columns, in any order: `id`; `text`, or `tokens` parted by spaces; perhaps `labels`, parted by spaces, for `tokens`
    alone; perhaps `image` (else `image_name` names it). An empty field of the last two is null. Other columns, such as
    those of a tweet dump, are left out.

    Raises:
        UserError: as :func:`read_conll`; the number is that of a row's first line.
    """
    path, known = Path(path), _Labels(scheme, types)
    rows = csv.reader(_lines(path), strict=True)
    posts: list[Post] = []
    problems: list[str] = []
    header: list[str] | None = None
    while True:
        number = rows.line_num + 1
        try:
            fields = next(rows, None)
            if fields is None:
                break
            if not fields:  # a blank line
                continue
            if header is None:
                header = _csv_header(fields)
            elif len(fields) != len(header):
                problems.append(
                    f"{path}:{number}: {len(fields)} fields, but the header has {len(header)}; a text with "
                    "a comma stands in double quotes, a double quote in it is doubled"
                )
            else:
                posts.append(_from_row(_csv_row(dict(zip(header, fields, strict=True))), known, image_name))
        except csv.Error as error:  # the reader has lost its place
            problems.append(f"{path}:{number}: not CSV: {error}")
            break
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
            if header is None:
                break
    return _finish(path, posts, problems, known)


def _csv_header(fields: list[str]) -> list[str]:
    known = [name for name in fields if name in _KEYS]
    if "id" not in known or ("text" in known) == ("tokens" in known) or len(set(known)) < len(known):
        found = ", ".join(map(repr, fields[:12]))
        raise ValueError(
            f"expected a header with the columns id, either text or tokens, and perhaps labels and image, "
            f"parted by commas; found {found}"
        )
    return fields


def _csv_row(fields: dict[str, str]) -> dict[str, Any]:
    """The object that the fields of a row stand for; an empty one, as a spreadsheet writes it, is null."""
    row: dict[str, Any] = {name: value for name, value in fields.items() if name in _KEYS}
    for name in ("tokens", "labels"):
        if name in row:
            row[name] = [part for part in re.split("[ \t\r\n]+", row[name]) if part]
    return row | {name: row[name] or None for name in ("labels", "image") if name in row}


def read_records(path: str | Path) -> list[Post]:
    """Read data/posts/{split}.jsonl, as the posts stage wrote it.

    Raises:
        UserError: as :func:`read_conll`, or the stage has not run.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; run the stage that writes it: dvc repro posts")
    return read_posts_jsonl(path, image_name=None)


def _from_row(row: Any, known: _Labels, image_name: str | None) -> Post:
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    if row.keys() - _KEYS or "id" not in row or ("tokens" in row) == ("text" in row):
        raise ValueError(
            f"expected the keys id, either tokens or text, and perhaps labels and image; found {', '.join(sorted(row))}"
        )
    identifier, labels, image = row["id"], row.get("labels"), row.get("image")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not identifier:
        raise ValueError(f"id: expected a text, found {identifier!r}")
    tokens = row["tokens"] if "tokens" in row else _split(row["text"], labels)
    if not _is_texts(tokens) or not all(tokens):
        raise ValueError("tokens: expected a list of texts, none of them empty")
    if any("\t" in token or "\n" in token for token in tokens):
        raise ValueError("tokens: a token holds a tab or a line break, which ends a token in CoNLL files")
    if labels is not None:
        if not _is_texts(labels) or len(labels) != len(tokens):
            raise ValueError(f"labels: expected null or {len(tokens)} texts, one a token")
        for label in labels:
            known.check(label)
    if image is not None and not isinstance(image, str):
        raise ValueError(f"image: expected null or a file name, found {image!r}")
    if any(_has_half(text) for text in (identifier, *tokens, *(labels or ()), image or "")):
        raise ValueError("holds half a character (a lone surrogate), which cannot be written as UTF-8")
    if "image" not in row and image_name is not None:
        image = image_name.format(id=identifier)
    return Post(identifier, tokens, labels, image or None)


def _split(text: Any, labels: Any) -> list[str]:
    if not isinstance(text, str):
        raise ValueError(f"text: expected a text, found {text!r}")
    if labels is not None:
        raise ValueError("labels: a text has none, as it is split here; expected them beside tokens, one a token")
    return [token for token, _ in tokenize(text)]


def _has_half(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _is_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _finish(path: Path, posts: list[Post], problems: list[str], known: _Labels) -> list[Post]:
    if not problems:
        problems = [
            f"{path}: post {post.id if post.id.isprintable() else repr(post.id)} has no tokens"
            for post in posts
            if not post.tokens
        ]
    if problems:
        rest = len(problems) - _MAX_REPORTED
        more = [f"… and {rest} more in {path}"] if rest > 0 else []
        shown = [text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + " …" for text in problems[:_MAX_REPORTED]]
        raise UserError("\n".join(shown + more))
    return [known.final(post) for post in posts]


def read_split(data: DataParams, split: Split) -> list[Post]:
    """Read the files of one split in the data set's format, rename types, and make ids unique (`id`, `id#2`, …).

    Raises:
        UserError: a file is missing or malformed.
    """
    readers: dict[str, Callable[..., list[Post]]] = {
        "conll": partial(read_conll, label_column=data.label_column),
        "jsonl": read_posts_jsonl,
        "csv": read_csv,
    }
    posts: list[Post] = []
    for path in data.files(split):
        posts += readers[data.format](path, scheme=data.scheme, image_name=data.image_name, types=data.types)
    return unique_ids(posts)


def rename_types(post: Post, types: Mapping[str, str]) -> Post:
    """A post whose entity types are renamed by `types`; types it does not name stay."""
    if post.labels is None or not types:
        return post
    labels = []
    for label in post.labels:
        prefix, entity_type = split_label(label)
        labels.append(label if prefix == "O" else f"{prefix}-{types.get(entity_type, entity_type)}")
    return replace(post, labels=labels)


def unique_ids(posts: Iterable[Post]) -> list[Post]:
    """The posts, an id that was there before made `id#2`, `id#3`, …; ids that are unique stay."""
    seen: set[str] = set()
    unique = []
    for post in posts:
        name, count = post.id, 1
        while name in seen:
            count += 1
            name = f"{post.id}#{count}"
        seen.add(name)
        unique.append(post if count == 1 else replace(post, id=name))
    return unique


def post_row(post: Post) -> dict[str, Any]:
    """The JSON object of a post."""
    return asdict(post)


def report(splits: dict[Split, list[Post]]) -> dict[str, Any]:
    """What the posts stage found: counts by split and type, and everything odd.

    Returns:
        ``{"splits": {split: {"posts", "labelled", "tokens", "entities": {"conlleval" | "strict": {"total" | type: n}},
        "orphan_i", "invisible_tokens", "without_image", "sharing_an_image"}}, "shared_texts": {"train/dev": n, …}}``;
        `shared_texts` counts the texts that stand in both splits.
    """
    texts = {split: {tuple(post.tokens) for post in posts} for split, posts in splits.items()}
    pairs = [(one, other) for index, one in enumerate(SPLITS) for other in SPLITS[index + 1 :]]
    return {
        "splits": {split: _split_report(posts) for split, posts in splits.items()},
        "shared_texts": {f"{one}/{other}": len(texts[one] & texts[other]) for one, other in pairs},
    }


def _split_report(posts: Sequence[Post]) -> dict[str, Any]:
    labelled = [post.labels for post in posts if post.labels is not None]
    images = [post.image for post in posts if post.image is not None]
    return {
        "posts": len(posts),
        "labelled": len(labelled),
        "tokens": sum(len(post.tokens) for post in posts),
        "entities": {
            "conlleval": _count(labelled, lambda labels: (entity.type for entity in entities(labels, "conlleval"))),
            "strict": _count(labelled, lambda labels: (entity.type for entity in entities(labels, "strict"))),
        },
        "orphan_i": sum(map(orphans, labelled)),
        "invisible_tokens": sum(is_invisible(token) for post in posts for token in post.tokens),
        "without_image": len(posts) - len(images),
        "sharing_an_image": len(images) - len(set(images)),
    }


def _count(labelled: list[list[str]], types: Callable[[list[str]], Iterable[str]]) -> dict[str, int]:
    by_type = Counter(name for labels in labelled for name in types(labels))
    return {"total": by_type.total(), **dict(sorted(by_type.items()))}


def is_invisible(token: str) -> bool:
    """Whether a token shows nothing: only separators, control and format characters, or variation selectors."""
    return all(unicodedata.category(char)[0] in "ZC" or unicodedata.category(char) == "Mn" for char in token)
