"""Stage `images`: every picture that a post names → data/images.jsonl, one row each with its hash, size and status."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core import records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.locks import stage_lock
from pipeline.core.records import ImageRow, RelationPost
from pipeline.core.store import Store
from pipeline.images import manifest as images
from pipeline.images.digests import held
from pipeline.settings import params
from stages.shared import paths, posts
from stages.shared.record import recorded


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    with stage_lock("images"), Store.open() as store, recorded("images") as record:
        data, statuses = settings.data, images.Statuses()
        place = held(data, settings.images, store)
        rows = images.manifest(_names(), place, settings.images, store, follow=data.linked_folders)
        where = None if place is None else data.images_folder or str(data.images)
        count = records.write(paths.IMAGES, _required(rows, statuses, where))
        record |= {"items": count, "unit": "pictures"}
    if data.images is None:
        print(f"no pictures in this data set (data.images: null); {count:,} named by its posts")
        return
    summary = ", ".join(f"{number:,} {status}" for status, number in sorted(statuses.counts.items()))
    print(f"{count:,} pictures{': ' if summary else ''}{summary}")


def _names() -> Iterator[str]:
    """The pictures that posts name, those of the relation as well; one that several name several times."""
    for _, post in posts.of_all_splits():
        yield from post.images
    for relation in records.read(paths.RELATION, RelationPost, "posts"):
        yield from relation.images


def _required(rows: Iterable[ImageRow], statuses: images.Statuses, where: Path | str | None) -> Iterator[ImageRow]:
    """The rows, counted; raises UserError behind them where none of the pictures can be read and there is a place."""
    yield from statuses.noted(rows)
    if where is not None and (reason := statuses.nothing_readable(where)):
        raise UserError(reason)


if __name__ == "__main__":
    run_cli(main, __doc__)
