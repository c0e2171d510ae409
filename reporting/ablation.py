"""``make ablation``: a grid of systems × seeds as DVC experiments → report/ablation.html and report/ablation.md.

DVC runs what a cell changes and takes the rest from its run cache, which also makes an interrupted grid go on where it
was: the finished cells come back in seconds.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ner.scoring.f1 import MICRO, READINGS
from pipeline.core.errors import UserError, run_cli
from pipeline.core.files import read_jsonl
from pipeline.settings import yaml
from pipeline.settings.params import Split
from reporting import backup, page
from reporting.ablation_tables import OUTPUT, Runs, write
from reporting.backup import PARAMS
from reporting.grid import GRID, TARGET, Grid, command, read_grid
from reporting.scores import NAMES

EVALUATION, PREDICTIONS = Path("metrics/evaluation.json"), Path("data/predictions")


def run(grid: Grid, name: str) -> dict[str, Runs]:
    """Run the whole grid, or what of it has not been run, writing the tables after every cell.

    Raises:
        UserError: the pipeline or a cell fails.
    """
    found = {system: Runs() for system in grid.systems}
    cells = [(system, seed) for seed in grid.seeds for system in grid.systems]
    gold: list[list[str]] = []
    with _params_put_back():
        for number, (system, seed) in enumerate(cells, 1):
            begin = time.monotonic()
            backup.put_back()  # an experiment leaves its settings there: the next must not inherit them
            changes = {**grid.params, **grid.systems[system].params, "train.seed": seed}
            backup.expect(changes)
            _dvc(command(f"{name}-{system}-s{seed}", changes), f"{system}, seed {seed}")
            gold = _collect(found[system], grid.split)
            write(grid, gold, found)
            strict = {condition: values[-1] for condition, values in found[system].f1["strict"].items()}
            print(
                f"[{number}/{len(cells)}] {system}, seed {seed}: "
                + ", ".join(f"{condition} {f1:.2f}" for condition, f1 in strict.items())
                + f" ({page.duration(time.monotonic() - begin)})",
                flush=True,
            )
    return found


def _collect(runs: Runs, split: Split) -> list[list[str]]:
    """Note what the cell in the workspace scored; return its gold labels."""
    scores = json.loads(EVALUATION.read_text(encoding="utf-8"))[split]
    trained_on_text = yaml.load(PARAMS).values["train"]["views"] == "text_only"
    for reading in READINGS:
        for condition in NAMES:
            if condition in scores and not (trained_on_text and condition != "text_only"):
                by_condition = runs.f1.setdefault(reading, {})
                by_condition.setdefault(condition, []).append(100 * scores[condition][reading][MICRO]["f1"])
    rows = list(read_jsonl(PREDICTIONS / f"{split}.text_only.jsonl"))
    runs.predicted.append([row["predicted"] for row in rows])
    return [row["labels"] for row in rows]


@contextmanager
def _params_put_back() -> Iterator[None]:
    """Bring the pipeline up to date, and leave params.yaml and the results as they were, however this ends."""
    if backup.exists():
        backup.put_back()
        print(f"{PARAMS} put back: an ablation was killed before it could", file=sys.stderr)
    _dvc(["repro", TARGET], "the pipeline, before the grid")
    backup.take()
    try:
        yield
    finally:
        backup.put_back()
        backup.drop()
    _dvc(["repro", TARGET], "the results as they were")  # from the run cache


def _dvc(arguments: Sequence[str], what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise UserError(
            f"{what}: `dvc {' '.join(arguments)}` failed; its last lines:\n" + "\n".join(done.stdout.splitlines()[-15:])
        )


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m reporting.ablation", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("grid", type=Path, nargs="?", default=GRID, metavar="GRID", help="[%(default)s]")
    arguments = parser.parse_args()
    grid = read_grid(arguments.grid)
    run(grid, arguments.grid.stem)
    print(f"{OUTPUT / 'ablation.html'}, {OUTPUT / 'ablation.md'}")


if __name__ == "__main__":
    run_cli(main)
