"""Long pictures in strips: where they are cut, and how lines that neighbouring strips both see become one.

A library shrinks a picture to what its text detector can take, and of a screenshot thirteen times as tall as wide
nothing legible is left; a strip of it is as good as an ordinary picture. Reading a strip is left to each adapter.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.core.records import TextLine

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge, in pixels of the whole picture."""

SHORTEST = 480  # pixels: a shorter strip of a narrow picture has no room for the lines of it
_EDGE = 100  # a line that ends within this fraction of a strip's length from where it was cut may go on there
_SAME = 0.5  # intersection over the smaller box


@dataclass(frozen=True, slots=True)
class Strip:
    """A part of a picture, as wide or as tall as it; `begin` and `end` are pixels along its longer side."""

    begin: int
    end: int
    tall: bool
    """Whether strips lie below each other, rather than beside each other."""
    first: bool = True
    last: bool = True

    @property
    def margin(self) -> float:
        """How near to a cut a line counts as cut, in pixels."""
        return max(2.0, (self.end - self.begin) / _EDGE)

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The strip in a picture of this size."""
        return (0, self.begin, width, self.end) if self.tall else (self.begin, 0, self.end, height)

    def cut(self, box: Box) -> tuple[bool, bool]:
        """Whether a line in the strip may go on before its begin, and behind its end."""
        low, high = _along(box, self.tall)
        return not self.first and low <= self.begin + self.margin, not self.last and high >= self.end - self.margin


def cut(width: int, height: int, above: float, ratio: float, overlap: float, most: int) -> list[Strip]:
    """The strips of a picture; one with all of it, unless it is long.

    A tall one is cut wherever its sides are in a worse ratio than `above`. A cut across a wide one goes through lines
    of text, so such a picture is left whole up to `most` pixels, and no strip of it is shorter than that.

    Args:
        width: of the picture, in pixels.
        height: likewise.
        above: longer over shorter side from which a picture is long.
        ratio: a strip's length over the picture's shorter side.
        overlap: of neighbouring strips, as a fraction of their length; at least so much.
        most: pixels of a picture's longer side that can be read as they are.
    """
    tall, short, long = height > width, min(width, height), max(width, height)
    length = max(round(ratio * short), SHORTEST if tall else most)
    if long <= above * short or long <= length:
        return [Strip(0, long, tall)]
    count = 1 + math.ceil((long - length) / (length * (1 - overlap)))
    begins = [round(place * (long - length) / (count - 1)) for place in range(count)]
    return [Strip(begin, begin + length, tall, begin == 0, begin == begins[-1]) for begin in begins]


def merged(
    strips: Sequence[Strip], found: Sequence[Sequence[TextLine]], again: Callable[[Box], TextLine | None]
) -> list[TextLine]:
    """The lines of a picture, each once.

    A line that is cut in one strip and lies in the next as a whole is taken from there. One longer than the overlap is
    cut in both, and read again off the whole picture. What two strips both see as a whole is of the better score.

    Args:
        strips: neighbours one after another.
        found: the lines of each strip, polygons in pixels of the whole picture.
        again: reads the line in a box of the whole picture; None where there is none.
    """
    kept = [
        [line for line in lines if not _whole_elsewhere(strips, place, _box(line))] for place, lines in enumerate(found)
    ]
    for place, (strip, following) in enumerate(pairwise(strips)):
        _join(strip, following, kept[place], kept[place + 1], again)
    best: list[tuple[int, TextLine]] = []
    all_lines = [(place, line) for place, lines in enumerate(kept) for line in lines]
    for place, line in sorted(all_lines, key=lambda one: -(one[1].score or 0.0)):
        if all(place == at or _shared(_box(line), _box(other)) <= _SAME for at, other in best):
            best.append((place, line))
    return [line for _, line in best]


def _whole_elsewhere(strips: Sequence[Strip], place: int, box: Box) -> bool:
    """Whether the line in `box`, of strip number `place`, is cut there, and lies in a neighbour as a whole."""
    neighbours = []
    before, behind = strips[place].cut(box)
    if before:
        neighbours.append(strips[place - 1])
    if behind:
        neighbours.append(strips[place + 1])
    low, high = _along(box, strips[place].tall)
    return any(other.begin <= low and high <= other.end and not any(other.cut(box)) for other in neighbours)


def _join(
    strip: Strip, following: Strip, own: list[TextLine], others: list[TextLine], again: Callable[[Box], TextLine | None]
) -> None:
    """Move lines that both strips cut into the later one's `others`, the two pieces as one line."""
    for piece in [line for line in own if strip.cut(_box(line))[1]]:
        for other in [line for line in others if following.cut(_box(line))[0]]:
            if _go_together(_box(piece), _box(other), strip.tall):
                whole = again(_around(_box(piece), _box(other)))
                if whole is not None:
                    own.remove(piece)
                    others[others.index(other)] = whole
                    break


def _go_together(piece: Box, other: Box, tall: bool) -> bool:
    """Whether two pieces meet along the picture, and lie beside the same place of its shorter side."""
    low, high = _along(piece, tall)
    begin, end = _along(other, tall)
    if min(high, end) <= max(low, begin):
        return False
    top, bottom = _along(piece, not tall)
    upper, lower = _along(other, not tall)
    return min(bottom, lower) - max(top, upper) > _SAME * min(bottom - top, lower - upper)


def _along(box: Box, tall: bool) -> tuple[float, float]:
    return (box[1], box[3]) if tall else (box[0], box[2])


def _around(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _shared(one: Box, other: Box) -> float:
    """Intersection over the smaller box."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / smaller if width > 0 and height > 0 and smaller > 0 else 0.0


def _box(line: TextLine) -> Box:
    corners = line.polygon or ((0.0, 0.0),)
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
