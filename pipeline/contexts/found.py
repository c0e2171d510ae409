"""What the extraction stages have written, by picture and by post: what a post's context is made of.

Rendering it is left to :mod:`pipeline.contexts.template`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.contexts.template import Items, join_post, kind_in_words, render_post
from pipeline.core.kinds import PICTURE_KINDS, TEXT_KINDS
from pipeline.core.records import Post
from pipeline.core.scratch import Scratch
from pipeline.core.store import lookups
from pipeline.settings.params import ViewsParams


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in pictures, by name, and said of posts, by id and split (None: outside the pipeline).

    It is in memory, for a few posts; :class:`FoundWords` is for the posts of a data set.
    """

    pictures: dict[str, Items]
    posts: dict[tuple[str, str | None], Items]

    @classmethod
    def read(cls, folder: Path, kinds: Collection[str]) -> "Found":
        """Read the context records of some kinds.

        Args:
            folder: of the files, such as data/contexts.
            kinds: that are about pictures or posts.

        Raises:
            UserError: a file is missing, or a line of it is no record.
        """
        pictures: dict[str, dict[str, list[object]]] = defaultdict(dict)
        posts: dict[tuple[str, str | None], dict[str, list[object]]] = defaultdict(dict)
        for kind in kinds:
            entry = TEXT_KINDS[kind]
            for context in entry.read(folder / f"{kind}.jsonl"):
                if entry.about == "picture":
                    pictures[context.name][kind] = context.items
                else:
                    posts[context.name, context.split][kind] = context.items
        return cls(dict(pictures), dict(posts))

    def words(self, views: ViewsParams, post: Post, split: str | None) -> str:
        """The context of a post, by a template."""
        pictures = [self.pictures.get(image, {}) for image in post.images]
        return render_post(views, pictures, self.posts.get((post.id, split), {}))


class FoundWords:
    """What was found in pictures and said of posts, in words by one template; on disk, so that memory stays flat.

    Args:
        folder: of the files, such as data/contexts.
        views: the template; it says which kinds are read.

    Raises:
        UserError: a file is missing, or a line of it is no record.
    """

    def __init__(self, folder: Path, views: ViewsParams) -> None:
        self._views = views
        self._table = Scratch(
            "CREATE TABLE found (kind TEXT, name TEXT, split TEXT, words TEXT, PRIMARY KEY (kind, name, split)) "
            "WITHOUT ROWID"
        )
        for kind in views.kinds:
            rows = TEXT_KINDS[kind].read(folder / f"{kind}.jsonl")
            self._table.fill(
                "INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?)",
                ((kind, row.name, row.split or "", kind_in_words(views, kind, row.items)) for row in rows),
            )

    def contexts(self, posts: Sequence[Post], split: str) -> list[str]:
        """The contexts of some posts of a split."""
        pictures: dict[str, dict[str, str]] = defaultdict(dict)
        said: dict[str, dict[str, str]] = defaultdict(dict)
        images = {image for post in posts for image in post.images}
        for kind in self._views.kinds:
            if kind in PICTURE_KINDS:
                found, about = pictures, self._of(kind, images, "")
            else:
                found, about = said, self._of(kind, [post.id for post in posts], split)
            for name, words in about:
                found[name][kind] = words
        return [
            join_post(self._views, [pictures.get(image, {}) for image in post.images], said.get(post.id, {}))
            for post in posts
        ]

    def _of(self, kind: str, names: Collection[str], split: str) -> Iterator[tuple[str, str]]:
        for marks, some in lookups(names):
            query = f"SELECT name, words FROM found WHERE kind = ? AND split = ? AND name IN ({marks})"  # noqa: S608
            yield from self._table.rows(query, (kind, split, *some))
