"""`python -m pipeline.listing`: the SHA-256 of every picture that posts name goes to the file `data.listing`."""

import argparse
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import Post, RelationPost
from pipeline.core.store import Store
from pipeline.corpus.dataset import each_of_split
from pipeline.corpus.relation import each_of_relation
from pipeline.images.digests import described, write
from pipeline.images.remote import opened
from pipeline.settings import params
from pipeline.settings.params import POST_SPLITS


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.listing",
        description="List the pictures that posts name, so that DVC watches the listing instead of them: run it again "
        "after a change. What has not changed is not read again, nor is what a killed run has read.",
    )
    parser.add_argument("file", type=Path, nargs="?", default=Path("params.yaml"), help="[%(default)s]")
    arguments = parser.parse_args()
    settings = params.load(arguments.file)
    data = settings.data
    if data.listing_file is None:
        raise UserError(
            f"{arguments.file}: data.listing: null; expected the file to write, below data.root: pictures.sha256, say"
        )
    posts: Iterable[Post | RelationPost] = chain(
        *(each_of_split(data, split) for split in POST_SPLITS), each_of_relation(data)
    )
    names = {image for post in posts for image in post.images}
    if data.limit is not None:
        print(
            f"listing: data.limit: {data.limit}: of the first posts of each split alone; once it is null, run it again",
            file=sys.stderr,
        )
    with Store.open() as store:
        place = opened(data, settings.images, store)
        assert place is not None  # a listing needs data.images, as params see to
        left_out = write(names, place, data.listing_file, store)
    print(
        f"{data.listing_file}: {len(names) - len(left_out):,} pictures"
        + (f"; left out: {described(left_out)}" if left_out else "")
    )


if __name__ == "__main__":
    run_cli(main)
