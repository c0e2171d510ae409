"""Long pictures: cut into strips, every line found once, in pixels of the whole, and in bounded memory."""

import random
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.records import TextLine
from pipeline.extractors._strips import Strip, cut, merged
from tests.conftest import ROOT
from tests.pipeline.extractors.test_rapidocr import reader, texts

WORDS = ["harbour", "market", "window", "silver", "garden", "orange", "tunnel", "winter", "candle", "bridge", "planet"]


def rendered(
    width: int, height: int, size: int, gap: int, words: tuple[int, int] = (1, 2)
) -> tuple[Image.Image, dict[str, tuple[float, float, float, float]]]:
    """A picture with a numbered line of words every `gap` pixels, and the box of each."""
    rng = random.Random(3)
    font = ImageFont.truetype(str(ROOT / "sample" / "font" / "DejaVuSans-Bold.ttf"), size)
    picture = Image.new("RGB", (width, height), (246, 246, 248))
    draw, lines = ImageDraw.Draw(picture), {}
    for number, y in enumerate(range(size, height - 2 * size, gap)):
        text = " ".join([*rng.choices(WORDS, k=rng.randint(*words)), str(100 + number)])
        draw.text((20, y), text, (20, 20, 30), font)
        lines[text] = draw.textbbox((20, y), text, font)
    return picture, lines


def box(line: TextLine) -> tuple[float, float, float, float]:
    xs, ys = zip(*(line.polygon or ()), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def test_a_long_screenshot_is_read_line_by_line() -> None:
    """Thirteen times as tall as wide, as the one of 1080 × 14000 of which nothing was read."""
    picture, lines = rendered(324, 4200, 22, 120)
    [found] = reader().extract([picture])
    assert texts(found) == list(lines), "each once, from top to bottom"
    for line in found:
        for edge, true in zip(box(line), lines[line.text], strict=True):
            assert abs(edge - true) < 12
    [whole] = reader(strips_above=100).extract([picture])
    assert len(set(texts(whole)) & lines.keys()) < len(lines) / 10, "the option switches it off, and nothing is left"


def test_a_line_longer_than_the_overlap_of_a_wide_picture_is_one_line() -> None:
    font = ImageFont.truetype(str(ROOT / "sample" / "font" / "DejaVuSans-Bold.ttf"), 60)
    picture = Image.new("RGB", (4200, 200), (246, 246, 248))
    text = "silver harbour market garden tunnel winter candle bridge planet rocket museum"
    ImageDraw.Draw(picture).text((600, 60), text, (20, 20, 30), font)
    [[line]] = reader(limit_side_len=736).extract([picture])
    assert line.text == text
    assert abs(box(line)[0] - 600) < 20


def test_a_picture_like_a_thread_takes_little_memory() -> None:
    """RapidOCR makes it 32 × 60,000, and its detector, with limit_type min, 320 × 600,000."""
    code = """
import resource
from PIL import Image
from tests.pipeline.extractors.test_rapidocr import reader
extractor = reader(1, limit_type="min", limit_side_len=320)
extractor.extract([Image.new("RGB", (300, 400))])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
assert extractor.extract([Image.new("RGB", (1, 2000))]) == [[]]
assert extractor.extract([Image.new("RGB", (2000, 1))]) == [[]]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_000_000, "kilobytes"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1080, 2400), [(0, 2400)]),
        ((400, 1000), [(0, 1000)]),
        ((1000, 4000), [(0, 1500), (833, 2333), (1667, 3167), (2500, 4000)]),
        ((100, 1000), [(0, 480), (260, 740), (520, 1000)]),
        ((2000, 200), [(0, 2000)]),
        ((5000, 200), [(0, 2000), (1500, 3500), (3000, 5000)]),
        ((1, 400), [(0, 400)]),
    ],
)
def test_where_pictures_are_cut(size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    strips = cut(*size, above=2.5, ratio=1.5, overlap=0.25, most=2000)
    assert [(strip.begin, strip.end) for strip in strips] == expected
    assert [strip.first for strip in strips] == [True] + [False] * (len(strips) - 1)
    assert [strip.last for strip in strips] == [False] * (len(strips) - 1) + [True]


def test_strips_cover_the_picture_and_overlap_enough() -> None:
    rng = random.Random(0)
    for _ in range(300):
        size = (rng.randint(1, 3000), rng.randint(1, 9000))
        overlap = rng.uniform(0.05, 0.7)
        strips = cut(*size, above=rng.uniform(1, 4), ratio=rng.uniform(1, 3), overlap=overlap, most=2000)
        assert (strips[0].begin, strips[-1].end) == (0, max(size))
        assert len({strip.end - strip.begin for strip in strips}) == 1
        for one, following in pairwise(strips):
            assert one.begin < following.begin
            assert one.end - following.begin > overlap * (one.end - one.begin) - 1


UPPER, LOWER = Strip(0, 1000, True, last=False), Strip(750, 1750, True, first=False)


def line(text: str, top: float, bottom: float, score: float = 0.9, left: float = 0, right: float = 300) -> TextLine:
    return TextLine(text, score, ((left, top), (right, top), (right, bottom), (left, bottom)))


def together(own: list[TextLine], others: list[TextLine], again: Any = None) -> list[str]:
    return sorted(texts(merged([UPPER, LOWER], [own, others], again or (lambda _: None))))


def test_a_line_that_both_strips_see_is_kept_once_with_the_better_score() -> None:
    assert together([line("a", 800, 850, 0.8)], [line("A", 802, 851, 0.9)]) == ["A"]
    assert together([line("a", 800, 850, 0.95)], [line("A", 802, 851, 0.9)]) == ["a"]
    assert together([line("a", 800, 850), line("b", 810, 845)], []) == ["a", "b"], "of one strip, both stay"


def test_a_line_that_is_cut_is_taken_from_where_it_is_whole() -> None:
    assert together([line("ha", 970, 1000, 0.99)], [line("half", 970, 1020, 0.6)]) == ["half"]
    assert together([line("half", 740, 790, 0.6)], [line("lf", 750, 790, 0.99)]) == ["half"]
    assert together([line("edge", 0, 40)], [line("end", 1700, 1750)]) == ["edge", "end"], "the picture's own edges"


def test_pieces_that_no_strip_sees_as_a_whole_are_read_again() -> None:
    boxes = []

    def again(box: tuple[float, float, float, float]) -> TextLine:
        boxes.append(box)
        return line("vertical sign", box[1], box[3])

    pieces = [line("vertical si", 400, 1000, left=10, right=60)], [line("cal sign", 750, 1350, left=12, right=58)]
    assert together(*pieces, again=again) == ["vertical sign"]
    assert boxes == [(10, 400, 60, 1350)]
    assert together(*pieces) == ["cal sign", "vertical si"], "where that gives nothing, the pieces stay"
    apart = [line("one", 600, 1000, left=10, right=60)], [line("two", 750, 1200, left=200, right=250)]
    assert together(*apart, again=again) == ["one", "two"]
