"""Out-of-fold teachers: `python -m stages.folds 5 checkpoints/folds` trains five taggers, each without a fifth.

They are trained as params.yaml says, on the views that `dvc repro views` has made, one after the other, into folders 1
to 5; no stage of dvc.yaml. A command that was ended goes on where it was: with a fold's last whole epoch, and past the
folds whose taggers are there and are what it would train.
"""

import argparse
import sys
from pathlib import Path

from ner.training import folds
from ner.training.folds import Fold
from pipeline.core import checksums
from pipeline.core.errors import UserError, run_cli
from pipeline.core.locks import stage_lock
from pipeline.core.store import Store
from pipeline.settings import params
from stages.shared import paths, training


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.folds", description="Train taggers, each without a part of the labelled posts."
    )
    parser.add_argument("folds", type=int, metavar="K", help="how many, 2 or more")
    parser.add_argument("output", type=Path, metavar="FOLDER", help="of their folders, such as checkpoints/folds")
    arguments = parser.parse_args()
    if arguments.folds < 2:
        parser.error(f"K: expected 2 or more, found {arguments.folds}")
    settings = params.load(paths.PARAMS)
    if settings.execution.processes > 1:
        raise UserError(
            f"execution.processes: found {settings.execution.processes}; expected 1, as folds are trained in one"
        )
    with stage_lock("train"), Store.open() as store:
        views = training.views()
        for fold in (Fold(index, arguments.folds) for index in range(arguments.folds)):
            folder, kept = arguments.output / str(fold.index + 1), fold.without(views["train"])
            parts = {"fold": [fold.index, fold.total]}
            one = training.Training(settings, store, {**views, "train": kept}, parts)
            if folder.is_dir() and folds.read(folder) == (fold, one.key):
                print(f"{folder}: is there", file=sys.stderr)
                continue
            print(f"{folder}: trains on {len(kept):,} of {len(views['train']):,} posts", file=sys.stderr)
            one.run(folder, None)
            folds.write(folder, fold, one.key)
            checksums.seal(folder)


if __name__ == "__main__":
    run_cli(main)
