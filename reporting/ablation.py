"""``make ablation``: a grid of systems × seeds as DVC experiments → report/ablation.html, .md, .tex and .json.

DVC runs what a cell changes and takes the rest from its run cache. So an interrupted grid goes on where it was, and a
finished one, run again, trains nothing: its cells come back in seconds.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from ner.scoring.comparison import RunScore
from ner.scoring.f1 import READINGS
from pipeline.core import records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import Prediction
from pipeline.settings import params, yaml
from pipeline.settings.params import EvaluateParams
from reporting import experiments, page
from reporting.ablation_tables import OUTPUT, Runs, write
from reporting.backup import PARAMS
from reporting.grid import GRID, SEED, Grid, read_grid, require_runnable
from reporting.scores import NAMES

PREDICTIONS = Path("data/predictions")
TAGGER = Path("models/tagger")


def run(grid: Grid, name: str) -> dict[str, Runs]:
    """Run the whole grid, or what of it has not been run, writing the tables after every cell.

    Raises:
        UserError: the pipeline or a cell fails, or the split has no labels.
    """
    found = {system: Runs() for system in grid.systems}
    cells = {f"{name}-{system}-s{seed}": (system, seed) for system, seed in grid.cells}
    with experiments.params_put_back():
        settings = params.load(PARAMS).evaluate
        _train_teachers(grid)
        experiments.forget(cells)
        for number, (experiment, (system, seed)) in enumerate(cells.items(), 1):
            begin = time.monotonic()
            changes = {**grid.changes(grid.systems[system]), SEED: seed}
            experiments.run(experiment, changes, f"{system}, seed {seed}")
            for folder in grid.taught_by(system, seed):
                _keep(Path(folder))
            n_posts = _collect(found[system], grid.split, settings)
            write(grid, n_posts, found, settings)
            strict = {condition: scores[-1].f1 for condition, scores in found[system].scores["strict"].items()}
            print(
                f"[{number}/{len(cells)}] {system}, seed {seed}: "
                + ", ".join(f"{condition} {100 * f1:.2f}" for condition, f1 in strict.items())
                + f" ({page.duration(time.monotonic() - begin)})",
                flush=True,
            )
    return found


def _train_teachers(grid: Grid) -> None:
    """Train the grid's teachers of folds on the views that are there, those that are not trained yet."""
    for folder, teacher in grid.teachers.items():
        if teacher.folds is None:
            continue
        begin = time.monotonic()
        changes = [f"{key}={json.dumps(value)}" for key, value in grid.changes(teacher).items()]
        experiments.python(["stages.folds", str(teacher.folds), folder, *changes], f"the teachers {folder}")
        print(f"{folder}: {teacher.folds} teachers ({page.duration(time.monotonic() - begin)})", flush=True)


def _keep(folder: Path) -> None:
    """Keep the tagger in the workspace as a teacher."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        copy = shutil.copytree(TAGGER, Path(temporary, folder.name))
        if folder.exists():
            folder.rename(Path(temporary, "before"))
        copy.rename(folder)


def _collect(runs: Runs, split: str, settings: EvaluateParams) -> int:
    """Note what the cell in the workspace scores; return of how many posts.

    Raises:
        UserError: the split has no labels.
    """
    trained_on_text = yaml.load(PARAMS).values["train"]["views"] == "text_only"
    n_posts = 0
    for condition in NAMES:
        path = PREDICTIONS / f"{split}.{condition}.jsonl"
        if not path.exists() or (trained_on_text and condition != "text_only"):
            continue
        rows = list(records.read(path, Prediction, "evaluate"))
        gold, predicted = [row.labels for row in rows if row.labels is not None], [row.predicted for row in rows]
        if not gold:
            raise UserError(f"split: {split} has no labels, so nothing can be scored; name a split that has some")
        for reading in READINGS:
            score = RunScore.of(gold, predicted, reading, settings.bootstrap_samples, settings.bootstrap_seed)
            runs.scores.setdefault(reading, {}).setdefault(condition, []).append(score)
        n_posts = len(rows)
    return n_posts


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m reporting.ablation", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("grid", type=Path, nargs="?", default=GRID, metavar="GRID", help="[%(default)s]")
    arguments = parser.parse_args()
    grid = read_grid(arguments.grid)
    experiments.recover()
    require_runnable(grid, arguments.grid)
    run(grid, arguments.grid.stem)
    print(", ".join(str(OUTPUT / f"ablation.{ending}") for ending in ("html", "md", "tex")))


if __name__ == "__main__":
    run_cli(main)
