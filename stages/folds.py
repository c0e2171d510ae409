"""Out-of-fold teachers: `python -m stages.folds 5 checkpoints/folds` trains five taggers, each without a fifth.

They are trained as params.yaml says, on the views that `dvc repro views` has made, one after the other, into folders 1
to 5; no stage of dvc.yaml. Settings of the training that differ from params.yaml come last: `train.views=text_only`. A
command that was ended goes on where it was: with a fold's last whole epoch, and past the folds whose taggers are there
and are what it would train.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ner.training import folds
from ner.training.folds import Fold
from pipeline.core import checksums
from pipeline.core.errors import UserError, run_cli
from pipeline.core.locks import stage_lock
from pipeline.core.store import Store
from pipeline.settings import changes, yaml
from pipeline.settings.params import Params
from stages.shared import paths, training


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.folds", description="Train taggers, each without a part of the labelled posts."
    )
    parser.add_argument("folds", type=int, metavar="K", help="how many, 2 or more")
    parser.add_argument("output", type=Path, metavar="FOLDER", help="of their folders, such as checkpoints/folds")
    parser.add_argument(
        "changes", nargs="*", metavar="KEY=VALUE", help="settings of the section train, such as train.views=cross_modal"
    )
    arguments = parser.parse_args()
    if arguments.folds < 2:
        parser.error(f"K: expected 2 or more, found {arguments.folds}")
    settings = _settings(changes.parsed(arguments.changes))
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


def _settings(changed: Mapping[str, Any]) -> Params:
    """Those of params.yaml, with some of the section train changed.

    Raises:
        UserError: params.yaml or a change is not valid, or a change is of another section.
    """
    if others := [key for key in changed if not key.startswith("train.")]:
        raise UserError(f"{others[0]}: expected a setting of the training, such as train.views; the views are there")
    return changes.changed(yaml.load(paths.PARAMS), changed, str(paths.PARAMS), {})


if __name__ == "__main__":
    run_cli(main)
