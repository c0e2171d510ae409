"""The tables of an ablation: each system's mean and spread over seeds, and the test of its text-only view.

``report/ablation.html``, ``.md`` and ``.json``. :mod:`reporting.ablation` runs the experiments.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ner.scoring.comparison import compare_runs
from ner.scoring.f1 import READINGS
from pipeline.core.files import atomic_write, write_json
from pipeline.core.labels import Reading
from pipeline.settings.params import Condition
from reporting import page
from reporting.grid import Grid
from reporting.scores import NAMES

OUTPUT = Path("report")


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
        rows.append(
            Row(
                name,
                system.title,
                len(runs.predicted),
                cells,
                None if test is None else 100 * test["difference"],
                None if test is None else (100 * test["difference_ci"][0], 100 * test["difference_ci"][1]),
                None if test is None else test["p_value"],
            )
        )
    return rows


def _spread(values: Sequence[float] | None) -> tuple[float, float | None] | None:
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def write(grid: Grid, gold: Sequence[Sequence[str]], found: Mapping[str, Runs]) -> None:
    """Write report/ablation.html, report/ablation.md and report/ablation.json of what has been run so far."""
    tables = {reading: table(grid, gold, found, reading) for reading in READINGS}
    page.write_assets(OUTPUT / "assets")
    shown = (
        page.environment()
        .get_template("ablation.html.j2")
        .render(grid=grid, tables=tables, legend=legend(grid), n_posts=len(gold))
    )
    with atomic_write(OUTPUT / "ablation.html") as file:
        file.write(shown)
    with atomic_write(OUTPUT / "ablation.md") as file:
        file.write(markdown(grid, tables))
    write_json(OUTPUT / "ablation.json", {name: runs.f1 for name, runs in found.items()})


def markdown(grid: Grid, tables: Mapping[Reading, Sequence[Row]]) -> str:
    """The tables as Markdown."""
    lines = [f"# {grid.title}", "", legend(grid), ""]
    for reading, rows in tables.items():
        lines += [
            f"{reading} micro-F1 on {grid.split}:",
            "",
            f"| system | {' | '.join(NAMES.values())} | Δ text-only | p |",
            f"|---|{'---|' * (len(NAMES) + 2)}",
        ]
        for row in rows:
            figures = [_cell(row.cells[condition]) for condition in NAMES]
            lines.append(
                f"| {row.title.replace('|', '/')} | {' | '.join(figures)} | {_difference(row)} | "
                f"{'–' if row.p_value is None else f'{row.p_value:.3f}'} |"
            )
        lines.append("")
    return "\n".join(lines)


def legend(grid: Grid) -> str:
    """What the figures of a table are."""
    spread = (
        f"Mean ± standard deviation over {len(grid.seeds)} seeds"
        if len(grid.seeds) > 1
        else f"One seed ({grid.seeds[0]})"
    )
    return (
        f"{spread}, in points. Δ: the text-only view against {grid.systems[grid.baseline].title}, with its 95 % "
        "confidence interval and p of a paired bootstrap over posts (one-sided, all seeds together)."
    )


def _cell(spread: tuple[float, float | None] | None) -> str:
    if spread is None:
        return "–"
    mean, deviation = spread
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _difference(row: Row) -> str:
    if row.difference is None or row.interval is None:
        return "–"
    return f"{row.difference:+.1f} [{row.interval[0]:+.1f}, {row.interval[1]:+.1f}]".replace("-", "−")
