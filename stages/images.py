"""Stage `images`: every picture that a post names → data/images.jsonl, one row each with its hash, size and status."""

from collections import Counter

from pipeline.core import records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.locks import stage_lock
from pipeline.core.records import RelationPost
from pipeline.core.store import Store
from pipeline.images import manifest as images
from pipeline.images.remote import opened
from pipeline.settings import params
from stages.shared import paths, posts
from stages.shared.record import recorded


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    with stage_lock("images"), Store.open() as store, recorded("images") as record:
        names = {image for _, post in posts.of_all_splits() for image in post.images}
        names |= {image for post in records.read(paths.RELATION, RelationPost, "posts") for image in post.images}
        data = settings.data
        place = data.images_folder if data.images_elsewhere is None else opened(data, settings.images, store)
        rows = list(images.manifest(names, place, settings.images, store, follow=data.linked_folders))
        if place is not None and (reason := images.nothing_readable(rows, data.images_folder or str(data.images))):
            raise UserError(reason)
        records.write(paths.IMAGES, rows)
        record |= {"items": len(rows), "unit": "pictures"}
    if data.images is None:
        print(f"no pictures in this data set (data.images: null); {len(rows):,} named by its posts")
        return
    statuses = Counter(row.status for row in rows)
    summary = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items()))
    print(f"{statuses.total():,} pictures{': ' if summary else ''}{summary}")


if __name__ == "__main__":
    run_cli(main, __doc__)
