"""A file of posts and how it is read: whole, or where its format lets it, in pieces, by several processes."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.files import Piece, pieces
from pipeline.core.records import Post
from pipeline.corpus.reading import Portion


@dataclass(frozen=True, slots=True)
class Source:
    """A file of posts; it can be pickled.

    Attributes:
        path: the file.
        read: reads it: the function `each` of a reader, given its options.
        after: where a piece of it may end, as of :func:`pipeline.core.files.pieces`; None: it is read whole.
    """

    path: Path
    read: Callable[..., Iterator[Post]]
    after: Callable[[bytes, int], int] | None = None

    def posts(self, odd: Counter[str]) -> Iterator[Post]:
        """The posts of the file; what is odd is counted. Raises UserError as its reader does."""
        return self.read(self.path, odd=odd)

    def pieces(self) -> Iterator[Piece]:
        """The file in pieces."""
        assert self.after is not None
        return pieces(self.path, self.after)

    def posts_of(self, portion: Portion, odd: Counter[str]) -> Iterator[Post]:
        """The posts of a portion, as of :meth:`posts`; an id that needs their number in the file is empty.

        Raises:
            UserError: something is wrong with it; what, :meth:`posts` says of the file as a whole.
        """
        return self.read(self.path, odd=odd, portion=portion)
