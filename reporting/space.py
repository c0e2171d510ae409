"""What a search tries: a YAML file of params with ranges or choices, checked before anything runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.checks.check import problems
from pipeline.core.errors import UserError
from pipeline.core.labels import Reading
from pipeline.settings import params, yaml
from pipeline.settings.params import Condition
from reporting.backup import PARAMS
from reporting.grid import Value, problems_of, read_checked

_RANGE = {"low", "high", "log", "step"}


class Metric(BaseModel):
    """Which micro-F1 of the dev split is maximised."""

    model_config = ConfigDict(extra="forbid")
    condition: Condition = "text_only"
    reading: Reading = "strict"


class Search(BaseModel):
    """What is searched: `params` by dotted key, each a range or a list of choices; every trial changes `fixed`, too."""

    model_config = ConfigDict(extra="forbid")
    title: str
    trials: Annotated[int, Field(ge=1)]
    metric: Metric = Metric()
    seed: Annotated[int, Field(ge=0, le=2**31)] = 1
    fixed: dict[str, Value] = Field(default_factory=dict)
    params: Annotated[dict[str, Any], Field(min_length=1)]

    @model_validator(mode="after")
    def _searchable(self) -> "Search":
        for key, wanted in self.params.items():
            if problem := _problem(wanted):
                raise ValueError(f"params.{key}: {problem}")
            if key in self.fixed:
                raise ValueError(f"fixed.{key}: is searched, too; expected it below fixed or params, not in both")
        return self

    def edges(self, key: str) -> list[Value]:
        """Every choice of a key, or both ends of its range."""
        wanted = self.params[key]
        return list(wanted) if isinstance(wanted, list) else [wanted["low"], wanted["high"]]


def _problem(wanted: Any) -> str | None:
    """What is wrong with what a key may be; None if nothing is."""
    if isinstance(wanted, list):
        texts = [json.dumps(value) for value in wanted]
        return None if len(set(texts)) == len(texts) > 1 else f"found {wanted!r}, expected two or more different values"
    if not isinstance(wanted, dict):
        return f"found {wanted!r}, expected a list of values or {{low: …, high: …, log: true}}"
    if unknown := [key for key in wanted if key not in _RANGE]:
        return f"found {unknown[0]!r}, expected low, high and perhaps log or step"
    low: Any = wanted.get("low")
    high: Any = wanted.get("high")
    step: Any = wanted.get("step")
    numbers = [low, high, *([] if step is None else [step])]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        return f"found {wanted!r}, expected numbers as low and high"
    if not low < high:
        return f"found low: {low!r}, high: {high!r}, expected low to be less"
    if not isinstance(wanted.get("log", False), bool):
        return f"found log: {wanted['log']!r}, expected true or false"
    if wanted.get("log") and (low <= 0 or step is not None):
        return f"found {wanted!r}, expected a low above 0 and no step where log is true"
    if step is not None and not 0 < step <= high - low:
        return f"found step: {step!r}, expected more than 0 and no more than {high - low!r}"
    if is_whole(wanted) and isinstance(step, float):
        return f"found step: {step!r}, expected a whole number, as low and high are"
    return None


def is_whole(wanted: dict[str, Any]) -> bool:
    """Whether a range is of whole numbers: low and high are written as such."""
    return isinstance(wanted["low"], int) and isinstance(wanted["high"], int)


def read_search(path: Path) -> Search:
    """Read and check what is to be searched; errors as of :func:`reporting.grid.read_checked`."""
    return read_checked(path, Search, "no search to read; docs/your-data.md has one")


def require_searchable(search: Search, path: Path) -> None:
    """Check every choice, and both ends of every range, before anything runs.

    Args:
        search: what is to be searched.
        path: the file that it is from.

    Raises:
        UserError: with a line for every problem, of params.yaml first.
    """
    document = yaml.load(PARAMS)
    found = list(problems(params.validated(document, str(PARAMS)), str(PARAMS), document.lines))
    found = found or list(dict.fromkeys(_problems(search, path, document)))
    if found:
        raise UserError("\n".join(found))


def _problems(search: Search, path: Path, document: yaml.Document) -> Iterator[str]:
    lines = yaml.load(path).lines
    at = {key: lines[f"fixed.{key}"] for key in search.fixed}
    condition = search.metric.condition
    yield from (fixed := list(problems_of(document, search.fixed, str(path), at, condition=condition)))
    if fixed:
        return
    for key in search.params:
        for value in search.edges(key):
            changes = {**search.fixed, key: value}
            there = {**at, key: lines[f"params.{key}"]}
            yield from problems_of(document, changes, str(path), there, condition=condition)
