"""What is in a data set, and what is odd about it: counts by split, for data/posts/report.json and the report."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from pipeline.core.labels import entities, orphans
from pipeline.core.names import FORMS, composed
from pipeline.core.records import Post
from pipeline.corpus.digests import label_digest, text_digest
from pipeline.settings.params import PostSplit

ODD = {
    "control_lines": ("-DOCSTART- line skipped", "-DOCSTART- lines skipped"),
    "comment_lines": ("comment line skipped", "comment lines skipped"),
    "repeated_headers": ("further header skipped", "further headers skipped"),
    "byte_order_marks": ("further byte-order mark skipped", "further byte-order marks skipped"),
    "blank_texts": ("text that is blank, a post without tokens", "texts that are blank, posts without tokens"),
    "dropped_labels": (
        "label dropped (data.types renames its type to O)",
        "labels dropped (data.types renames their types to O)",
    ),
    "labels_not_read": ("post whose labels are not read", "posts whose labels are not read"),
    "tasks_without_annotation": (
        "task that nobody has labelled, left out",
        "tasks that nobody has labelled, left out",
    ),
    "further_annotations": (
        "further annotation of a task, not read",
        "further annotations of tasks, not read",
    ),
    "spans_snapped": (
        "span that begins or ends inside a token and takes it whole",
        "spans that begin or end inside a token and take it whole",
    ),
    "spans_lost": (
        "span that shares its only token with another, and is left out",
        "spans that share their only token with another, and are left out",
    ),
    "beyond_limit": ("post left out (data.limit)", "posts left out (data.limit)"),
    "repeated_ids": ("id given again and numbered", "ids given again and numbered"),
    "ids_in_other_forms": (
        f"id that differs from an earlier one {FORMS}, numbered",
        f"ids that differ from earlier ones {FORMS}, numbered",
    ),
    "rounded_ids": (
        "id that a spreadsheet seems to have rounded, such as 7.91E+17 or 791000000000000000: export it as text",
        "ids that a spreadsheet seems to have rounded, such as 7.91E+17 or 791000000000000000: export them as text",
    ),
}
"""What readers count and do not stop at, and how one and several of it are put."""


def described(odd: Mapping[str, int]) -> Iterator[str]:
    """Each kind of :data:`ODD` that was found, with its number."""
    for name, (one, many) in ODD.items():
        if number := odd.get(name, 0):
            yield f"{number:,} {one if number == 1 else many}"


def report(
    splits: Mapping[PostSplit, list[Post]], odd: Mapping[PostSplit, Mapping[str, int]] | None = None
) -> dict[str, Any]:
    """What the posts stage found: counts by split and type, and everything odd.

    Args:
        splits: the posts.
        odd: what the readers counted, by split and the names of :data:`ODD`.

    Returns:
        ``{"splits": {split: {"posts", "labelled", "tokens", "entities": {"conlleval" | "strict": {"total" | type: n}},
        "orphan_i", "invisible_tokens", "without_image", "several_images",
        "sharing_an_image", "label_digest", "text_digest", "odd": {name of ODD: n}}},
        "shared_texts": {"train/dev": n, …}}``; `shared_texts` counts the texts that stand in both splits, the digests
        (:mod:`pipeline.corpus.digests`) tell versions of a data set apart.
    """
    texts = {split: {tuple(post.tokens) for post in posts} for split, posts in splits.items()}
    pairs = combinations(splits, 2)
    return {
        "splits": {split: _split_report(posts, (odd or {}).get(split, {})) for split, posts in splits.items()},
        "shared_texts": {f"{one}/{other}": len(texts[one] & texts[other]) for one, other in pairs},
    }


def _split_report(posts: Sequence[Post], odd: Mapping[str, int]) -> dict[str, Any]:
    labelled = [post.labels for post in posts if post.labels is not None]
    images = [image for post in posts for image in post.images]
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
        "without_image": sum(not post.images for post in posts),
        "several_images": sum(len(post.images) > 1 for post in posts),
        "sharing_an_image": len(images) - len(set(map(composed, images))),
        "label_digest": label_digest(posts),
        "text_digest": text_digest(posts),
        "odd": {name: odd.get(name, 0) for name in ODD},
    }


def _count(labelled: list[list[str]], types: Callable[[list[str]], Iterable[str]]) -> dict[str, int]:
    by_type = Counter(name for labels in labelled for name in types(labels))
    return {"total": by_type.total(), **dict(sorted(by_type.items()))}


def is_invisible(token: str) -> bool:
    """Whether a token shows nothing: only separators, control and format characters, or variation selectors."""
    return all(unicodedata.category(char)[0] in "ZC" or unicodedata.category(char) == "Mn" for char in token)
