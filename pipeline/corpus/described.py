"""What each post gives by itself, in whichever process: its line in data/posts, and what tells it from others."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipeline.core import records
from pipeline.core.names import composed
from pipeline.core.records import Post
from pipeline.core.scratch import as_key
from pipeline.corpus.counts import Counts
from pipeline.corpus.digests import of_labels, of_text

_ANY_ID = "-"


@dataclass(frozen=True, slots=True)
class Described:
    """A post, as the stage `posts` goes on with it.

    Attributes:
        id: as far as it is known, unique or not; empty where it is still to be named.
        rest: what is behind the id in its line in data/posts.
        images: the names of its pictures, as keys that are equal for names that look alike.
        text: the digest of its tokens, labels: of tokens and labels, None where it has none.
    """

    id: str
    rest: str
    images: list[bytes]
    text: bytes
    labels: bytes | None

    @property
    def line(self) -> str:
        """Its line in data/posts."""
        return _head(self.id) + self.rest


def describe(posts: Iterable[Post], counts: Counts) -> Iterator[Described]:
    """The posts, described; they are counted as they are gone through."""
    for post in posts:
        counts.add(post)
        named = post if post.id else replace(post, id=_ANY_ID)
        rest = records.line(named)[len(_head(named.id)) :]
        images = [as_key(composed(image)) for image in post.images]
        yield Described(post.id, rest, images, of_text(post), of_labels(post))


def _head(identifier: str) -> str:
    return f'{{"id": {records.as_json(identifier)}'
