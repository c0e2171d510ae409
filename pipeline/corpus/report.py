"""What is in a data set, and what is odd about it: counts by split, for data/posts/report.json and the report."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.core.labels import entities, orphans
from pipeline.core.records import Post
from pipeline.settings.params import SPLITS, Split


def report(splits: dict[Split, list[Post]]) -> dict[str, Any]:
    """What the posts stage found: counts by split and type, and everything odd.

    Returns:
        ``{"splits": {split: {"posts", "labelled", "tokens", "entities": {"conlleval" | "strict": {"total" | type: n}},
        "orphan_i", "invisible_tokens", "without_image", "several_images",
        "sharing_an_image"}}, "shared_texts": {"train/dev": n, …}}``;
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
        "sharing_an_image": len(images) - len(set(images)),
    }


def _count(labelled: list[list[str]], types: Callable[[list[str]], Iterable[str]]) -> dict[str, int]:
    by_type = Counter(name for labels in labelled for name in types(labels))
    return {"total": by_type.total(), **dict(sorted(by_type.items()))}


def is_invisible(token: str) -> bool:
    """Whether a token shows nothing: only separators, control and format characters, or variation selectors."""
    return all(unicodedata.category(char)[0] in "ZC" or unicodedata.category(char) == "Mn" for char in token)
