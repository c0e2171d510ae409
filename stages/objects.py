"""Stage `objects`: pictures → data/contexts/objects.jsonl, or --images DIR → --output FILE.

A detector may look for what the posts say that show a picture.
"""

from collections.abc import Iterable
from pathlib import Path

from pipeline.core.records import Post
from pipeline.corpus import jsonl
from pipeline.settings.params import Params
from stages.shared import extraction, posts


def posts_of(settings: Params, file: Path | None) -> Iterable[Post]:
    """The posts of a file of JSON Lines, or with None those of all splits."""
    if file is None:
        return (post for _, post in posts.of_all_splits())
    return jsonl.read(file, image_name=settings.data.image_name)


if __name__ == "__main__":
    extraction.run("objects", posts_of)
