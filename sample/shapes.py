"""The objects that the sample's pictures show, drawn with Pillow: one function a class, on a unit square.

What a picture is composed of, where its things stand and what its caption says is left to render.py; what stands
behind them to scenes.py.
"""

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLING = 2  # a shape is drawn so many times larger than it is shown: Pillow's polygons are not antialiased
DARK: Colour = (34, 32, 38)
PALE: Colour = (244, 242, 234)
WOOD: Colour = (128, 84, 48)
GLASS: Colour = (196, 224, 240)


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with a `share` (0 to 1) of `other` mixed in."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


class Pen:
    """Draws on a transparent square in unit coordinates: (0, 0) is its top left corner, (1, 1) its bottom right."""

    def __init__(self, side: int) -> None:
        """Take up a sheet of `side` by `side` pixels."""
        self.side = side
        self.sheet = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.sheet)
        self.edge = max(2, round(side * 0.022))  # width of an outline, in pixels

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * (self.side - 1), y * (self.side - 1)) for x, y in points]

    def polygon(self, points: Sequence[Point], fill: Colour, outline: Colour | None = DARK) -> None:
        """A filled polygon, outlined unless `outline` is None."""
        pixels = self._pixels(points)
        self._draw.polygon(pixels, fill=fill)
        if outline is not None:
            self._draw.line([*pixels, pixels[0], pixels[1]], fill=outline, width=self.edge, joint="curve")

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, outline: Colour | None = DARK) -> None:
        """A filled rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, outline)

    def ellipse(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: Colour | None,
        outline: Colour | None = DARK,
        width: float | None = None,
    ) -> None:
        """An ellipse inside the given box; `width` is its outline's, as a share of the sheet."""
        (left, top), (right, bottom) = self._pixels([(x0, y0), (x1, y1)])
        pixels = self.edge if width is None else round(width * self.side)
        self._draw.ellipse((left, top, right, bottom), fill=fill, outline=outline, width=pixels)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """A polyline; `width` is a share of the sheet."""
        self._draw.line(self._pixels(points), fill=fill, width=max(2, round(width * self.side)), joint="curve")

    def stroke(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """A polyline with a dark outline."""
        self.line(points, DARK, width + 0.045)
        self.line(points, fill, width)


def _ball(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0.04, 0.04, 0.96, 0.96, colour)
    for x0, x1 in ((0.30, 0.70), (-0.14, 0.22), (0.78, 1.14)):  # seams
        clipped = [(x, y) for x, y in _oval(x0, 0.04, x1, 0.96) if math.hypot(x - 0.5, y - 0.5) < 0.45]
        left = [p for p in clipped if p[0] <= (x0 + x1) / 2]
        right = [p for p in clipped if p[0] > (x0 + x1) / 2]
        for half in (left, right):
            if len(half) > 1:
                pen.line(sorted(half, key=lambda p: p[1]), PALE, 0.045)


def _oval(x0: float, y0: float, x1: float, y1: float, steps: int = 48) -> list[Point]:
    cx, cy, rx, ry = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    return [
        (cx + rx * math.cos(2 * math.pi * k / steps), cy + ry * math.sin(2 * math.pi * k / steps)) for k in range(steps)
    ]


def _hat(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0.03, 0.66, 0.97, 0.90, colour)
    pen.polygon([(0.26, 0.14), (0.74, 0.14), (0.71, 0.78), (0.29, 0.78)], colour)
    pen.polygon([(0.275, 0.56), (0.725, 0.56), (0.715, 0.74), (0.285, 0.74)], blend(colour, DARK, 0.75), None)


def _guitar(pen: Pen, colour: Colour) -> None:
    def turned(points: Sequence[Point]) -> list[Point]:
        cos, sin = math.cos(0.62), math.sin(0.62)
        upright = [((x - 0.5) * 0.84, (y - 0.5) * 0.84) for x, y in points]
        return [(0.5 + x * cos - y * sin, 0.5 + x * sin + y * cos) for x, y in upright]

    pen.polygon(turned([(0.46, -0.04), (0.54, -0.04), (0.54, 0.55), (0.46, 0.55)]), WOOD)
    pen.polygon(turned([(0.43, -0.12), (0.57, -0.12), (0.55, 0.02), (0.45, 0.02)]), DARK)
    waist = turned(_oval(0.31, 0.42, 0.69, 0.76))
    belly = turned(_oval(0.23, 0.62, 0.77, 1.10))
    pen.polygon(waist, colour)
    pen.polygon(belly, colour)
    pen.polygon(waist, colour, None)
    pen.polygon(turned(_oval(0.41, 0.62, 0.59, 0.80)), DARK, None)
    pen.polygon(turned([(0.38, 0.93), (0.62, 0.93), (0.62, 0.97), (0.38, 0.97)]), DARK, None)
    pen.line(turned([(0.5, 0.0), (0.5, 0.95)]), PALE, 0.015)


def _cup(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0.56, 0.28, 0.97, 0.74, None, DARK, 0.115)
    pen.ellipse(0.58, 0.30, 0.95, 0.72, None, colour, 0.075)
    pen.polygon([(0.06, 0.16), (0.72, 0.16), (0.66, 0.88), (0.12, 0.88)], colour)
    pen.ellipse(0.06, 0.07, 0.72, 0.25, blend(colour, DARK, 0.55))
    pen.line([(0.17, 0.36), (0.21, 0.76)], blend(colour, PALE, 0.6), 0.05)


def _kite(pen: Pen, colour: Colour) -> None:
    tail = [(0.50, 0.64), (0.58, 0.72), (0.48, 0.79), (0.57, 0.87), (0.50, 0.95)]
    pen.line(tail, DARK, 0.03)
    for x, y in tail[1:]:
        pen.polygon(
            [(x - 0.09, y - 0.045), (x + 0.09, y + 0.045), (x + 0.09, y - 0.045), (x - 0.09, y + 0.045)], colour, None
        )
    pen.polygon([(0.50, 0.03), (0.84, 0.28), (0.50, 0.68), (0.16, 0.28)], colour)
    pen.polygon([(0.50, 0.03), (0.84, 0.28), (0.50, 0.28)], blend(colour, PALE, 0.45))
    pen.polygon([(0.16, 0.28), (0.50, 0.28), (0.50, 0.68)], blend(colour, DARK, 0.3))


def _boat(pen: Pen, colour: Colour) -> None:
    pen.line([(0.50, 0.05), (0.50, 0.70)], WOOD, 0.045)
    pen.polygon([(0.54, 0.07), (0.54, 0.62), (0.90, 0.62)], PALE)
    pen.polygon([(0.46, 0.15), (0.46, 0.62), (0.16, 0.62)], PALE)
    pen.polygon([(0.03, 0.68), (0.97, 0.68), (0.80, 0.93), (0.20, 0.93)], colour)
    pen.line([(0.10, 0.75), (0.90, 0.75)], blend(colour, PALE, 0.6), 0.03)


def _car(pen: Pen, colour: Colour) -> None:
    pen.polygon([(0.24, 0.48), (0.35, 0.24), (0.68, 0.24), (0.80, 0.48)], colour)
    pen.polygon([(0.31, 0.46), (0.38, 0.29), (0.49, 0.29), (0.49, 0.46)], GLASS)
    pen.polygon([(0.54, 0.46), (0.54, 0.29), (0.65, 0.29), (0.73, 0.46)], GLASS)
    pen.polygon([(0.03, 0.52), (0.10, 0.46), (0.90, 0.46), (0.97, 0.54), (0.97, 0.70), (0.03, 0.70)], colour)
    for x in (0.14, 0.64):
        pen.ellipse(x, 0.57, x + 0.23, 0.80, DARK)
        pen.ellipse(x + 0.07, 0.64, x + 0.16, 0.73, PALE, None)


def _tree(pen: Pen, colour: Colour) -> None:
    pen.box(0.43, 0.72, 0.57, 0.97, WOOD)
    for top, bottom, half in ((0.40, 0.80, 0.42), (0.21, 0.58, 0.33), (0.03, 0.36, 0.24)):
        pen.polygon([(0.5, top), (0.5 + half, bottom), (0.5 - half, bottom)], colour)


def _dog(pen: Pen, colour: Colour) -> None:
    pen.stroke([(0.15, 0.46), (0.05, 0.24)], colour, 0.06)
    for x in (0.18, 0.30, 0.56, 0.67):
        pen.box(x, 0.60, x + 0.09, 0.93, colour)
    pen.polygon([(0.12, 0.42), (0.70, 0.40), (0.76, 0.68), (0.14, 0.68)], colour)
    pen.polygon(
        [(0.60, 0.16), (0.80, 0.14), (0.84, 0.26), (0.97, 0.30), (0.95, 0.43), (0.80, 0.46), (0.66, 0.50)], colour
    )
    pen.polygon([(0.60, 0.14), (0.71, 0.15), (0.68, 0.40), (0.58, 0.36)], blend(colour, DARK, 0.55))
    pen.ellipse(0.755, 0.20, 0.805, 0.25, DARK)
    pen.ellipse(0.92, 0.285, 0.98, 0.345, DARK)


def _fish(pen: Pen, colour: Colour) -> None:
    pen.polygon([(0.30, 0.50), (0.03, 0.24), (0.10, 0.50), (0.03, 0.76)], blend(colour, DARK, 0.2))
    pen.polygon([(0.45, 0.34), (0.62, 0.12), (0.74, 0.32)], blend(colour, DARK, 0.2))
    pen.ellipse(0.20, 0.26, 0.97, 0.76, colour)
    for x in (0.44, 0.58):
        pen.line([(x, 0.34), (x + 0.06, 0.50), (x, 0.67)], blend(colour, DARK, 0.5), 0.03)
    pen.ellipse(0.77, 0.39, 0.86, 0.48, PALE)
    pen.ellipse(0.80, 0.42, 0.84, 0.46, DARK)


def _bird(pen: Pen, colour: Colour) -> None:
    for x in (0.42, 0.54):
        pen.line([(x, 0.72), (x, 0.92), (x + 0.08, 0.93)], DARK, 0.03)
    pen.polygon([(0.24, 0.60), (0.03, 0.70), (0.06, 0.84), (0.32, 0.72)], blend(colour, DARK, 0.35))
    pen.polygon([(0.86, 0.24), (0.98, 0.31), (0.86, 0.37)], (236, 168, 48))
    pen.ellipse(0.18, 0.38, 0.78, 0.78, colour)
    pen.ellipse(0.56, 0.10, 0.90, 0.46, colour)
    pen.ellipse(0.52, 0.38, 0.74, 0.52, colour, None)
    pen.polygon([(0.26, 0.50), (0.62, 0.46), (0.52, 0.68), (0.20, 0.66)], blend(colour, DARK, 0.35))
    pen.ellipse(0.73, 0.20, 0.80, 0.27, DARK)


def _star(pen: Pen, colour: Colour) -> None:
    points = []
    for k in range(10):
        radius, angle = (0.49, 0.20)[k % 2], math.pi * (k / 5 - 0.5)
        points.append((0.5 + radius * math.cos(angle), 0.52 + radius * math.sin(angle)))
    pen.polygon(points, colour)


def _key(pen: Pen, colour: Colour) -> None:
    pen.stroke([(0.36, 0.50), (0.92, 0.50)], colour, 0.085)
    for x, length in ((0.72, 0.72), (0.89, 0.76)):
        pen.stroke([(x, 0.51), (x, length)], colour, 0.065)
    pen.line([(0.36, 0.50), (0.92, 0.50)], colour, 0.085)
    pen.ellipse(0.03, 0.28, 0.47, 0.72, None, DARK, 0.155)
    pen.ellipse(0.052, 0.302, 0.448, 0.698, None, colour, 0.11)


def _book(pen: Pen, colour: Colour) -> None:
    pen.polygon([(0.18, 0.10), (0.90, 0.14), (0.90, 0.95), (0.18, 0.93)], blend(colour, DARK, 0.4))
    pen.polygon([(0.16, 0.10), (0.87, 0.10), (0.87, 0.91), (0.16, 0.91)], PALE)
    pen.polygon([(0.10, 0.05), (0.80, 0.05), (0.80, 0.86), (0.10, 0.86)], colour)
    pen.polygon([(0.10, 0.05), (0.22, 0.05), (0.22, 0.86), (0.10, 0.86)], blend(colour, DARK, 0.45))
    for y in (0.22, 0.32):
        pen.line([(0.32, y), (0.70, y)], PALE, 0.045)


def _lamp(pen: Pen, colour: Colour) -> None:
    pen.line([(0.5, 0.45), (0.5, 0.88)], DARK, 0.07)
    pen.polygon([(0.26, 0.97), (0.74, 0.97), (0.66, 0.86), (0.34, 0.86)], blend(colour, DARK, 0.45))
    pen.polygon([(0.33, 0.04), (0.67, 0.04), (0.90, 0.50), (0.10, 0.50)], colour)
    pen.line([(0.38, 0.10), (0.22, 0.44)], blend(colour, PALE, 0.6), 0.05)


def _chair(pen: Pen, colour: Colour) -> None:
    for x, top in ((0.22, 0.55), (0.70, 0.55)):
        pen.box(x, top, x + 0.09, 0.97, blend(colour, DARK, 0.35))
    pen.box(0.18, 0.03, 0.28, 0.60, colour)
    for y in (0.10, 0.24, 0.38):
        pen.box(0.28, y, 0.40, y + 0.07, blend(colour, DARK, 0.2))
    pen.box(0.40, 0.03, 0.50, 0.56, colour)
    pen.polygon([(0.18, 0.52), (0.82, 0.52), (0.86, 0.65), (0.18, 0.65)], colour)


def _clock(pen: Pen, colour: Colour) -> None:
    for x in (0.16, 0.56):
        pen.ellipse(x, 0.03, x + 0.28, 0.29, blend(colour, DARK, 0.3))
    pen.stroke([(0.28, 0.82), (0.18, 0.95)], colour, 0.05)
    pen.stroke([(0.72, 0.82), (0.82, 0.95)], colour, 0.05)
    pen.ellipse(0.09, 0.12, 0.91, 0.94, colour)
    pen.ellipse(0.21, 0.24, 0.79, 0.82, PALE)
    pen.line([(0.5, 0.31), (0.5, 0.53), (0.66, 0.62)], DARK, 0.05)


def _flag(pen: Pen, colour: Colour) -> None:
    pen.box(0.10, 0.03, 0.18, 0.97, WOOD)
    pen.polygon(
        [
            (0.18, 0.08),
            (0.40, 0.04),
            (0.66, 0.14),
            (0.95, 0.09),
            (0.95, 0.53),
            (0.66, 0.58),
            (0.40, 0.48),
            (0.18, 0.52),
        ],
        colour,
    )
    pen.polygon(
        [
            (0.18, 0.23),
            (0.40, 0.19),
            (0.66, 0.29),
            (0.95, 0.24),
            (0.95, 0.38),
            (0.66, 0.43),
            (0.40, 0.33),
            (0.18, 0.37),
        ],
        PALE,
        None,
    )


DRAWERS: dict[str, Callable[[Pen, Colour], None]] = {
    "ball": _ball, "hat": _hat, "guitar": _guitar, "cup": _cup, "kite": _kite, "boat": _boat, "car": _car,
    "tree": _tree, "dog": _dog, "fish": _fish, "bird": _bird, "star": _star, "key": _key, "book": _book,
    "lamp": _lamp, "chair": _chair, "clock": _clock, "flag": _flag,
}  # fmt: skip


def draw(label: str, colour: Colour, side: int, turn: float, mirrored: bool) -> Image.Image:
    """Draw one thing.

    Args:
        label: a key of :data:`DRAWERS`.
        colour: its main colour; details keep their own.
        side: pixels of the square that the upright shape fills.
        turn: degrees it is turned anticlockwise.
        mirrored: whether left and right are swapped.

    Returns:
        An RGBA picture cropped to what is drawn, about `side` pixels wide or high.
    """
    pen = Pen(side * SUPERSAMPLING)
    DRAWERS[label](pen, colour)
    sheet = pen.sheet.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else pen.sheet
    sheet = sheet.rotate(turn, Image.Resampling.BILINEAR, expand=True).reduce(SUPERSAMPLING)
    solid = sheet.getchannel("A").point(lambda alpha: 255 if alpha > 96 else 0)
    return sheet.crop(solid.getbbox())
