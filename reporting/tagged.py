"""The page of posts that a tagger was shown, without a run around them: the report's gallery, and scores if any.

It has the assets of the report's page (:mod:`reporting.page`); gathering what was found is left to the caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.files import atomic_write
from pipeline.core.kinds import TEXT_KINDS
from reporting.gallery import gallery
from reporting.page import DATA_VARIABLE, environment, script, write_assets
from reporting.scores import entity_types, glosses, score_splits
from reporting.sources import Results


@dataclass(frozen=True)
class Head:
    """What stands above the posts.

    Attributes:
        name: of what was tagged, such as a file.
        tagger: its folder or name.
        encoder, data: what the tagger was made of and trained on, as it says itself; None where it does not.
        changed: how many posts the pictures changed.
    """

    name: str
    tagger: str
    encoder: str | None
    data: str | None
    changed: int


def write(results: Results, head: Head, thumbnails: Mapping[str, str], output: Path) -> None:
    """Write output/index.html and output/assets/ (but for the thumbnails, which are there).

    Args:
        results: with the posts as the split `test`.
        head: what stands above them.
        thumbnails: file names by picture.
        output: a folder.
    """
    types = entity_types(results)
    data = gallery(results, types, thumbnails)
    page = (
        environment()
        .get_template("tagged.html.j2")
        .render(
            head=head,
            settings=results.settings,
            glosses=glosses(results.settings.evaluate),
            split=score_splits(results, types)[0],
            n_posts=len(data["posts"]),
            drawn=[kind for kind in TEXT_KINDS.values() if kind.drawn],
            attends=False,
        )
    )
    write_assets(output / "assets")
    with atomic_write(output / "assets" / "posts.js") as file:
        file.write(script(DATA_VARIABLE, data))
    with atomic_write(output / "index.html") as file:
        file.write(page)
