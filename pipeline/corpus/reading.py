"""What the readers of people's files share: labels of several schemes, problems with their lines, posts out of rows.

Readers lose nothing and repair nothing silently: a malformed line stops the run with its file and number, and what
is merely odd (orphan `I-`, invisible tokens, ids given twice) is kept and counted (:mod:`pipeline.corpus.report`).
What is no part of a post (control lines, comments) is skipped and counted too, in a counter that the caller hands in.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.labels import Scheme, check_type, split_label, to_iob2
from pipeline.core.names import composed, has_unpaired_surrogate
from pipeline.core.records import Post
from pipeline.core.tokens import tokenize
from pipeline.corpus import spans
from pipeline.settings.params import RESERVED_TYPES, SpanMode

AS_THEY_ARE: Mapping[str, str] = MappingProxyType({})
KEYS = {"id", "tokens", "text", "labels", "image", "images"}
"""Of a JSON object, and the columns of a CSV file."""

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


def unique_ids(posts: Iterable[Post]) -> Iterator[Post]:
    """The posts, an id that was there before, in whichever Unicode form, made `id#2`, `id#3`, …; unique ids stay."""
    seen: set[str] = set()
    tried: dict[str, int] = {}  # how far the numbers of an id are known to be taken
    for post in posts:
        name, key = post.id, composed(post.id)
        while composed(name) in seen:
            tried[key] = tried.get(key, 1) + 1
            name = f"{post.id}#{tried[key]}"
        seen.add(composed(name))
        yield post if name == post.id else replace(post, id=name)


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


def finish(path: Path, posts: list[Post], problems: list[str], known: Labels, odd: Counter[str]) -> list[Post]:
    """The posts of a file with their final labels; those that a type renamed to O takes along are counted.

    Raises:
        UserError: there are problems, the first few of which are named.
    """
    if problems:
        rest = len(problems) - _MAX_REPORTED
        more = [f"… and {rest} more in {path}"] if rest > 0 else []
        shown = [text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + " …" for text in problems[:_MAX_REPORTED]]
        raise UserError("\n".join(shown + more))
    final = [known.final(post) for post in posts]
    odd["dropped_labels"] += sum(map(_labels_other_than_o, posts)) - sum(map(_labels_other_than_o, final))
    return final


def _labels_other_than_o(post: Post) -> int:
    return sum(label != "O" for label in post.labels or ())
