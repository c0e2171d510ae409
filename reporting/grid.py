"""The grid of an ablation: systems × seeds, read from a YAML file and checked, each cell a DVC experiment."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.core.errors import UserError
from pipeline.settings import yaml
from pipeline.settings.mistakes import describe
from pipeline.settings.params import Split

GRID = Path("ablation.yaml")
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


def read_grid(path: Path) -> Grid:
    """Read and check a grid.

    Raises:
        UserError: there is no such file, or its content does not fit :class:`Grid`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no grid to read; see {GRID} for one")
    values, lines = yaml.load(path)
    try:
        return Grid.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(describe(error, Grid, str(path), lines))) from None


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
