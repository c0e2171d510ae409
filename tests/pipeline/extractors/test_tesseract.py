"""Tesseract through its command line: its table read, its absence told, and real posters."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import TextLine
from pipeline.extractors.registry import choose
from pipeline.extractors.tesseract import Tesseract, read_tsv
from tests.pipeline.extractors.cases import written

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="tesseract is not installed (apt-get install tesseract-ocr)"
)

HEADER = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n"


def reader(**options: object) -> Tesseract:
    extractor = choose("ocr", {"extractor": "tesseract", "tesseract": options}).create()
    assert isinstance(extractor, Tesseract)
    return extractor


def row(level: int, block: int, line: int, word: int, box: tuple[int, int, int, int], conf: str, text: str) -> str:
    return "\t".join(map(str, (level, 1, block, 1, line, word, *box, conf, text))) + "\n"


def test_words_become_lines() -> None:
    table = (
        HEADER
        + row(4, 1, 1, 0, (0, 0, 90, 30), "-1", "")
        + "".join(
            [
                row(5, 1, 1, 1, (10, 12, 30, 10), "96.5", "OPEN"),
                row(5, 1, 1, 2, (50, 10, 40, 12), "90.5", "9\tto 5"),
                row(5, 1, 2, 1, (10, 40, 20, 9), "80.0", "daily"),
                row(5, 2, 1, 1, (0, 0, 9, 9), "95.0", " "),
                row(5, 3, 1, 1, (70, 40, 20, 9), "80.0", "beside"),
            ]
        )
    )
    assert list(read_tsv(table)) == [
        TextLine("OPEN 9\tto 5", 0.935, ((10, 10), (90, 10), (90, 22), (10, 22))),
        TextLine("daily", 0.8, ((10, 40), (30, 40), (30, 49), (10, 49))),
        TextLine("beside", 0.8, ((70, 40), (90, 40), (90, 49), (70, 49))),
    ]
    assert list(read_tsv(HEADER)) == list(read_tsv("")) == []


def test_where_it_is_missing_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install tesseract-ocr "):
        choose("ocr", {"extractor": "tesseract"}).require()


@needs_tesseract
def test_a_language_that_is_missing_is_named_with_its_package() -> None:
    choose("ocr", {"extractor": "tesseract"}).require()
    with pytest.raises(UserError, match=r"chi_sim is not installed, .*eng.*apt-get install tesseract-ocr-chi-sim"):
        choose("ocr", {"extractor": "tesseract", "tesseract": {"languages": ["eng", "chi_sim"]}}).require()


@needs_tesseract
def test_words_are_read_where_they_stand() -> None:
    plain = Image.new("RGB", (64, 64), (9, 120, 90))
    [lines, nothing] = reader().extract([written("OPEN TODAY\nSpace Legend"), plain])
    assert [line.text for line in lines] == ["OPEN TODAY", "Space Legend"]
    assert nothing == []
    for line, top in zip(lines, (15, 52), strict=True):
        assert line.score is not None
        assert 0.8 < line.score <= 1
        assert line.polygon is not None
        (left, upper), (right, _), (_, lower), _ = line.polygon
        assert abs(left - 20) < 8
        assert 150 < right < 280
        assert top - 5 < upper < lower < top + 45


@needs_tesseract
def test_a_failure_carries_the_programs_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extractor = reader()
    extractor.fingerprint()
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"tesseract ended with 1: .*eng\.traineddata"):
        extractor.extract([written("OPEN")])


@needs_tesseract
@pytest.mark.real_data
def test_a_poster_is_read(real_data: Path) -> None:
    with Image.open(real_data / "pairs29" / "images" / "16_05_01_760.jpg") as picture:
        [lines] = reader().extract([picture.convert("RGB")])
    assert {"SPACE", "LEGEND", "LAGOS"} <= {word for line in lines for word in line.text.split()}
