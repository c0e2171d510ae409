"""The posts of all splits, for stages that show them to extractors."""

from pipeline.core import records
from pipeline.core.records import Post
from pipeline.settings.params import POST_SPLITS, PostSplit
from stages.shared import paths


def of_all_splits() -> dict[PostSplit, list[Post]]:
    """The posts that views are made of, by split.

    Raises:
        UserError: a file is missing or malformed.
    """
    return {split: list(records.read(paths.POSTS / f"{split}.jsonl", Post, "posts")) for split in POST_SPLITS}
