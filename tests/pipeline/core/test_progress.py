"""How far a stage is: a start line after the first batch, signs of life where there is no terminal."""

import re
import time

import pytest

from pipeline.core import progress
from pipeline.core.progress import Progress, muted
from tests.project import wait_for


def test_the_first_batch_tells_how_many_there_are_on_what_and_how_long_it_took(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("captions", "picture", 1010) as bar:
        bar.update(16)
        bar.update(16)
    told = capsys.readouterr().err
    assert re.fullmatch(r"captions: 1,010 pictures on .+; the first 16 took \d+\.\d s\n", told), told


def test_nothing_is_said_of_nothing_and_where_another_process_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("captions", "picture", 0):
        pass
    with Progress("train", "step", 10, quiet=True) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_work_in_portions_is_mute(capsys: pytest.CaptureFixture[str]) -> None:
    with muted(), Progress("captions", "picture", 3) as bar:
        bar.update()
    assert capsys.readouterr().err == ""
    with Progress("captions", "picture", 3, on="a cluster") as bar:
        bar.update(0)
        bar.update()
    assert capsys.readouterr().err.startswith("captions: 3 pictures on a cluster; the first took")


def test_without_a_terminal_there_are_signs_of_life_even_while_nothing_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    told = ""

    def said(times: int) -> bool:
        nonlocal told
        told += capsys.readouterr().err
        return len(re.findall(r"ocr: 1 of 4 pictures after \d+ s, about \d+ s left", told)) >= times

    with Progress("ocr", "picture", 4) as bar:
        bar.update()
        wait_for(lambda: said(2), seconds=10)
    capsys.readouterr()
    time.sleep(0.2)
    assert capsys.readouterr().err == ""  # it has ended with the work
