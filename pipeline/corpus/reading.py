"""What the readers of people's files share: labels of several schemes, problems with their lines, posts out of rows.

Readers lose nothing and repair nothing silently: a malformed line stops the run with its file and number, and what
is merely odd (orphan `I-`, invisible tokens, ids given twice) is kept and counted (:mod:`pipeline.corpus.report`).
What is no part of a post (control lines, comments) is skipped and counted too, in a counter that the caller hands in.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from pipeline.core.errors import UserError
from pipeline.core.files import Piece, numbered_lines
from pipeline.core.labels import Scheme, check_type, split_label, to_iob2
from pipeline.core.names import composed, has_unpaired_surrogate
from pipeline.core.records import Post, RelationPost
from pipeline.core.scratch import Scratch, as_key
from pipeline.core.store import batched, lookups
from pipeline.core.tokens import tokenize
from pipeline.corpus import spans
from pipeline.corpus.described import Described
from pipeline.settings.params import RESERVED_TYPES, SpanMode

P = TypeVar("P", Post, RelationPost, Described)
Q = ParamSpec("Q")

AS_THEY_ARE: Mapping[str, str] = MappingProxyType({})
KEYS = {"id", "tokens", "text", "labels", "image", "images"}
"""Of a JSON object, and the columns of a CSV file."""

_WINDOW = 500  # posts whose ids are looked at together
_MAX_REPORTED = 5
_MAX_MESSAGE = 400  # characters; a token may have a million


@dataclass(frozen=True, slots=True)
class Labels:
    """What the labels of a file are written in, and what its entity types are to be called."""

    scheme: Scheme = "iob2"
    types: Mapping[str, str] = field(default_factory=dict)

    def check(self, label: str) -> None:
        """Raise ValueError for an invalid label, or one whose type has a name that no type may have."""
        prefix, entity_type = split_label(label, self.scheme)
        name = self.types.get(entity_type, entity_type)
        if prefix != "O" and not (name == "O" and entity_type in self.types):  # renamed to O: dropped
            try:
                check_type(name)
            except ValueError as error:
                raise ValueError(
                    f"{label!r}: {error}; or give the type another name: data.types: {{{entity_type!r}: …}}"
                ) from None
        if name in RESERVED_TYPES:
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


def rename_types(post: Post, types: Mapping[str, str]) -> Post:
    """A post whose entity types are renamed by `types`; types it does not name stay, one renamed to O is dropped."""
    if post.labels is None or not types:
        return post
    labels = []
    for label in post.labels:
        prefix, entity_type = split_label(label)
        name = types.get(entity_type, entity_type)
        labels.append("O" if prefix == "O" or name == "O" else f"{prefix}-{name}")
    return replace(post, labels=labels)


def unique_ids(posts: Iterable[P]) -> Iterator[P]:
    """The posts, an id that was there before, in whichever Unicode form, made `id#2`, `id#3`, …; unique ids stay."""
    return (post for post, _ in numbered(posts))


def numbered(posts: Iterable[P]) -> Iterator[tuple[P, bool | None]]:
    """As :func:`unique_ids`; beside a post whose id was there before, whether it first was in the same Unicode form.

    The ids are on disk, so that memory stays flat. Posts are looked at in windows: most have no id that needs a number.
    """
    taken = _Taken()
    for window in batched(posts, _WINDOW):
        if taken.take_all([post.id for post in window]):
            yield from ((post, None) for post in window)
            continue
        for post in window:
            name, same = taken.take(post.id)
            yield (post, None) if name == post.id else (replace(post, id=name), same)


class _Taken:
    """Ids that are taken, in whichever Unicode form."""

    def __init__(self) -> None:
        # first: the id as a post had it; NULL as long as it is but the number of another
        # tried: how far its numbers are known to be taken
        self._table = Scratch("CREATE TABLE ids (id BLOB PRIMARY KEY, first BLOB, tried INTEGER) WITHOUT ROWID")
        self._recent: dict[bytes, tuple[bytes, int]] = {}  # key → first, tried; of those that came again

    def take_all(self, ids: Sequence[str]) -> bool:
        """Take ids of which none was there, nor is there twice; otherwise leave all, and return False."""
        given = [(as_key(composed(each)), as_key(each)) for each in ids]
        keys = {key for key, _ in given}
        if len(keys) < len(given):
            return False
        for marks, some in lookups(keys):
            query = f"SELECT 1 FROM ids WHERE id IN ({marks}) LIMIT 1"  # noqa: S608  (only marks)
            if next(self._table.rows(query, some), None) is not None:
                return False
        self._table.fill("INSERT INTO ids VALUES (?, ?, 1)", given)
        return True

    def take(self, identifier: str) -> tuple[str, bool]:
        """The id, or its next number that is free; and whether it first was in the same form."""
        key, given = as_key(composed(identifier)), as_key(identifier)
        if key not in self._recent and self._add(key, given):
            return identifier, True
        first, tried = self._recent.get(key) or next(
            self._table.rows("SELECT coalesce(first, ?), tried FROM ids WHERE id = ?", (given, key))
        )
        name = identifier
        while name == identifier or not self._add(as_key(composed(name)), None):
            tried += 1
            name = f"{identifier}#{tried}"
        self._recent[key] = first, tried
        if len(self._recent) > _WINDOW:
            rows = ((first, tried, key) for key, (first, tried) in self._recent.items())
            self._table.fill("UPDATE ids SET first = ?, tried = ? WHERE id = ?", rows)
            self._recent.clear()
        return name, first == given

    def _add(self, key: bytes, first: bytes | None) -> bool:
        return self._table.run("INSERT OR IGNORE INTO ids VALUES (?, ?, 1)", (key, first))


def without_mark(line: str, odd: Counter[str]) -> str:
    """A line without the byte-order marks that it begins with (those of joined files); they are counted."""
    rest = line.lstrip("\ufeff")
    odd["byte_order_marks"] += len(line) - len(rest)
    return rest


def images_of(ids: Sequence[str], image_name: str | None) -> list[str]:
    """How ids name pictures; none where `image_name` is None. A picture named twice is one."""
    return [] if image_name is None else list(dict.fromkeys(image_name.format(id=each) for each in ids))


def from_row(row: Any, known: Labels, image_name: str | None, odd: Counter[str], mode: SpanMode | None = None) -> Post:
    """The post that a JSON object or a row of a table stands for; one whose text is blank is counted.

    Args:
        row: what the file has.
        known: what its labels are written in.
        image_name: how an id names its picture, or None for no picture.
        odd: counts what is odd.
        mode: of labels that are spans of a text (:mod:`pipeline.corpus.spans`); None: it may have none.

    Raises:
        ValueError: it stands for none.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    if (
        row.keys() - KEYS - ({"spans"} if mode is not None and "text" in row else set())
        or "id" not in row
        or ("tokens" in row) == ("text" in row)
        or {"image", "images"} <= row.keys()
    ):
        raise ValueError(
            "expected the keys id, either tokens or text, and perhaps labels (of tokens) or spans (of a text) and "
            "images (or image); found "
            f"{', '.join(sorted(row))}"
        )
    identifier = row["id"]
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not identifier or "\n" in identifier or "\r" in identifier:
        raise ValueError(f"id: expected a text on one line, found {identifier!r}")
    tokens, labels = (row["tokens"], row.get("labels")) if "tokens" in row else _split(row, mode, odd)
    if not _is_texts(tokens) or not all(tokens):
        raise ValueError("tokens: expected a list of texts, none of them empty")
    if not tokens and "tokens" in row:
        shown = identifier if identifier.isprintable() else repr(identifier)
        raise ValueError(f"post {shown} has no tokens; expected at least one, or no post")
    if any("\t" in token or "\n" in token for token in tokens):
        raise ValueError("tokens: a token holds a tab or a line break, which ends a token in CoNLL files")
    if labels is not None and (not _is_texts(labels) or len(labels) != len(tokens)):
        raise ValueError(f"labels: expected null or {len(tokens)} texts, one a token")
    images = _images(row)
    if any(map(has_unpaired_surrogate, (identifier, *tokens, *(labels or ()), *(images or ())))):
        raise ValueError("holds an unpaired surrogate (such as \\ud83d), which cannot be written as UTF-8")
    for label in labels or ():
        known.check(label)
    odd["blank_texts"] += not tokens
    return Post(identifier, tokens, labels, images_of([identifier], image_name) if images is None else images)


def _images(row: Mapping[str, Any]) -> list[str] | None:
    """The pictures that a row names, each once, or None where it leaves that to the id."""
    if "images" in row:
        images = row["images"]
        if images is not None and not _is_texts(images):
            raise ValueError(f"images: expected null or a list of file names, found {images!r}")
        return list(dict.fromkeys(filter(None, images or [])))
    if "image" in row:
        if row["image"] is not None and not isinstance(row["image"], str):
            raise ValueError(f"image: expected null or a file name, found {row['image']!r}")
        return [row["image"]] if row["image"] else []
    return None


def _split(row: Mapping[str, Any], mode: SpanMode | None, odd: Counter[str]) -> tuple[list[str], list[str] | None]:
    """The tokens of a row's text, and their labels where it has spans."""
    text = row["text"]
    if not isinstance(text, str):
        raise ValueError(f"text: expected a text, found {text!r}")
    if row.get("labels") is not None:
        raise ValueError(
            "labels: a text has none, as it is split here; expected them beside tokens, one a token, or spans"
        )
    pairs, labels = tokenize(text), None
    if mode is not None and row.get("spans") is not None:
        labels = spans.on_tokens(spans.parse(row["spans"], text), pairs, text, mode, odd)
    return [token for token, _ in pairs], labels


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


class Problems:
    """What is wrong with the lines of a file: the first few, and how many there are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: list[str] = []
        self.count = 0

    def add(self, problem: str) -> None:
        """Note one; it begins with the file and the line."""
        self.count += 1
        if self.count <= _MAX_REPORTED:
            self._shown.append(problem if len(problem) <= _MAX_MESSAGE else problem[:_MAX_MESSAGE] + " …")

    def refuse(self) -> None:
        """Raise UserError where there are any; it names the first few."""
        if self.count:
            rest = self.count - _MAX_REPORTED
            raise UserError("\n".join([*self._shown, *([f"… and {rest} more in {self._path}"] if rest > 0 else [])]))


@dataclass(slots=True)
class Throughout:
    """Whether all posts of a file are as none of a sound one would be, so that it must be in another format.

    Attributes:
        posts: how many there are.
        such: how many of them are like that; those behind one that is not need not be looked at.
    """

    posts: int = 0
    such: int = 0

    def add(self, such: bool) -> None:
        """Count a post."""
        self.posts += 1
        self.such += such

    def add_all(self, other: "Throughout") -> None:
        """Count the posts that another has counted."""
        self.posts += other.posts
        self.such += other.such

    @property
    def holds(self) -> bool:
        """Whether all of them are, and there is one."""
        return 0 < self.posts == self.such


@dataclass(frozen=True, slots=True)
class Portion:
    """A piece of a file that is read in pieces.

    Attributes:
        piece: its lines.
        throughout: is told of its posts, as the file is not refused by one of its pieces.
    """

    piece: Piece
    throughout: Throughout = field(default_factory=Throughout)


def lines_of(path: Path, portion: Portion | None) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file, or of a portion of it."""
    return numbered_lines(path) if portion is None else portion.piece.lines(str(path))


def final(posts: Iterable[Post], problems: Problems, known: Labels, odd: Counter[str]) -> Iterator[Post]:
    """The posts of a file with their final labels; those that a type renamed to O takes along are counted.

    Raises:
        UserError: behind the last of them, or of those before the first problem: there are problems.
    """
    for post in posts:
        if not problems.count:
            last = known.final(post)
            odd["dropped_labels"] += _labels_other_than_o(post) - _labels_other_than_o(last)
            yield last
    problems.refuse()


def listed(each: Callable[Q, Iterator[Post]]) -> Callable[Q, list[Post]]:
    """A reader that gives all posts at once, made of one that gives them as it reads them."""

    @wraps(each)
    def read(*args: Q.args, **options: Q.kwargs) -> list[Post]:
        return list(each(*args, **options))

    return read


def _labels_other_than_o(post: Post) -> int:
    return sum(label != "O" for label in post.labels or ())
