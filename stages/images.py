"""Stage `images`: every picture that a post names → data/images.jsonl, one row each with its hash, size and status."""

import argparse
from collections.abc import Iterable, Iterator

from pipeline.core import records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.locks import stage_lock
from pipeline.core.records import ImageRow, RelationPost
from pipeline.core.store import Store
from pipeline.engine.images import manifest
from pipeline.engine.shards import Part
from pipeline.images import manifest as images
from pipeline.images.digests import held
from pipeline.settings import params
from pipeline.settings.params import Params
from stages.shared import paths, posts
from stages.shared.record import recorded
from stages.shared.sharing import add_part, results_of


def main() -> None:
    """Run the stage, or with ``--part`` examine some of its pictures beforehand."""
    parser = argparse.ArgumentParser(prog="python -m stages.images", description=__doc__)
    add_part(parser)
    part: Part | None = parser.parse_args().part
    settings, statuses = params.load(paths.PARAMS), images.Statuses()
    with Store.open() as store:
        if part is None:
            with stage_lock("images"), recorded("images") as record:
                count = records.write(paths.IMAGES, _required(settings, statuses, _rows(settings, store)))
                record |= {"items": count, "unit": "pictures"}
            print(_summary(settings, statuses))
        else:
            for _ in statuses.noted(_rows(settings, store, part)):
                pass
            print(f"images, part {part}: {_summary(settings, statuses)}")


def _rows(settings: Params, store: Store, part: Part | None = None) -> Iterator[ImageRow]:
    """The rows of all pictures, or of those of `part`."""
    data, limits = settings.data, settings.images
    place = images.place_of(held(data, limits, store), limits, data.linked_folders)
    ray = settings.execution.cluster if part is None else None
    return manifest(_names(), place, limits, results_of(settings, store), part=part, ray=ray)


def _summary(settings: Params, statuses: images.Statuses) -> str:
    counts = statuses.counts
    if settings.data.images is None:
        return f"no pictures in this data set (data.images: null); {counts.total():,} named by its posts"
    each = ", ".join(f"{number:,} {status}" for status, number in sorted(counts.items()))
    return f"{counts.total():,} pictures{': ' if each else ''}{each}"


def _names() -> Iterator[str]:
    """The pictures that posts name, those of the relation as well; one that several name several times."""
    for _, post in posts.of_all_splits():
        yield from post.images
    for relation in records.read(paths.RELATION, RelationPost, "posts"):
        yield from relation.images


def _required(settings: Params, statuses: images.Statuses, rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
    """The rows, counted; raises UserError behind them where none of the pictures can be read and there is a place."""
    yield from statuses.noted(rows)
    data = settings.data
    if data.images is not None and (reason := statuses.nothing_readable(data.images_folder or str(data.images))):
        raise UserError(reason)


if __name__ == "__main__":
    run_cli(main)
