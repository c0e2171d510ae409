"""Counts of posts: how many, of what, labelled how; those of parts of a split are added up."""

import unicodedata
from collections import Counter
from typing import Any

from pipeline.core.labels import Reading, entities, orphans
from pipeline.core.records import Post


class Counts:
    """The counts of posts that were added."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._entities: dict[Reading, Counter[str]] = {"conlleval": Counter(), "strict": Counter()}

    def add(self, post: Post) -> None:
        """Count a post."""
        counts = self._counts
        counts["posts"] += 1
        counts["tokens"] += len(post.tokens)
        counts["invisible_tokens"] += sum(map(is_invisible, post.tokens))
        counts["without_image"] += not post.images
        counts["several_images"] += len(post.images) > 1
        counts["images"] += len(post.images)
        if post.labels is not None:
            counts["labelled"] += 1
            counts["orphan_i"] += orphans(post.labels)
            for reading, types in self._entities.items():
                for entity in entities(post.labels, reading):
                    types[entity.type] += 1

    def add_all(self, other: "Counts") -> None:
        """Count the posts that another has counted."""
        self._counts.update(other._counts)
        for reading, types in other._entities.items():
            self._entities[reading].update(types)

    def found(self, different_images: int) -> dict[str, Any]:
        """The counts by name, as :meth:`pipeline.corpus.report.Report.found` has them.

        Args:
            different_images: how many the posts name, each once.
        """
        counts = self._counts
        return {
            "posts": counts["posts"],
            "labelled": counts["labelled"],
            "tokens": counts["tokens"],
            "entities": {
                reading: {"total": types.total(), **dict(sorted(types.items()))}
                for reading, types in self._entities.items()
            },
            "orphan_i": counts["orphan_i"],
            "invisible_tokens": counts["invisible_tokens"],
            "without_image": counts["without_image"],
            "several_images": counts["several_images"],
            "sharing_an_image": counts["images"] - different_images,
        }


def is_invisible(token: str) -> bool:
    """Whether a token shows nothing: only separators, control and format characters, or variation selectors."""
    if token[:1].isalnum():  # as most do
        return False
    return all(unicodedata.category(char)[0] in "ZC" or unicodedata.category(char) == "Mn" for char in token)
