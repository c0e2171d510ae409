"""`python -m stages.unpack`: the pictures that are in the Parquet files of params go to the folder `data.images`."""

import argparse
import hashlib
from pathlib import Path

from pipeline.core.errors import UserError, run_cli
from pipeline.core.files import atomic_write
from pipeline.corpus.parquet import pictured_rows
from pipeline.settings import params
from pipeline.settings.params import SPLITS


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.unpack", description="Write the pictures of a data set in Parquet to its folder."
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args()
    data = params.load(arguments.params).data
    if data.format != "datasets" or data.images_folder is None:
        raise UserError(
            f"{arguments.params}: expected data.format: datasets, and in data.images the folder of pictures"
        )
    data.images_folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    unlabelled = [data.root / name for name in data.unlabelled if name.endswith(".parquet")]
    for path in [*(each for split in SPLITS for each in data.files(split)), *unlabelled]:
        for row, inside in pictured_rows(path):
            for name, content in inside.items():
                digest = hashlib.sha256(content).hexdigest()
                if written.setdefault(name, digest) != digest:
                    raise UserError(f"{path}: post {row['id']}: another picture is called {name}, too")
                with atomic_write(data.images_folder / name, "wb") as file:
                    file.write(content)
    print(f"{data.images_folder}: {len(written):,} pictures")


if __name__ == "__main__":
    run_cli(main)
