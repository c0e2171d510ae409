"""Posts to label in Label Studio: `python -m stages.label_studio models/tagger --output tasks.json`.

No stage of dvc.yaml. The posts of a split become tasks with their pictures, contexts and what the tagger finds, those
first of which it is least certain; the labelling interface goes to a file beside them. What was labelled is exported
from Label Studio as JSON and read with `data.format: label_studio`.
"""

import argparse
import math
import os
from pathlib import Path

from ner.tagger import Tagger
from pipeline.core import records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.files import atomic_write, write_json
from pipeline.core.records import Prediction, View
from pipeline.corpus import label_studio
from pipeline.settings import params
from pipeline.settings.params import POST_SPLITS
from stages.shared import paths, visuals


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.label_studio", description="Write posts as tasks of Label Studio, least certain first."
    )
    parser.add_argument("tagger", metavar="TAGGER", help="a tagger's folder, or a repository on the hub")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="where the tasks go")
    parser.add_argument(
        "--split", choices=POST_SPLITS, default="unlabelled", help="whose posts, of data/views [%(default)s]"
    )
    parser.add_argument(
        "--by",
        choices=("entropy", "disagreement"),
        default="entropy",
        help="least certain by the entropy of the CRF, or by what only one of the two views finds [%(default)s]",
    )
    parser.add_argument("--first", type=int, metavar="N", help="so many posts [all]")
    parser.add_argument(
        "--pictures", metavar="PREFIX", help="before a picture's name in its address [Label Studio's local files]"
    )
    arguments = parser.parse_args()
    if arguments.first is not None and arguments.first < 1:
        parser.error(f"--first: expected at least 1, found {arguments.first}")
    settings = params.load(paths.PARAMS)
    place = arguments.pictures or label_studio.LOCAL + _below_project(settings.data.images_folder)
    views = list(records.read(paths.VIEWS / f"{arguments.split}.jsonl", View, "views"))
    if not views:
        raise UserError(f"--split {arguments.split}: it has no posts (data.{arguments.split})")
    tagger = Tagger.load(arguments.tagger, settings.execution.device)
    if tagger.reads_visual:
        tagger.show(visuals.opened())
    batch_size = settings.execution.predict_batch_size
    found = list(tagger.predict(views, batch_size))
    if arguments.by == "entropy":
        uncertainties = tagger.entropies(views, batch_size)
    else:
        alone = tagger.predict(views, batch_size, with_context=False)
        uncertainties = [disagreement(one, other) for one, other in zip(found, alone, strict=True)]
    order = sorted(range(len(views)), key=lambda index: (-uncertainties[index], views[index].id))[: arguments.first]
    write_json(
        arguments.output,
        [
            label_studio.task(found[index], views[index].context, views[index].images, place, uncertainties[index])
            for index in order
        ],
    )
    types = sorted({label[2:] for label in tagger.model.labels if label != "O"})
    interface = arguments.output.with_suffix(".xml")
    with atomic_write(interface) as file:
        file.write(label_studio.configuration(types))
    print(f"{arguments.output}: {len(order):,} tasks, least certain first; their labelling interface: {interface}")


def _below_project(folder: Path | None) -> str:
    """The folder of the pictures as Label Studio's local files have it, which are those below dvc.yaml.

    Raises:
        UserError: it is not there.
    """
    if folder is None:
        return ""
    below = Path(os.path.relpath(folder)).as_posix()
    if below.split("/")[0] == "..":
        raise UserError(
            f"{folder}: not below this project; say by --pictures PREFIX where Label Studio has the pictures"
        )
    return f"{below}/"


def disagreement(one: Prediction, other: Prediction) -> float:
    """How sure two readings of a post are, taken together, of entities that only one of them finds."""
    sides = [{(each.start, each.end, each.type): each.confidence for each in side.entities} for side in (one, other)]
    return math.fsum(sides[0].get(key, 0.0) + sides[1].get(key, 0.0) for key in sides[0].keys() ^ sides[1].keys())


if __name__ == "__main__":
    run_cli(main)
