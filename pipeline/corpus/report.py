"""What is in a data set, and what is odd about it: counts by split, for data/posts/report.json and the report."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

from pipeline.core.names import FORMS
from pipeline.core.records import Post
from pipeline.core.scratch import Scratch
from pipeline.core.store import batched
from pipeline.corpus.counts import Counts
from pipeline.corpus.described import Described, describe
from pipeline.corpus.digests import of_all
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

_WINDOW = 500  # posts that are counted together


def described(odd: Mapping[str, int]) -> Iterator[str]:
    """Each kind of :data:`ODD` that was found, with its number."""
    for name, (one, many) in ODD.items():
        if number := odd.get(name, 0):
            yield f"{number:,} {one if number == 1 else many}"


def report(
    splits: Mapping[PostSplit, Iterable[Post]], odd: Mapping[PostSplit, Mapping[str, int]] | None = None
) -> dict[str, Any]:
    """As :meth:`Report.found`, of posts that are gone through for nothing else."""
    found = Report()
    for split, posts in splits.items():
        for _ in found.noted(split, describe(posts, found.counts(split))):
            pass
    return found.found(odd or {})


class Report:
    """What the posts stage finds: counts by split and type, and everything odd.

    What is compared among all posts, their texts and the names of their pictures, is on disk.
    """

    def __init__(self) -> None:
        self._splits: dict[PostSplit, Counts] = {}
        self._table = Scratch(
            "CREATE TABLE texts (split INTEGER, text BLOB, labels BLOB)",
            "CREATE TABLE images (split INTEGER, name BLOB)",
        )

    def counts(self, split: PostSplit) -> Counts:
        """The counts of a split, for its posts to be added to."""
        return self._splits.setdefault(split, Counts())

    def noted(self, split: PostSplit, posts: Iterable[Described]) -> Iterator[Described]:
        """The posts of a split themselves, which are compared with all others."""
        self.counts(split)
        number = list(self._splits).index(split)
        for some in batched(posts, _WINDOW):
            self._table.fill("INSERT INTO texts VALUES (?, ?, ?)", ((number, post.text, post.labels) for post in some))
            names = ((number, image) for post in some for image in post.images)
            self._table.fill("INSERT INTO images VALUES (?, ?)", names)
            yield from some

    def found(self, odd: Mapping[PostSplit, Mapping[str, int]]) -> dict[str, Any]:
        """The report.

        Args:
            odd: what the readers counted, by split and the names of :data:`ODD`.

        Returns:
            ``{"splits": {split: {"posts", "labelled", "tokens", "entities": {"conlleval" | "strict": {"total" | type:
            n}}, "orphan_i", "invisible_tokens", "without_image", "several_images", "sharing_an_image", "label_digest",
            "text_digest", "odd": {name of ODD: n}}}, "shared_texts": {"train/dev": n, …}}``; `shared_texts` counts the
            texts that stand in both splits, the digests (:mod:`pipeline.corpus.digests`) tell versions of a data set
            apart.
        """
        alike = "SELECT split FROM images GROUP BY split, name"
        different = dict(self._table.rows(f"SELECT split, count(*) FROM ({alike}) GROUP BY split"))  # noqa: S608
        return {
            "splits": {
                split: {
                    **counts.found(different.get(number, 0)),
                    **self._digests(number),
                    "odd": {name: odd.get(split, {}).get(name, 0) for name in ODD},
                }
                for number, (split, counts) in enumerate(self._splits.items())
            },
            "shared_texts": self._shared(),
        }

    def _digests(self, number: int) -> dict[str, str]:
        return {
            f"{name}_digest": of_all(digest for (digest,) in self._table.rows(query, [number]))
            for name, query in (
                ("label", "SELECT labels FROM texts WHERE split = ? AND labels IS NOT NULL ORDER BY labels"),
                ("text", "SELECT text FROM texts WHERE split = ? ORDER BY text"),
            )
        }

    def _shared(self) -> dict[str, int]:
        """How many texts stand in both of two splits."""
        bits = " + ".join(f"(max(split = {number}) << {number})" for number in range(len(self._splits))) or "0"
        which = f"SELECT {bits} AS which FROM texts GROUP BY text"  # noqa: S608  (numbers)
        sets = dict(self._table.rows(f"SELECT which, count(*) FROM ({which}) GROUP BY which"))  # noqa: S608
        return {
            f"{one}/{other}": sum(count for which, count in sets.items() if which >> first & which >> second & 1)
            for (first, one), (second, other) in combinations(enumerate(self._splits), 2)
        }
