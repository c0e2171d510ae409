"""What a search found: report/search.md and report/search.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.files import atomic_write, write_json
from reporting.grid import Value
from reporting.space import Search

OUTPUT = Path("report")


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial that has ended: its micro-F1 on dev, or why it failed."""

    number: int
    experiment: str
    params: dict[str, Value]
    f1: float | None
    failed: str | None


def best(tried: Sequence[Tried]) -> Tried | None:
    """The trial with the highest F1 on dev, the first of equals; None where all failed."""
    scored = [each for each in tried if each.f1 is not None]
    return max(scored, key=lambda each: each.f1 or 0.0, default=None)


def listed(changes: Mapping[str, Value]) -> str:
    """Settings in a line, numbers to four digits."""
    return ", ".join(f"{key}={_short(value)}" for key, value in changes.items())


def write(search: Search, tried: Sequence[Tried], chosen: Tried, test: float | None) -> None:
    """Write both files.

    Args:
        search: what was searched.
        tried: all trials.
        chosen: the best of them.
        test: its micro-F1 on test; None where that has no labels.
    """
    OUTPUT.mkdir(exist_ok=True)
    metric = f"{search.metric.condition}, {search.metric.reading}"
    rows = sorted(tried, key=lambda each: (each.f1 is None, -(each.f1 or 0.0), each.number))
    keys = list(search.params)
    head = ["experiment", *keys, "dev"]
    lines = [
        f"# {search.title}",
        f"{len(tried)} trials, chosen by micro-F1 on dev ({metric}); test was read of the best alone.",
        "\n".join(
            [
                f"| {' | '.join(head)} |",
                f"|{'---|' * len(head)}",
                *(
                    f"| {' | '.join([each.experiment, *(_cell(each.params[key]) for key in keys), _score(each)])} |"
                    for each in rows
                ),
            ]
        ),
        f"Best: `{chosen.experiment}`; test: {'no labels' if test is None else f'{100 * test:.2f}'}. Its params and "
        f"results into the workspace: `dvc exp apply {chosen.experiment}`",
    ]
    with atomic_write(OUTPUT / "search.md") as file:
        file.write("\n\n".join(lines) + "\n")
    write_json(
        OUTPUT / "search.json",
        {
            "search": search.model_dump(mode="json"),
            "best": {"experiment": chosen.experiment, "params": chosen.params, "dev": chosen.f1, "test": test},
            "trials": [
                {"experiment": each.experiment, "params": each.params, "dev": each.f1, "failed": each.failed}
                for each in tried
            ],
        },
    )


def _score(tried: Tried) -> str:
    return "failed" if tried.f1 is None else f"{100 * tried.f1:.2f}"


def _cell(value: Value) -> str:
    return _short(value).replace("|", "/")


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
