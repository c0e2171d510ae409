"""Pictures for the sample data set, drawn from a description: what is in them, where, and what a caption says.

The same specification and the same generator state give the same picture, byte for byte. dataset.py decides
which pictures are needed, shapes.py and scenes.py how objects and backgrounds look. A caption names the scene
and the main object alone: the other objects can be found by a detector only, the words of a sign by OCR only.
"""

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sample import scenes, shapes

WIDTH, HEIGHT = scenes.WIDTH, scenes.HEIGHT
CLASSES: tuple[str, ...] = tuple(shapes.DRAWERS)
SCENES: tuple[str, ...] = tuple(scenes.PAINTERS)
PALETTE: dict[str, shapes.Colour] = {
    "red": (214, 36, 40), "orange": (246, 134, 22), "yellow": (250, 222, 50),
    "green": (46, 168, 66), "blue": (38, 92, 214), "purple": (146, 54, 176),
}  # fmt: skip
COLOURS: tuple[str, ...] = tuple(PALETTE)
SIZES: tuple[str, ...] = ("small", "large")
SCENE_PHRASES: dict[str, str] = {
    "beach": "on a beach", "forest": "in a forest", "desert": "in a desert", "kitchen": "in a kitchen",
    "stage": "on a stage", "street": "on a street", "snow": "in the snow", "night": "at night",
}  # fmt: skip

# Seeds of np.random.default_rng([SPACE, n]): the data set, what the checkpoints are trained on and what they are
# measured on never share one.
DATA_SPACE, TRAINING_SPACE, HELD_OUT_SPACE = 1, 2, 3

JPEG_QUALITY = 85
MAIN_SIDES = {"small": (78, 90), "large": (92, 114)}  # pixels; the main thing is always the largest of a picture
OTHER_SIDES = {"small": (46, 56), "large": (58, 68)}
MIN_VISIBLE = 0.7  # share of every thing that no other may cover
TRIES = 60  # places tried for a thing before the best of them is taken

SIGN_PAPER: tuple[shapes.Colour, ...] = ((252, 250, 240), (250, 242, 206), (226, 240, 248))
SIGN_INK: tuple[shapes.Colour, ...] = ((20, 20, 24), (24, 34, 84), (112, 16, 20))
SIGN_FONT_SIZES = range(24, 11, -1)  # pixels; the largest that fits is taken
SIGN_MAX_WIDTH = WIDTH - 36
SIGN_WORDS = ("OPEN", "Welcome", "LIVE TONIGHT", "SALE", "Big Match", "Free Tickets", "NO PARKING", "Fresh Bread",
              "Grand Final", "Happy Birthday", "EXIT", "New Album", "Spring Tour", "Good Luck", "Thank You All",
              "Sold Out", "Join Us Today", "Farmers Market", "Keep Left", "Hello")  # fmt: skip
SYLLABLES = ("ba", "bel", "cor", "da", "den", "el", "fa", "gar", "han", "ka", "ki", "lan", "lo", "mar", "mi", "mon",
             "na", "nor", "o", "pe", "ra", "ri", "sa", "sten", "ta", "ton", "va", "ver", "wil", "zo")  # fmt: skip

_FONT = Path(__file__).with_name("font") / "DejaVuSans-Bold.ttf"


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a picture: `label` of CLASSES, `colour` of COLOURS, `size` of SIZES."""

    label: str
    colour: str
    size: str = "small"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a picture shows: a scene of SCENES, 1 to 4 things, the first of them the main one, and a sign's words."""

    scene: str
    things: list[Thing]
    sign: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture (RGB), the box (x0, y0, x1, y1) in pixels of every thing, in the spec's order, and its caption."""

    image: Image.Image
    boxes: list[tuple[int, int, int, int]]
    caption: str


def caption(spec: Spec) -> str:
    """What a captioner should say: colour and class of the main thing, and the scene."""
    main = spec.things[0]
    article = "an" if main.colour[0] in "aeiou" else "a"
    return f"{article} {main.colour} {main.label} {SCENE_PHRASES[spec.scene]}"


def random_spec(rng: np.random.Generator) -> Spec:
    """A specification with 1 to 4 things, of which the first is large, and in two of five cases a sign."""
    count = int(rng.integers(1, 5))
    things = [
        Thing(CLASSES[rng.integers(len(CLASSES))], COLOURS[rng.integers(len(COLOURS))],
              "large" if position == 0 or rng.random() < 0.3 else "small")
        for position in range(count)
    ]  # fmt: skip
    sign = random_sign(rng) if rng.random() < 0.4 else None
    return Spec(SCENES[rng.integers(len(SCENES))], things, sign)


def random_sign(rng: np.random.Generator) -> str:
    """One to three words: something that signs say, or made-up names."""
    if rng.random() < 0.3:
        return SIGN_WORDS[rng.integers(len(SIGN_WORDS))]
    words = []
    for _ in range(int(rng.integers(1, 4))):
        word = "".join(SYLLABLES[k] for k in rng.integers(0, len(SYLLABLES), rng.integers(2, 4)))
        words.append(word.capitalize())
    sign = " ".join(words)
    return sign.upper() if rng.random() < 0.4 else sign


def render(spec: Spec, rng: np.random.Generator) -> Scene:
    """Draw a picture of `WIDTH` by `HEIGHT` pixels; `rng` decides places, exact sizes, tilts and shades.

    Raises:
        ValueError: the spec names an unknown scene, class, colour or size, or holds no thing or more than four.
    """
    _check(spec)
    picture = scenes.paint(spec.scene, rng)
    top, bottom = 2, HEIGHT - 2
    if spec.sign:
        sign_top, sign_bottom = _hang_sign(picture, spec.sign, rng)
        top, bottom = (sign_bottom + 1, bottom) if sign_top < HEIGHT // 2 else (top, sign_top - 1)

    owner = np.zeros((HEIGHT, WIDTH), np.int8)  # which thing is seen at a pixel: its position in the spec plus 1
    visible_from: list[int] = []
    boxes = []
    for position, thing in enumerate(spec.things):
        low, high = (MAIN_SIDES if position == 0 else OTHER_SIDES)[thing.size]
        sprite = shapes.draw(thing.label, _shade(PALETTE[thing.colour], rng), int(rng.integers(low, high + 1)),
                             float(rng.uniform(-12, 12)), bool(rng.integers(2)))  # fmt: skip
        mask = np.asarray(sprite.getchannel("A")) > 96
        left, upper = _place(mask, owner, visible_from, (top, bottom), position == 0, rng)
        visible_from.append(int(mask.sum()))
        owner[upper : upper + mask.shape[0], left : left + mask.shape[1]][mask] = position + 1
        picture.paste(sprite, (left, upper), sprite)
        boxes.append((left, upper, left + mask.shape[1], upper + mask.shape[0]))
    return Scene(_photograph(picture, rng), boxes, caption(spec))


def jpeg(image: Image.Image) -> bytes:
    """The bytes of `image` as the data set stores it and the checkpoints were trained on it: 8 to 12 KB."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _check(spec: Spec) -> None:
    if not 1 <= len(spec.things) <= 4:
        raise ValueError(f"a picture shows 1 to 4 things, this spec has {len(spec.things)}")
    named = [("scene", spec.scene, SCENES)]
    for thing in spec.things:
        named += [("class", thing.label, CLASSES), ("colour", thing.colour, COLOURS), ("size", thing.size, SIZES)]
    for kind, name, allowed in named:
        if name not in allowed:
            raise ValueError(f"unknown {kind} {name!r}; expected one of {', '.join(allowed)}")


def _shade(colour: shapes.Colour, rng: np.random.Generator) -> shapes.Colour:
    red, green, blue = np.clip(np.asarray(colour) + rng.integers(-12, 13, 3), 0, 255).tolist()
    return red, green, blue


def _place(mask: np.ndarray, owner: np.ndarray, visible_from: list[int], rows: tuple[int, int], is_main: bool,
           rng: np.random.Generator) -> tuple[int, int]:  # fmt: skip
    """Find a place, left and top, where a thing hides no more than it may of those already there.

    Args:
        mask: (height, width), what the thing covers.
        owner: (HEIGHT, WIDTH), which thing is seen at a pixel, 0 for none.
        visible_from: pixels that each of the things so far covers.
        rows: first and last row that a thing may take.
        is_main: the main thing stands near the middle, the others anywhere.
    """
    height, width = mask.shape
    first, last = rows[0], max(rows[0], rows[1] - height)
    best, best_visible = (0, 0), -1.0
    for _ in range(TRIES):
        if is_main:
            left = int(np.clip(rng.normal((WIDTH - width) / 2, 22), 2, WIDTH - width - 2))
        else:
            left = int(rng.integers(2, WIDTH - width - 1))
        upper = min(int(rng.integers(first, last + 1)), HEIGHT - height)
        hidden = np.bincount(owner[upper : upper + height, left : left + width][mask], minlength=len(visible_from) + 1)
        seen = np.bincount(owner.ravel(), minlength=len(visible_from) + 1)
        visible = min([1.0, *(
            (seen[k] - hidden[k]) / total for k, total in enumerate(visible_from, start=1)
        )])  # fmt: skip
        if visible >= MIN_VISIBLE:
            return left, upper
        if visible > best_visible:
            best, best_visible = (left, upper), visible
    return best


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font ships, so that pictures are the same on every machine.
    return ImageFont.truetype(_FONT, size, layout_engine=ImageFont.Layout.BASIC)


def _sign_lines(text: str) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """Set the words in one line if they are readable so, else in two, as large as fits."""
    words = text.split()
    layouts = [[words]] + [[words[:k], words[k:]] for k in range(1, len(words))]
    best: tuple[float, list[str], ImageFont.FreeTypeFont] | None = None
    for layout in layouts:
        lines = ["  ".join(line) for line in layout]  # wide gaps: text recognisers join words that stand close
        for size in SIGN_FONT_SIZES:
            if max(_font(size).getlength(line) for line in lines) <= SIGN_MAX_WIDTH:
                score = min(size, 20) - 4 * len(lines)
                if best is None or score > best[0]:
                    best = score, lines, _font(size)
                break
    if best is None:
        raise ValueError(f"the sign {text!r} is too long for a picture {WIDTH} pixels wide")
    return best[1], best[2]


def _hang_sign(picture: Image.Image, text: str, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a board with dark words near the top or the bottom; the rows it takes."""
    lines, font = _sign_lines(text)
    line_height = round(font.size * 1.3)
    width = round(max(font.getlength(line) for line in lines)) + 20
    height = line_height * len(lines) + 8
    left = int(rng.integers(4, WIDTH - width - 3))
    top = int(rng.integers(3, 8)) if rng.random() < 0.6 else HEIGHT - height - int(rng.integers(3, 8))
    draw = ImageDraw.Draw(picture)
    paper, ink = SIGN_PAPER[rng.integers(len(SIGN_PAPER))], SIGN_INK[rng.integers(len(SIGN_INK))]
    draw.rectangle((left, top, left + width, top + height), fill=paper, outline=(70, 62, 54), width=2)
    for number, line in enumerate(lines):
        x = left + width / 2
        y = top + 4 + line_height * (number + 0.5)
        draw.text((x, y), line, font=font, fill=ink, anchor="mm")
    return top, top + height


def _photograph(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Vary exposure a little and add grain, so that no two pictures share their background's pixels."""
    grain = rng.integers(-4, 5, (HEIGHT, WIDTH, 1))
    pixels = np.asarray(picture).astype(np.float32) * rng.uniform(0.92, 1.06) + grain
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
