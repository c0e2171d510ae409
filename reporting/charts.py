"""Geometry of the report's figures: learning curves and intervals of F1, in the units of an SVG's view box.

Only numbers are made here; the templates draw them, with classes for colours and a table of the values beside each
figure. Series differ in mark and dash as well as in colour, and are named where they end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.records import Analysis
from reporting.scores import NAMES, SplitScores

WIDTH, HEIGHT = 460.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 108.0, 14.0, 34.0
_LABEL_HEIGHT = 14.0

MARKS = ("circle", "square", "triangle", "diamond", "cross")
INDEX = {
    **{name: index for index, name in enumerate(NAMES.values())},
    **{"alignment": 2, "total": 3, "saved teachers": 4},
    **{"confidence": 0, "calibrated": 1, "as sure as right": 3},
}
"""Which mark, dash and colour a series has: the same in every figure."""


@dataclass(frozen=True)
class Tick:
    """A grid line: where it lies and what stands beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Series:
    """A curve: its name, its points in the view box, its values; `label_y` is where its name stands."""

    name: str
    index: int
    points: list[tuple[float, float]]
    values: list[tuple[float, float]]
    label_y: float

    @property
    def mark(self) -> str:
        """The shape of its points."""
        return MARKS[self.index]


@dataclass(frozen=True)
class LineChart:
    """A chart of curves over epochs, or over what `x_name` says."""

    title: str
    unit: str
    x_name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    series: list[Series]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM


def line_chart(
    title: str, unit: str, curves: Mapping[str, Sequence[tuple[float, float]]], x_name: str = "epoch"
) -> LineChart | None:
    """Curves by name (one of :data:`INDEX`), each of (epoch, value) pairs; None where there is nothing to draw.

    Values that are no numbers (a loss that has diverged) are left out of the curve.
    """
    drawn = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in curves.items()
    }
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return None
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    y_values = ticks(min(ys), max(ys), 5)
    x_values = [value for value in ticks(min(xs), max(xs), 8) if value == int(value) and min(xs) <= value <= max(xs)]
    low, high = min(y_values[0], min(ys)), max(y_values[-1], max(ys))

    def at_x(x: float) -> float:
        return _scale(x, min(xs), max(xs), LEFT + 8, WIDTH - RIGHT - 8)

    def at_y(y: float) -> float:
        return _scale(y, low, high, HEIGHT - BOTTOM, TOP)

    ends = spread([at_y(points[-1][1]) for points in drawn.values()], _LABEL_HEIGHT, TOP, HEIGHT - BOTTOM)
    series = [
        Series(name, INDEX[name], [(round(at_x(x), 2), round(at_y(y), 2)) for x, y in points], points, round(end, 2))
        for (name, points), end in zip(drawn.items(), ends, strict=True)
    ]
    return LineChart(
        title,
        unit,
        x_name,
        [Tick(round(at_x(x), 2), f"{x:g}") for x in x_values],
        [Tick(round(at_y(y), 2), f"{y:g}") for y in y_values],
        series,
    )


def reliability_chart(condition: str, analysis: Analysis) -> LineChart | None:
    """How often entities of a condition are right, by confidence, in per cent; None where none was found."""
    curves = {
        name: [(round(100 * each["confidence"], 1), round(100 * each["right"], 1)) for each in found["bins"]]
        for name, found in (("confidence", analysis["confidence"]), ("calibrated", analysis["calibrated"]))
        if found is not None and found["bins"]
    }
    if not curves:
        return None
    curves["as sure as right"] = [(0.0, 0.0), (100.0, 100.0)]
    return line_chart(f"Right entities by confidence, {condition}", "per cent", curves, "confidence")


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that span low … high, about so many."""
    if high - low <= 1e-6 * max(abs(low), abs(high), 1e-3):  # no more than rounding: the same value
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, at least `apart` from each other, within low … high where there is room."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    previous = low - apart
    for index in order:
        placed[index] = previous = max(wanted[index], previous + apart)
    following = high + apart
    for index in reversed(order):
        placed[index] = following = min(placed[index], following - apart)
    return placed


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return (start + end) / 2 if high <= low else start + (value - low) / (high - low) * (end - start)


@dataclass(frozen=True)
class Interval:
    """One condition's F1 of one type: where it and the bounds of its interval lie, and the words for it."""

    index: int
    name: str
    y: float
    x: float
    low: float | None
    high: float | None
    text: str

    @property
    def mark(self) -> str:
        """The shape of its point."""
        return MARKS[self.index]


@dataclass(frozen=True)
class IntervalGroup:
    """A type's intervals, one a condition."""

    name: str
    y: float
    support: int
    intervals: list[Interval]


@dataclass(frozen=True)
class IntervalChart:
    """F1 with its confidence intervals, by type."""

    x_ticks: list[Tick]
    groups: list[IntervalGroup]
    legend: list[tuple[int, str, str]]  # index, mark, name
    height: float
    bottom: float
    width: float = 640.0
    left: float = 120.0
    right: float = 620.0


def interval_chart(scores: SplitScores, reading: str) -> IntervalChart | None:
    """The figure of one split under one scorer, without types that gold never names; None where nothing was scored."""
    rows = [row for row in scores.rows if row.reading == reading]
    if not rows:
        return None
    columns: list[tuple[str, list[Mapping[str, Any] | None]]] = [("all types", [row.micro for row in rows])]
    columns += [(name, [row.types[place] for row in rows]) for place, name in enumerate(scores.types)]
    columns = [(name, cells) for name, cells in columns if any(cell and cell["support"] for cell in cells)]
    if not columns:
        return None
    bounds = [
        100 * value for _, cells in columns for cell in cells if cell for value in (cell["f1"], *(cell["f1_ci"] or ()))
    ]
    values = ticks(min(bounds), max(bounds), 6)
    values = [value for value in values if 0 <= value <= 100]
    low, high = min(values[0], min(bounds)), max(values[-1], max(bounds))

    def at(fraction: float) -> float:
        return round(_scale(100 * fraction, low, high, IntervalChart.left, IntervalChart.right), 2)

    step, gap, top = 15.0, 16.0, 12.0
    groups: list[IntervalGroup] = []
    y = top
    for name, cells in columns:
        start, intervals = y, []
        for row, cell in zip(rows, cells, strict=True):
            if cell is not None:
                ci = cell["f1_ci"]
                bounds_text = f" [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]" if ci else ""
                name_of = NAMES[row.condition]
                intervals.append(
                    Interval(
                        INDEX[name_of],
                        name_of,
                        y + step / 2,
                        at(cell["f1"]),
                        at(ci[0]) if ci else None,
                        at(ci[1]) if ci else None,
                        f"{100 * cell['f1']:.2f}{bounds_text}",
                    )
                )
            y += step
        support = max((cell["support"] for cell in cells if cell), default=0)
        groups.append(IntervalGroup(name, (start + y) / 2, support, intervals))
        y += gap
    legend = [(INDEX[name], MARKS[INDEX[name]], name) for name in (NAMES[row.condition] for row in rows)]
    return IntervalChart(
        [Tick(at(value / 100), f"{value:g}") for value in values], groups, legend, height=y + 22, bottom=y - gap / 2
    )
