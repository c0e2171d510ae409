"""Out-of-fold teachers: each is trained without a part of the labelled posts, and teaches of those that part alone.

What a tagger says of a post that it was trained on is little else than the post's labels. Posts without labels are no
tagger's training, so that all of them teach those.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.core.records import View

FILE = "fold.json"


@dataclass(frozen=True, slots=True)
class Fold:
    """A part of the labelled posts: number `index`, from 0, of `total`; a post's id says in which one it is."""

    index: int
    total: int

    def has(self, post: View) -> bool:
        """Whether a post is in it."""
        return int.from_bytes(hashlib.sha256(post.id.encode()).digest()[:8]) % self.total == self.index

    def without(self, posts: Sequence[View]) -> list[View]:
        """The posts that are not in it; of those without labels, all."""
        return [post for post in posts if post.labels is None or not self.has(post)]


def write(folder: Path, fold: Fold, key: str) -> None:
    """Note of which fold a tagger knows nothing, and what decided its training (a digest)."""
    write_json(folder / FILE, {"index": fold.index, "total": fold.total, "training": key})


def read(folder: Path) -> tuple[Fold, str] | None:
    """What :func:`write` has noted in a tagger's folder; None of a tagger that was trained on all posts.

    Raises:
        UserError: the file is not as it was written.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        fold = Fold(int(found["index"]), int(found["total"]))
        if not 0 <= fold.index < fold.total:
            raise ValueError(f"index {fold.index} of {fold.total}")
        return fold, str(found["training"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / FILE}: expected index, total and training, as stages.folds writes them: {error}"
        ) from None
