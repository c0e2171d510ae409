"""The grid of an ablation: systems × seeds, read from a YAML file and checked, each cell a DVC experiment."""

import json
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ner.scoring.comparison import MOST_SEEDS
from pipeline.checks.check import problems
from pipeline.core.errors import UserError
from pipeline.settings import params, yaml
from pipeline.settings.changes import changed
from pipeline.settings.mistakes import describe
from pipeline.settings.params import Condition
from pipeline.settings.training import MOST_SEED
from reporting.backup import PARAMS

GRID = Path("ablation.yaml")
TARGET = "evaluate"
TRAIN = "train."
SEED = "train.seed"
TAGGERS = "train.teacher.taggers"

M = TypeVar("M", bound=BaseModel)
Value = str | int | float | bool | None | list[str]


class System(BaseModel):
    """A row of the table: what it changes of params.yaml, by dotted key."""

    model_config = ConfigDict(extra="forbid")
    title: str
    params: dict[str, Value] = Field(default_factory=dict)


class Teacher(BaseModel):
    """Teachers that rows name in `train.teacher.taggers`: out-of-fold ones, or the taggers of another row.

    Args:
        folds: how many are trained, each without a part of the labelled posts.
        params: what these change of the section `train`.
        of: the row whose taggers they are.
        seeds: of those.
    """

    model_config = ConfigDict(extra="forbid")
    folds: Annotated[int, Field(ge=2)] | None = None
    params: dict[str, Value] = Field(default_factory=dict)
    of: str | None = None
    seeds: list[int] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_way(self) -> "Teacher":
        if (self.folds is None) == (self.of is None) or bool(self.seeds) != (self.of is not None):
            raise ValueError("expected folds, or of and seeds")
        if self.of is not None and self.params:
            raise ValueError(f"params: the taggers of {self.of} have its params; leave them out")
        return self

    @property
    def numbers(self) -> list[int]:
        """What their folders are called."""
        return self.seeds if self.folds is None else list(range(1, self.folds + 1))

    @model_validator(mode="after")
    def _of_the_training(self) -> "Teacher":
        if others := [key for key in self.params if not key.startswith(TRAIN)]:
            raise ValueError(f"params: {others[0]}: expected keys of train; teachers read the views of params.yaml")
        return self


class Grid(BaseModel):
    """What to run, and against which system the others are tested.

    `teachers` are there before the rows that they teach, by folder: of folds, `FOLDER/1` is the first tagger; of a row,
    `FOLDER/SEED` the tagger of a seed.
    """

    model_config = ConfigDict(extra="forbid")
    title: str
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=MOST_SEED)]], Field(min_length=1, max_length=MOST_SEEDS)]
    split: Literal["dev", "test"] = "test"
    baseline: str
    params: dict[str, Value] = Field(default_factory=dict)
    teachers: dict[str, Teacher] = Field(default_factory=dict)
    systems: Annotated[dict[str, System], Field(min_length=1)]

    @model_validator(mode="after")
    def _seeds_once(self) -> "Grid":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: names a seed twice")
        rows: list[System | Teacher] = [*self.systems.values(), *self.teachers.values()]
        if any(SEED in changes for changes in (self.params, *(row.params for row in rows))):
            raise ValueError(f"params: sets {SEED}, which is each of `seeds` in turn; leave it out")
        return self

    @model_validator(mode="after")
    def _baseline_is_there(self) -> "Grid":
        if self.baseline not in self.systems:
            raise ValueError(f"baseline: no system {self.baseline!r}; there are: {', '.join(self.systems)}")
        for name in self.systems:
            if not re.fullmatch(r"[A-Za-z0-9-]+", name):
                raise ValueError(f"systems: {name!r}: a name is of letters, digits and hyphens: experiments bear it")
        return self

    @model_validator(mode="after")
    def _teachers_are_rows(self) -> "Grid":
        for name, teacher in self.teachers.items():
            if teacher.of is None:
                continue
            if teacher.of not in self.systems:
                raise ValueError(f"teachers: {name}: no system {teacher.of!r}; there are: {', '.join(self.systems)}")
            if lacking := sorted(set(teacher.seeds) - set(self.seeds)):
                raise ValueError(f"teachers: {name}: seed {lacking[0]} is none of `seeds`")
            if TAGGERS in self.systems[teacher.of].params:
                raise ValueError(f"teachers: {name}: {teacher.of} is taught by others; expected a row that is not")
        return self

    def changes(self, row: System | Teacher) -> dict[str, Value]:
        """What a system, or a teacher, changes of params.yaml, by dotted key, the seed left out."""
        shared = {key: each for key, each in self.params.items() if isinstance(row, System) or key.startswith(TRAIN)}
        return {**shared, **row.params}

    @property
    def taggers(self) -> set[str]:
        """The folders of all teachers' taggers."""
        return {f"{name}/{number}" for name, teacher in self.teachers.items() for number in teacher.numbers}

    @property
    def cells(self) -> list[tuple[str, int]]:
        """Systems and seeds in the order in which they run: those first whose taggers teach others.

        Of each system the seeds stay in order, by which its scores are paired with another's: what comes before a
        tagger that teaches is early, too.
        """
        cells = [(system, seed) for seed in self.seeds for system in self.systems]
        early = {(system, seed) for system, last in cells if self.taught_by(system, last) for seed in self._up_to(last)}
        return sorted(cells, key=lambda cell: cell not in early)

    def _up_to(self, seed: int) -> list[int]:
        return self.seeds[: self.seeds.index(seed) + 1]

    def taught_by(self, system: str, seed: int) -> list[str]:
        """The folders in which a cell's tagger is a teacher."""
        return [f"{name}/{seed}" for name, each in self.teachers.items() if each.of == system and seed in each.seeds]


def read_grid(path: Path) -> Grid:
    """Read and check a grid; errors as of :func:`read_checked`."""
    return read_checked(path, Grid, f"no grid to read; see {GRID} for one")


def read_checked(path: Path, model: type[M], missing: str) -> M:
    """Read a YAML file of what is to run, and check it.

    Args:
        path: the file.
        model: what its content is to fit.
        missing: said where there is no such file.

    Raises:
        UserError: there is none, or its content does not fit.
    """
    if not path.is_file():
        raise UserError(f"{path}: {missing}")
    values, lines = yaml.load(path)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(describe(error, model, str(path), lines))) from None


def require_runnable(grid: Grid, path: Path) -> None:
    """Check every cell before anything runs: that params.yaml has its keys, takes its values and names what is there.

    Args:
        grid: what is to run.
        path: the file that it is from.

    Raises:
        UserError: with a line for every problem, of params.yaml first.
    """
    document = yaml.load(PARAMS)
    found = list(problems(params.validated(document, str(PARAMS)), str(PARAMS), document.lines))
    if not found:
        lines = yaml.load(path).lines
        rows: dict[str, System | Teacher] = {f"teachers.{name}": row for name, row in grid.teachers.items()}
        rows |= {f"systems.{name}": row for name, row in grid.systems.items()}
        for name, row in rows.items():
            changes = grid.changes(row)
            at = {key: lines.get(f"{name}.params.{key}") or lines[f"params.{key}"] for key in changes}
            found += [f"{each} ({name})" for each in problems_of(document, changes, str(path), at, grid.taggers)]
    if found:
        raise UserError("\n".join(found))


def problems_of(
    document: yaml.Document,
    changes: Mapping[str, Value],
    source: str,
    at: dict[str, int],
    made: AbstractSet[str] = frozenset(),
    condition: Condition = "text_only",
) -> Iterator[str]:
    """What is wrong with params where settings are changed, which stand on the lines `at` of the file `source`.

    Args:
        made: folders of taggers that will be there.
        condition: by whose scores experiments are compared.
    """
    try:
        settings = changed(document, changes, source, at)
    except UserError as error:
        yield from str(error).splitlines()
        return
    if condition not in settings.evaluate.conditions:
        yield f"{source}: evaluate.conditions: lacks {condition}, by which systems are compared"
    there = [name for name in settings.train.teacher.taggers if name not in made]
    teacher = settings.train.teacher.model_copy(update={"taggers": there})
    train = settings.train.model_copy(update={"teacher": teacher})
    yield from problems(settings.model_copy(update={"train": train}), source, at)


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
    """The arguments of `dvc` that run one cell; without --force, which would also repeat what has not changed."""
    settings = [part for key, value in changes.items() for part in ("-S", override(key, value))]
    return ["exp", "run", "--name", name, *settings, TARGET]
