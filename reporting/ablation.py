"""``make ablation``: a grid of systems × seeds as DVC experiments → report/ablation.html and report/ablation.md.

DVC runs what a cell changes and takes the rest from its run cache, which also makes an interrupted grid go on where it
was: the finished cells come back in seconds. What a cell is scored on is the `evaluate` stage's business.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ner.comparison import compare_runs
from ner.scoring import MICRO, READINGS
from pipeline.errors import UserError, run_cli
from pipeline.labels import Reading
from pipeline.params import Condition, Split
from pipeline.records import atomic_write, read_jsonl, write_json
from reporting import page
from reporting.scores import NAMES

GRID = Path("ablation.yaml")
PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")
EVALUATION, PREDICTIONS = Path("metrics/evaluation.json"), Path("data/predictions")
OUTPUT = Path("report")
# Where both lie while experiments change them: a killed run finds them here when it starts again.
BACKUP = Path(".dvc/tmp/ablation")
TARGET = "evaluate"

Value = str | int | float | bool | None | list[str]


class System(BaseModel):
    """A row of the table: what it changes of params.yaml, by dotted key."""

    model_config = ConfigDict(extra="forbid")
    title: str
    params: dict[str, Value] = Field(default_factory=dict)


class Grid(BaseModel):
    """What to run, and against which system the others are tested."""

    model_config = ConfigDict(extra="forbid")
    title: str
    seeds: Annotated[list[int], Field(min_length=1)]
    split: Split = "test"
    baseline: str
    params: dict[str, Value] = Field(default_factory=dict)
    systems: Annotated[dict[str, System], Field(min_length=1)]

    @model_validator(mode="after")
    def _baseline_is_there(self) -> "Grid":
        if self.baseline not in self.systems:
            raise ValueError(f"baseline: no system {self.baseline!r}; there are: {', '.join(self.systems)}")
        for name in self.systems:
            if not re.fullmatch(r"[A-Za-z0-9-]+", name):
                raise ValueError(f"systems: {name!r}: a name is of letters, digits and hyphens: experiments bear it")
        return self


@dataclass(slots=True)
class Runs:
    """What is known of one system: F1 by reading, condition and seed, and predicted labels of its text-only view."""

    f1: dict[str, dict[Condition, list[float]]] = field(default_factory=dict)
    predicted: list[list[list[str]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: (mean, standard deviation or None) of each condition in points, and the test of text_only."""

    name: str
    title: str
    seeds: int
    cells: dict[Condition, tuple[float, float | None] | None]
    difference: float | None
    interval: tuple[float, float] | None
    p_value: float | None


def read_grid(path: Path) -> Grid:
    """Read and check a grid.

    Raises:
        UserError: there is no such file, or it is not as :class:`Grid` says.
    """
    try:
        return Grid.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: no grid to read ({error.strerror}); see {GRID} for one") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}." for part in first["loc"])[:-1]
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(": ".join(filter(None, [str(path), place, what]))) from error


def override(key: str, value: Value) -> str:
    """A setting as `dvc exp run -S` takes it: Hydra's grammar."""
    if isinstance(value, list):
        return f"{key}=[{','.join(map(_literal, value))}]"
    return f"{key}={_literal(value)}"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./:-]*", value) and value not in ("null", "true", "false"):
            return value
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)


def command(name: str, changes: Mapping[str, Value]) -> list[str]:
    """The arguments of `dvc` that run one cell."""
    settings = [part for key, value in changes.items() for part in ("-S", override(key, value))]
    return ["exp", "run", "--force", "--name", name, *settings, TARGET]


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
            _put_back()  # an experiment leaves its settings there: the next must not inherit them
            changes = {**grid.params, **grid.systems[system].params, "train.seed": seed}
            _dvc(command(f"{name}-{system}-s{seed}", changes), f"{system}, seed {seed}")
            gold = _collect(found[system], grid.split)
            write(grid, gold, found)
            strict = {condition: values[-1] for condition, values in found[system].f1["strict"].items()}
            print(f"[{number}/{len(cells)}] {system}, seed {seed}: "
                  + ", ".join(f"{condition} {f1:.2f}" for condition, f1 in strict.items())
                  + f" ({page.duration(time.monotonic() - begin)})", flush=True)
    return found


def _collect(runs: Runs, split: Split) -> list[list[str]]:
    """Note what the cell in the workspace scored; return its gold labels."""
    scores = json.loads(EVALUATION.read_text(encoding="utf-8"))[split]
    trained_on_text = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["train"]["views"] == "text_only"
    for reading in READINGS:
        for condition in NAMES:
            if condition in scores and not (trained_on_text and condition != "text_only"):
                by_condition = runs.f1.setdefault(reading, {})
                by_condition.setdefault(condition, []).append(100 * scores[condition][reading][MICRO]["f1"])
    rows = list(read_jsonl(PREDICTIONS / f"{split}.text_only.jsonl"))
    runs.predicted.append([row["predicted"] for row in rows])
    return [row["labels"] for row in rows]


def table(grid: Grid, gold: Sequence[Sequence[str]], found: Mapping[str, Runs], reading: Reading) -> list[Row]:
    """The rows of systems that have been run, under one reading."""
    rows = []
    base = found[grid.baseline]
    for name, system in grid.systems.items():
        runs = found[name]
        if not runs.predicted:
            continue
        cells = {condition: _spread(runs.f1[reading].get(condition)) for condition in NAMES}
        shared = min(len(runs.predicted), len(base.predicted))  # of a grid under way, the seeds that both have run
        test = None
        if name != grid.baseline and shared:
            test = compare_runs(gold, base.predicted[:shared], runs.predicted[:shared])[reading]
        rows.append(Row(name, system.title, len(runs.predicted), cells,
                        None if test is None else 100 * test["difference"],
                        None if test is None else (100 * test["difference_ci"][0], 100 * test["difference_ci"][1]),
                        None if test is None else test["p_value"]))
    return rows


def _spread(values: Sequence[float] | None) -> tuple[float, float | None] | None:
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def write(grid: Grid, gold: Sequence[Sequence[str]], found: Mapping[str, Runs]) -> None:
    """Write report/ablation.html, report/ablation.md and report/ablation.json of what has been run so far."""
    tables = {reading: table(grid, gold, found, reading) for reading in READINGS}
    page.write_assets(OUTPUT / "assets")
    shown = page.environment().get_template("ablation.html.j2").render(
        grid=grid, tables=tables, legend=legend(grid), n_posts=len(gold))
    with atomic_write(OUTPUT / "ablation.html") as file:
        file.write(shown)
    with atomic_write(OUTPUT / "ablation.md") as file:
        file.write(markdown(grid, tables))
    write_json(OUTPUT / "ablation.json", {name: runs.f1 for name, runs in found.items()})


def markdown(grid: Grid, tables: Mapping[Reading, Sequence[Row]]) -> str:
    """The tables as Markdown."""
    lines = [f"# {grid.title}", "", legend(grid), ""]
    for reading, rows in tables.items():
        lines += [f"{reading} micro-F1 on {grid.split}:", "",
                  f"| system | {' | '.join(NAMES.values())} | Δ text-only | p |", f"|---|{'---|' * (len(NAMES) + 2)}"]
        for row in rows:
            figures = [_cell(row.cells[condition]) for condition in NAMES]
            lines.append(f"| {row.title.replace('|', '/')} | {' | '.join(figures)} | {_difference(row)} | "
                         f"{'–' if row.p_value is None else f'{row.p_value:.3f}'} |")
        lines.append("")
    return "\n".join(lines)


def legend(grid: Grid) -> str:
    """What the figures of a table are."""
    spread = (f"Mean ± standard deviation over {len(grid.seeds)} seeds" if len(grid.seeds) > 1
              else f"One seed ({grid.seeds[0]})")
    return (f"{spread}, in points. Δ: the text-only view against {grid.systems[grid.baseline].title}, with its 95 % "
            "confidence interval and p of a paired bootstrap over posts (one-sided, all seeds together).")


def _cell(spread: tuple[float, float | None] | None) -> str:
    if spread is None:
        return "–"
    mean, deviation = spread
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _difference(row: Row) -> str:
    if row.difference is None or row.interval is None:
        return "–"
    return f"{row.difference:+.1f} [{row.interval[0]:+.1f}, {row.interval[1]:+.1f}]".replace("-", "−")


@contextmanager
def _params_put_back() -> Iterator[None]:
    """Bring the pipeline up to date, and leave params.yaml and the results as they were, however this ends."""
    if (BACKUP / PARAMS).exists():
        _put_back()
        print(f"{PARAMS} put back: an ablation was killed before it could", file=sys.stderr)
    _dvc(["repro", TARGET], "the pipeline, before the grid")
    BACKUP.mkdir(parents=True, exist_ok=True)
    for name in (LOCK, PARAMS):
        shutil.copyfile(name, BACKUP / name)
    try:
        yield
    finally:
        _put_back()
        shutil.rmtree(BACKUP)
    _dvc(["repro", TARGET], "the results as they were")  # from the run cache


def _put_back() -> None:
    """Give params.yaml and dvc.lock their contents from before the grid, and take them off git's index.

    `dvc exp run` leaves its own there, and stumbles over any that it finds.
    """
    for name in (LOCK, PARAMS):
        shutil.copyfile(BACKUP / name, name)
    subprocess.run(["git", "reset", "--quiet", "--", str(LOCK), str(PARAMS)], check=True, stdout=subprocess.DEVNULL)


def _dvc(arguments: Sequence[str], what: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False)
    if done.returncode:
        raise UserError(f"{what}: `dvc {' '.join(arguments)}` failed; its last lines:\n"
                        + "\n".join(done.stdout.splitlines()[-15:]))


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
