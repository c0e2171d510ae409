"""The page of likely label errors: a row each, with the words in question, what the label and what the tagger says."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.files import atomic_write
from pipeline.core.records import Doubt
from reporting.page import environment, write_assets

SHOWN = 500
"""Rows of the page; all of them are in the file beside it."""


def write(doubts: Sequence[Doubt], n_posts: int, confidence: float, output: Path) -> None:
    """Write the page, and assets/ beside it.

    Args:
        doubts: the surest first.
        n_posts: how many posts were read.
        confidence: of the tagger, at least.
        output: the page's file.
    """
    page = (
        environment()
        .get_template("doubts.html.j2")
        .render(doubts=doubts[:SHOWN], total=len(doubts), n_posts=n_posts, confidence=confidence)
    )
    write_assets(output.parent / "assets")
    with atomic_write(output) as file:
        file.write(page)
