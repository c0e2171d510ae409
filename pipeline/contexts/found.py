"""What the extraction stages have written, by picture and by post: what a post's context is made of.

Rendering it is left to :mod:`pipeline.contexts.template`.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.contexts.template import Items, render_post
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Post
from pipeline.settings.params import ViewsParams


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in pictures, by name, and said of posts, by id and split (None: outside the pipeline)."""

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
