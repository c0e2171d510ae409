"""The tables of an ablation: each system's mean and spread over seeds, and the tests of both its views.

``report/ablation.html``, ``.md``, ``.tex`` and ``.json``. :mod:`reporting.ablation` runs the experiments,
:mod:`reporting.ablation_formats` says how a table reads.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ner.scoring.comparison import RunScore, compare_drawn, sign_flip
from ner.scoring.f1 import READINGS
from pipeline.core.files import atomic_write, write_json
from pipeline.core.labels import Reading
from pipeline.settings.params import Condition, EvaluateParams
from reporting import ablation_formats, page
from reporting.ablation_formats import TESTED, Contrast, Row
from reporting.grid import Grid
from reporting.scores import NAMES

OUTPUT = Path("report")


@dataclass(slots=True)
class Runs:
    """What is known of one system: scores by reading, condition and seed."""

    scores: dict[Reading, dict[Condition, list[RunScore]]] = field(default_factory=dict)


def table(grid: Grid, found: Mapping[str, Runs], reading: Reading, confidence: float) -> list[Row]:
    """The rows of systems that have been run, under one reading."""
    rows = []
    base = found[grid.baseline].scores.get(reading, {}).get("text_only", [])
    for name, system in grid.systems.items():
        scores = found[name].scores.get(reading, {})
        if not scores:
            continue
        tests = {
            view: _tested(base, scores.get(view, []), confidence)
            for view in TESTED
            if (name, view) != (grid.baseline, "text_only")
        }
        rows.append(
            Row(
                name,
                system.title,
                max(map(len, scores.values())),
                {condition: _spread(scores.get(condition, [])) for condition in NAMES},
                {view: test for view, test in tests.items() if test is not None},
            )
        )
    return rows


def _spread(scores: Sequence[RunScore]) -> tuple[float, float | None] | None:
    values = [100 * score.f1 for score in scores]
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def _tested(base: Sequence[RunScore], other: Sequence[RunScore], confidence: float) -> Contrast | None:
    """A view against the baseline, by the seeds that both have run: of a grid under way, not all."""
    shared = min(len(base), len(other))
    if not shared:
        return None
    base, other = base[:shared], other[:shared]
    by_seed = [100 * (two.f1 - one.f1) for one, two in zip(base, other, strict=True)]
    p_seeds = sign_flip(by_seed) if shared > 1 else None
    if not len(base[0].drawn):
        return Contrast(statistics.mean(by_seed), None, None, p_seeds)
    drawn = compare_drawn(base, other, confidence)
    low, high = drawn["difference_ci"]
    return Contrast(100 * drawn["difference"], (100 * low, 100 * high), drawn["p_value"], p_seeds)


def write(grid: Grid, n_posts: int, found: Mapping[str, Runs], settings: EvaluateParams) -> None:
    """Write report/ablation.html, .md, .tex and .json of what has been run so far.

    Args:
        grid: what is run.
        n_posts: how many posts the split has.
        found: scores by system.
        settings: what was drawn for the bootstrap.
    """
    tables = {reading: table(grid, found, reading, settings.confidence) for reading in READINGS}
    conditions = [
        condition for condition in NAMES if any(row.cells[condition] for rows in tables.values() for row in rows)
    ]
    legend = ablation_formats.legend(grid, settings)
    page.write_assets(OUTPUT / "assets")
    shown = (
        page.environment()
        .get_template("ablation.html.j2")
        .render(grid=grid, tables=tables, conditions=conditions, tested=TESTED, legend=legend, n_posts=n_posts)
    )
    for ending, text in (
        ("html", shown),
        ("md", ablation_formats.markdown(grid, tables, conditions, legend)),
        ("tex", ablation_formats.latex(grid, tables, conditions, legend)),
    ):
        with atomic_write(OUTPUT / f"ablation.{ending}") as file:
            file.write(text)
    write_json(
        OUTPUT / "ablation.json",
        {
            name: {
                reading: {condition: [100 * score.f1 for score in scores] for condition, scores in by_condition.items()}
                for reading, by_condition in runs.scores.items()
            }
            for name, runs in found.items()
        },
    )
