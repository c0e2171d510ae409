"""What the extraction stages have written, by picture and by post: what a post's context is made of.

Rendering it is left to :mod:`pipeline.contexts.template`.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.contexts.ordered import OrderedContexts
from pipeline.contexts.template import Items, join_post, kind_in_words, render_post
from pipeline.core.kinds import PICTURE_KINDS, TEXT_KINDS
from pipeline.core.records import Post, View
from pipeline.settings.params import ViewsParams


def file_of(folder: Path, kind: str) -> Path:
    """The file of a kind's context records, in a folder such as data/contexts."""
    return folder / f"{kind}.jsonl"


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
            for context in entry.read(file_of(folder, kind)):
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
    """What was found in pictures and said of posts, in words by one template; looked up in the files themselves.

    Args:
        folder: of the files, such as data/contexts.
        views: the template; it says which kinds are read.
        known: whether the files are known to be whole and in order.

    Attributes:
        folder, template: the first two.

    Raises:
        UserError: a file is missing, or not as its stage has written it; the message names file and line.
    """

    def __init__(self, folder: Path, views: ViewsParams, *, known: bool = False) -> None:
        self.folder, self.template = folder, views
        self._files = {kind: OrderedContexts(file_of(folder, kind), TEXT_KINDS[kind]) for kind in views.kinds}
        for file in self._files.values() if not known else ():
            file.require()

    def views(self, posts: Sequence[Post], split: str) -> list[View]:
        """Some posts of a split with their contexts; raises as :meth:`contexts`."""
        return [
            View(post.id, post.tokens, post.labels, context, post.images)
            for post, context in zip(posts, self.contexts(posts, split), strict=True)
        ]

    def contexts(self, posts: Sequence[Post], split: str) -> list[str]:
        """The contexts of some posts of a split.

        Raises:
            UserError: a line that is looked at is no record; the message names file and line.
        """
        pictures: dict[str, dict[str, str]] = defaultdict(dict)
        said: dict[str, dict[str, str]] = defaultdict(dict)
        images = {image for post in posts for image in post.images}
        for kind in self.template.kinds:
            if kind in PICTURE_KINDS:
                found, keys = pictures, [(image, "") for image in images]
            else:
                found, keys = said, [(post.id, split) for post in posts]
            for row in self._files[kind].find(sorted(keys)):
                found[row.name][kind] = kind_in_words(self.template, kind, row.items)
        return [
            join_post(self.template, [pictures.get(image, {}) for image in post.images], said.get(post.id, {}))
            for post in posts
        ]
