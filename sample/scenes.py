"""The backgrounds of the sample's pictures: eight scenes, drawn with Pillow and numpy.

No background shows anything that shapes.py draws as an object (the forest has trunks without crowns, the night no
five-pointed stars), so that a detector has nothing to find in it.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from sample.shapes import Colour, blend

WIDTH, HEIGHT = 256, 192  # pixels of every picture


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    share = np.linspace(0.0, 1.0, HEIGHT)[:, None]
    rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
    return Image.fromarray(np.broadcast_to(rows.round().astype(np.uint8)[:, None], (HEIGHT, WIDTH, 3)).copy())


def _ridge(draw: ImageDraw.ImageDraw, rng: np.random.Generator, level: float, swing: float, fill: Colour) -> None:
    """Fill everything below a wavy line at about `level` pixels from the top."""
    phase, length = rng.uniform(0, 6.28), rng.uniform(50, 90)
    xs = np.arange(0, WIDTH + 8, 8)
    ys = level + swing * np.sin(xs / length * 2.2 + phase)
    draw.polygon([(0, HEIGHT), *zip(xs.tolist(), ys.tolist(), strict=True), (WIDTH, HEIGHT)], fill=fill)


def _beach(rng: np.random.Generator) -> Image.Image:
    picture = _gradient((128, 196, 238), (206, 234, 248))
    draw = ImageDraw.Draw(picture)
    horizon = int(rng.integers(66, 86))
    shore = horizon + int(rng.integers(34, 48))
    draw.rectangle((0, horizon, WIDTH, HEIGHT), fill=(40, 142, 186))
    for _ in range(9):
        x, y = int(rng.integers(0, WIDTH)), int(rng.integers(horizon + 5, shore))
        draw.line((x, y, x + 22, y), fill=(150, 208, 226), width=2)
    _ridge(draw, rng, shore, 4, (246, 250, 250))
    _ridge(draw, rng, shore + 6, 4, (236, 212, 160))
    return picture


def _forest(rng: np.random.Generator) -> Image.Image:
    picture = _gradient((38, 74, 44), (20, 52, 32))
    draw = ImageDraw.Draw(picture)
    for x in range(int(rng.integers(-10, 6)), WIDTH, 24):
        left, width = x + int(rng.integers(0, 10)), int(rng.integers(6, 14))
        draw.rectangle((left, 0, left + width, 160), fill=blend((72, 54, 38), (40, 34, 28), float(rng.uniform(0, 1))))
    for x in range(-10, WIDTH, 20):
        y = int(rng.integers(4, 16))
        draw.ellipse((x - 8, -14, x + 30, y + 14), fill=(30, 84 + int(rng.integers(0, 24)), 44))
    _ridge(draw, rng, 146, 5, (62, 104, 48))
    return picture


def _desert(rng: np.random.Generator) -> Image.Image:
    picture = _gradient((244, 190, 126), (252, 228, 180))
    draw = ImageDraw.Draw(picture)
    for level, fill in ((78, (226, 172, 102)), (108, (212, 152, 82)), (142, (196, 134, 68))):
        _ridge(draw, rng, level + float(rng.uniform(-6, 6)), 14, fill)
    return picture


def _kitchen(rng: np.random.Generator) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT), (232, 236, 230))
    draw = ImageDraw.Draw(picture)
    tile, shift = int(rng.integers(22, 30)), int(rng.integers(0, 20))
    for row, y in enumerate(range(-shift, 140, tile)):
        for column, x in enumerate(range(-shift, WIDTH, tile)):
            fill = (206, 224, 222) if (row + column) % 2 else (240, 242, 236)
            draw.rectangle((x, y, x + tile, y + tile), fill=fill, outline=(182, 196, 194))
    top = int(rng.integers(126, 140))
    draw.rectangle((0, top, WIDTH, HEIGHT), fill=(148, 108, 76))
    draw.rectangle((0, top, WIDTH, top + 8), fill=(96, 68, 48))
    for x in range(int(rng.integers(-40, 0)), WIDTH, 74):
        draw.rectangle((x, top + 18, x + 62, HEIGHT + 4), outline=(104, 74, 50), width=2)
    return picture


def _stage(rng: np.random.Generator) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT), (30, 18, 28))
    draw = ImageDraw.Draw(picture)
    middle = WIDTH // 2 + int(rng.integers(-30, 31))
    draw.polygon([(middle - 12, 0), (middle + 12, 0), (middle + 92, 150), (middle - 92, 150)], fill=(92, 78, 84))
    fold = int(rng.integers(12, 17))
    for k in range(4):
        for x in (k * fold, WIDTH - (k + 1) * fold):
            draw.rectangle((x, 0, x + fold, 150), fill=(126, 22, 34) if k % 2 else (92, 14, 26))
    for x in range(-8, WIDTH, 32):
        draw.pieslice((x, -16, x + 34, 16), 0, 180, fill=(112, 18, 30))
    floor = int(rng.integers(144, 154))
    draw.rectangle((0, floor, WIDTH, HEIGHT), fill=(104, 70, 46))
    for y in range(floor, HEIGHT, 9):
        draw.line((0, y, WIDTH, y), fill=(74, 48, 32), width=2)
    return picture


def _street(rng: np.random.Generator) -> Image.Image:
    picture = _gradient((176, 190, 204), (208, 214, 220))
    draw = ImageDraw.Draw(picture)
    x = int(rng.integers(-30, 0))
    while x < WIDTH:
        width, top = int(rng.integers(44, 64)), int(rng.integers(12, 52))
        wall = blend((150, 140, 136), (104, 106, 116), float(rng.uniform(0, 1)))
        draw.rectangle((x, top, x + width, 132), fill=wall, outline=(84, 84, 90))
        for wy in range(top + 8, 120, 20):
            for wx in range(x + 7, x + width - 9, 16):
                draw.rectangle((wx, wy, wx + 8, wy + 10), fill=(214, 216, 196))
        x += width
    draw.rectangle((0, 126, WIDTH, 138), fill=(176, 174, 170))
    draw.rectangle((0, 138, WIDTH, HEIGHT), fill=(76, 78, 84))
    for x in range(int(rng.integers(-40, 0)), WIDTH, 52):
        draw.rectangle((x, 162, x + 28, 167), fill=(232, 230, 214))
    return picture


def _snow(rng: np.random.Generator) -> Image.Image:
    picture = _gradient((166, 182, 204), (214, 224, 236))
    draw = ImageDraw.Draw(picture)
    _ridge(draw, rng, 88 + float(rng.uniform(-8, 8)), 14, (222, 232, 242))
    _ridge(draw, rng, 122 + float(rng.uniform(-8, 8)), 12, (246, 249, 252))
    for x, y in zip(rng.integers(0, WIDTH, 60).tolist(), rng.integers(0, HEIGHT, 60).tolist(), strict=True):
        draw.ellipse((x, y, x + 3, y + 3), fill=(255, 255, 255))
    return picture


def _night(rng: np.random.Generator) -> Image.Image:
    picture = _gradient((8, 12, 40), (30, 38, 84))
    draw = ImageDraw.Draw(picture)
    for x, y in zip(rng.integers(0, WIDTH, 45).tolist(), rng.integers(0, 140, 45).tolist(), strict=True):
        draw.rectangle((x, y, x + 1, y + 1), fill=(220, 222, 236))
    x, y = int(rng.integers(16, 220)), int(rng.integers(8, 26))
    draw.ellipse((x, y, x + 22, y + 22), fill=(232, 232, 206))
    draw.ellipse((x + 7, y - 4, x + 29, y + 18), fill=(10, 15, 45))  # what is left is a crescent
    _ridge(draw, rng, 152, 8, (12, 14, 24))
    return picture


PAINTERS: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "beach": _beach, "forest": _forest, "desert": _desert, "kitchen": _kitchen,
    "stage": _stage, "street": _street, "snow": _snow, "night": _night,
}  # fmt: skip


def paint(scene: str, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of the scene's background, `WIDTH` by `HEIGHT` pixels; `scene` is a key of :data:`PAINTERS`."""
    return PAINTERS[scene](rng)
