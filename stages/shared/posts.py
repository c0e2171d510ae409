"""The posts of all splits, for stages that look at them beyond their own split."""

from collections.abc import Iterator

from pipeline.core import records
from pipeline.core.records import Post
from pipeline.settings.params import POST_SPLITS, PostSplit
from stages.shared import paths


def of_all_splits() -> Iterator[tuple[PostSplit, Post]]:
    """The posts that views are made of, each with its split; read as they are gone through.

    Raises:
        UserError: a file is missing or malformed.
    """
    for split in POST_SPLITS:
        for post in records.read(paths.POSTS / f"{split}.jsonl", Post, "posts"):
            yield split, post
