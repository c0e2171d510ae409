"""How the tables of an ablation read: Markdown, LaTeX, and the legend that says what their figures are."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.labels import Reading
from pipeline.settings.params import Condition, EvaluateParams
from reporting.grid import Grid
from reporting.scores import NAMES

TESTED: tuple[Condition, ...] = ("text_only", "cross_modal")
"""The views that are tested against the baseline."""
NONE = "–"
"""In the place of a figure that there is none of."""

_SPECIAL = {
    **{character: f"\\{character}" for character in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "ⁿ": r"$^n$",
}


@dataclass(frozen=True, slots=True)
class Contrast:
    """A view of a system against the baseline's text-only view, in points of F1.

    Attributes:
        difference: of the means over seeds.
        interval: of it, by bootstrap; None where there is none.
        p_value: of the same bootstrap, one-sided; likewise.
        p_seeds: of the test over seeds, two-sided; None of one seed.
    """

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    p_seeds: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: (mean, standard deviation or None) of each condition in points, and the tests by view."""

    name: str
    title: str
    seeds: int
    cells: dict[Condition, tuple[float, float | None] | None]
    tests: dict[Condition, Contrast]


def legend(grid: Grid, settings: EvaluateParams) -> str:
    """What the figures of a table are.

    Args:
        grid: what is run.
        settings: what was drawn for the bootstrap.
    """
    n_seeds = len(grid.seeds)
    if n_seeds > 1:
        said = [
            f"Mean ± sample standard deviation over {n_seeds} seeds ({', '.join(map(str, grid.seeds))}), in points."
        ]
    else:
        said = [f"One seed ({grid.seeds[0]}), in points."]
    said.append(
        f"Δ: the view against the text-only view of {grid.systems[grid.baseline].title}, difference of mean F1 over "
        "seeds."
    )
    if settings.bootstrap_samples:
        said.append(
            f"Its {100 * settings.confidence:g} % interval and p (one-sided): paired bootstrap over posts, "
            f"{settings.bootstrap_samples:,} draws, bootstrap seed {settings.bootstrap_seed}; a draw has the same "
            "posts in every run of both systems."
        )
    if n_seeds > 1:
        said.append(
            "p (seeds): exact sign-flip permutation test of the seeds' differences, two-sided; with "
            f"{n_seeds} seeds at least {2 / 2**n_seeds:.2g}."
        )
    return " ".join(said)


def markdown(grid: Grid, tables: Mapping[Reading, Sequence[Row]], conditions: Sequence[Condition], legend: str) -> str:
    """The tables as Markdown.

    Args:
        grid: what is run.
        tables: rows by reading.
        conditions: those that have figures.
        legend: what the figures are.
    """
    lines = [f"# {grid.title}", "", legend, ""]
    for reading, rows in tables.items():
        heads = _heads(grid, conditions)
        lines += [f"{reading} micro-F1 on {grid.split}:", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        lines += [f"| {' | '.join(part.replace('|', '/') for part in _parts(grid, row, conditions))} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def latex(grid: Grid, tables: Mapping[Reading, Sequence[Row]], conditions: Sequence[Condition], legend: str) -> str:
    """The tables as LaTeX, a `table` environment each, for a document that loads booktabs; arguments of `markdown`."""
    lines = ["% \\usepackage{booktabs}"]
    for reading, rows in tables.items():
        heads = _heads(grid, conditions)
        lines += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(grid.title)}: {reading} micro-F1 on {grid.split}. {escaped(legend)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            rf"{' & '.join(map(escaped, heads))} \\",
            r"\midrule",
            *(rf"{' & '.join(map(escaped, _parts(grid, row, conditions)))} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join([*lines, ""])


def escaped(text: str) -> str:
    """A text as LaTeX has it, on one line."""
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda match: _SPECIAL[match[0]], " ".join(text.split()))


def _heads(grid: Grid, conditions: Sequence[Condition]) -> list[str]:
    tests = [
        head
        for view in TESTED
        if view in conditions
        for head in (f"Δ {NAMES[view]}", "p", *(["p (seeds)"] if len(grid.seeds) > 1 else []))
    ]
    return ["system", *(NAMES[condition] for condition in conditions), *tests]


def _parts(grid: Grid, row: Row, conditions: Sequence[Condition]) -> Iterator[str]:
    """The cells of a row, as many as it has heads."""
    yield row.title
    for condition in conditions:
        cell = row.cells[condition]
        if cell is None:
            yield NONE
        else:
            yield f"{cell[0]:.1f}" if cell[1] is None else f"{cell[0]:.1f} ± {cell[1]:.1f}"
    for view in (view for view in TESTED if view in conditions):
        test = row.tests.get(view)
        yield NONE if test is None else _difference(test)
        yield _p(None if test is None else test.p_value)
        if len(grid.seeds) > 1:
            yield _p(None if test is None else test.p_seeds)


def _difference(test: Contrast) -> str:
    bounds = "" if test.interval is None else f" [{test.interval[0]:+.1f}, {test.interval[1]:+.1f}]"
    return f"{test.difference:+.1f}{bounds}".replace("-", "−")


def _p(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
