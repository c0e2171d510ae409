"""Reading words off pictures: what RapidOCR is made to do here that it does not do by itself."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import TextLine
from pipeline.extractors import rapidocr
from pipeline.extractors._lines import reading_order
from pipeline.extractors.rapidocr import RapidOcr, SpacingDecoder
from pipeline.extractors.registry import choose
from pipeline.settings.params import ExecutionParams
from tests.pipeline.extractors.cases import written


def reader(threads: int = 2, **options: object) -> RapidOcr:
    extractor = choose("ocr", {"extractor": "rapidocr", "rapidocr": options}).create(
        ExecutionParams(ocr_threads=threads)
    )
    assert isinstance(extractor, RapidOcr)
    extractor.load()
    return extractor


def texts(lines: list[TextLine]) -> list[str]:
    return [line.text for line in lines]


def test_words_are_read_where_they_stand() -> None:
    [lines] = reader().extract([written("OPEN 9 TO 5\nSpace Legend")])
    assert texts(lines) == ["OPEN 9 TO 5", "Space Legend"]
    for line, top in zip(lines, (15, 52), strict=True):
        assert line.score is not None
        assert 0.9 < line.score <= 1
        assert line.polygon is not None
        (left, upper), (right, _), (_, lower), _ = line.polygon
        assert abs(left - 20) < 12
        assert 150 < right < 280
        assert top - 10 < upper < lower < top + 52
    assert reader().extract([Image.new("RGB", (64, 64), (90, 120, 90))]) == [[]]


def test_threads_change_nothing() -> None:
    pictures = [written(f"Word {number}\nSTREET {number * 91}") for number in range(6)]
    assert reader(1).extract(pictures) == reader(3).extract(pictures)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("rapidocr.utils.download_file.DownloadFile.run", refuse)
    assert texts(reader(use_cls=True).extract([written("EXIT")])[0]) == ["EXIT"]


def test_damaged_models_are_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {part: Path(shutil.copy(file, tmp_path)) for part, file in rapidocr._model_files(True).items()}
    files["Rec"].write_bytes(files["Rec"].read_bytes()[:10_000])
    monkeypatch.setattr(rapidocr, "_model_files", lambda use_cls: files)
    with pytest.raises(
        UserError, match=rf"its models in {tmp_path} cannot be loaded; install once more .*: .*{files['Rec'].name}"
    ):
        reader().load()


def test_it_can_be_closed_and_used_again() -> None:
    extractor = reader()
    assert extractor.extract([written("EXIT")])
    extractor.close()
    assert texts(extractor.extract([written("EXIT")])[0]) == ["EXIT"]


def line(text: str, x: float, y: float, height: float = 20, width: float = 50) -> TextLine:
    return TextLine(text, 0.9, ((x, y), (x + width, y), (x + width, y + height), (x, y + height)))


def test_reading_order_goes_by_rows() -> None:
    lines = [
        line("1", 10, 10),
        line("2", 100, 14),
        line("3", 200, 6),
        line("4", 10, 40),
        line("5", 90, 36),
        line("6", 10, 80, 60),
        line("7", 80, 95),
        line("8", 140, 118),
    ]
    for seed in range(20):
        random.Random(seed).shuffle(lines)
        assert texts(reading_order(lines)) == ["1", "2", "3", "4", "5", "6", "7", "8"]
    large = [TextLine(one.text, one.score, tuple((20 * x, 20 * y) for x, y in one.polygon or ())) for one in lines]
    assert texts(reading_order(large)) == ["1", "2", "3", "4", "5", "6", "7", "8"], "sizes do not matter"
    assert reading_order([]) == []


CHARACTERS = ["blank", *"abcdefgh", " "]


def decode(steps: list[dict[str, float]], threshold: float = 0.2) -> tuple[str, float]:
    """Decode steps that give probabilities of some characters; the rest is blank."""
    line = np.zeros((len(steps), len(CHARACTERS)), np.float32)
    for row, step in zip(line, steps, strict=True):
        for character, probability in step.items():
            row[CHARACTERS.index(character)] = probability
        row[0] = 1 - row.sum()
    [(text, score)], _ = SpacingDecoder(CHARACTERS, threshold)(line[None])
    return text, score


def letters(word: str) -> list[dict[str, float]]:
    return [step for letter in word for step in ({letter: 0.9}, {})]


def test_decoding_collapses_repeats_and_blanks() -> None:
    assert decode([{"a": 0.9}, {"a": 0.7}, {}, {"a": 0.8}, {"b": 0.6}]) == ("aab", pytest.approx((0.9 + 0.8 + 0.6) / 3))
    assert decode([{}, {}]) == ("", 0.0)
    assert decode([*letters("ab"), {" ": 0.9}, *letters("cd")])[0] == "ab cd"


def test_a_likely_space_that_lost_to_blank_is_found() -> None:
    joined = [*letters("abc"), {" ": 0.3}, *letters("def")]
    assert decode(joined)[0] == "abc def"
    assert decode(joined, threshold=0.4)[0] == "abcdef"
    assert decode([*letters("abc"), {" ": 0.1}, *letters("def")])[0] == "abcdef"
    assert decode([*letters("abc"), {" ": 0.9}, {" ": 0.3}, *letters("def")])[0] == "abc def", "never two"


def test_a_letter_spaced_word_stays_whole() -> None:
    assert decode([step for letter in "abcdefg" for step in ({letter: 0.9}, {" ": 0.3})])[0] == "abcdefg"


@pytest.mark.real_data
def test_posters_are_read(real_data: Path) -> None:
    def read(name: str) -> str:
        with Image.open(real_data / "pairs29" / "images" / name) as picture:
            return " ".join(texts(reader().extract([picture.convert("RGB")])[0]))

    poster = read("16_05_01_760.jpg").split()
    assert {"SPACE", "LEGEND", "LAGOS"} <= set(poster)
    assert "TEXAS RANGERS VS. SAN FRANCISCO GIANTS" in read("16_05_01_606.jpg")
    assert "Asian Times" in read("16_05_01_275.jpg")
