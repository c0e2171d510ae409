"""Pictures that end the whole process: rows of their own in the next run, while all others are read."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.pipeline.engine.bench import Bench, MeanColour, figures, make_pictures
from tests.pipeline.engine.test_run import ROOT, kept, undisturbed
from tests.project import wait_for

__all__ = ["undisturbed"]


def start(
    bench: Bench, way: str, cls: str = "Deadly", seconds: float = 0.0, batch_size: int = 4
) -> "subprocess.Popen[str]":
    log = bench.folder.parent / "log"
    log.unlink(missing_ok=True)
    arguments = [
        str(one) for one in (bench.folder, bench.output, bench.store.folder, cls, way, log, seconds, batch_size)
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.pipeline.engine.deadly", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(bench: Bench, way: str, cls: str = "Deadly", batch_size: int = 4) -> tuple[int, str]:
    """Status, and the last line of what is printed."""
    process = start(bench, way, cls, batch_size=batch_size)
    output, errors = process.communicate(timeout=60)
    lines = (errors if process.returncode else output).strip().splitlines()
    return process.returncode, lines[-1] if lines else ""


def logged(bench: Bench) -> list[tuple[str, str]]:
    lines = (bench.folder.parent / "log").read_text(encoding="ascii").splitlines()
    return [(pid, what) for pid, what in map(str.split, lines)]


def in_hand(bench: Bench) -> list[list[list[str]]]:
    return [json.loads(file.read_bytes()) for file in (bench.store.folder / "in-hand").glob("*.json")]


def redden(bench: Bench, number: int) -> str:
    name = f"0_{number:04}.png"
    Image.new("RGB", (9, 9), (255, 0, number)).save(bench.folder / name)
    return name


WAYS = {
    "null": "SIGSEGV",
    "memory": "SIGKILL, as the system ends one that takes too much memory",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_that_crashes_the_process_is_a_row_of_the_next_run(bench: Bench, way: str) -> None:
    name = redden(bench, 6)
    code, _ = run(bench, way)
    assert code in (-signal.SIGSEGV, -signal.SIGKILL)
    assert not bench.output.exists()
    code, line = run(bench, way)
    assert code == 0
    assert line.endswith(" 1 failed; to try again what failed here: run the same command once more")
    row = bench.rows()[name]
    assert (row["status"], row["error"], row["captions"]) == (
        "failed",
        f"the process that read it ended with {WAYS[way]}",
        [],
    )
    assert sum(one["status"] == "ok" for one in bench.rows().values()) == 19


def test_what_crashes_in_preparation_is_found_too(bench: Bench) -> None:
    """Several batches are then in hand at once, and only one of them is to blame."""
    name = redden(bench, 6)
    assert run(bench, "null", "DeadlyPreparation")[0] == -signal.SIGSEGV
    assert run(bench, "null", "DeadlyPreparation")[0] == 0
    assert [row["image"] for row in bench.rows().values() if row["status"] != "ok"] == [name]


def test_the_picture_is_tried_again_with_care_and_forgotten_once_it_is_read(bench: Bench) -> None:
    redden(bench, 6)
    run(bench, "abort")
    run(bench, "abort")
    first = bench.output.read_bytes()
    assert [len(batches) for batches in in_hand(bench)] == [1]
    make_pictures(bench.folder, 4, seed=3)
    code, line = run(bench, "abort")
    assert (code, line.partition(";")[0]) == (0, "24 pictures: 4 read, 19 from the store, 1 failed")
    assert bench.output.read_bytes()[: len(first)] == first
    assert [what for _, what in logged(bench)] == ["load", "1", "load", "4"], "by itself, in a child; then the others"
    code, line = run(bench, "none")
    assert (code, line) == (0, "24 pictures: 1 read, 23 from the store, 0 failed")
    assert in_hand(bench) == []
    assert list((bench.store.folder / "in-hand").iterdir()) == []


def test_batches_that_no_picture_is_to_blame_for_stay_as_they_were(tmp_path: Path, undisturbed: bytes) -> None:
    """After a kill or a loss of power: the child reads the very batches that were in hand."""
    bench = Bench(tmp_path, 80)
    process = start(bench, "none", seconds=0.05)
    wait_for(lambda: kept(bench) >= 8)
    process.kill()
    process.communicate()
    [held] = in_hand(bench)
    assert 1 <= len(held) <= 5
    assert {len(batch) for batch in held} == {4}
    assert run(bench, "none")[0] == 0
    assert bench.output.read_bytes() == undisturbed
    assert {what for _, what in logged(bench)} == {"load", "4"}, "whole batches, none of them halved"
    assert len({pid for pid, _ in logged(bench)}) == 2
    assert in_hand(bench) == []


def test_a_run_that_ends_in_order_leaves_nothing_in_hand(bench: Bench) -> None:
    process = start(bench, "none", seconds=1)
    wait_for(lambda: kept(bench) > 0)
    assert len(in_hand(bench)) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert list((bench.store.folder / "in-hand").iterdir()) == []


def test_the_batches_of_a_run_that_lives_are_its_own(bench: Bench, tmp_path: Path) -> None:
    process = start(bench, "none", seconds=1)
    wait_for(lambda: kept(bench) >= 4)
    process.send_signal(signal.SIGSTOP)
    try:
        held, stored = in_hand(bench), kept(bench)
        assert stored < 20, "it lives"
        bench.output = tmp_path / "other.jsonl"
        extractor = MeanColour()
        assert figures(bench.run(extractor)) == (20 - stored, stored, 0)
        assert extractor.seen == [4] * ((20 - stored) // 4), "by itself, in this process, what the other has in hand"
        assert in_hand(bench) == held
    finally:
        process.kill()
        process.communicate()


def test_an_extractor_that_ends_every_process_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 24)
    for number in range(12):
        redden(bench, number)
    # All of them in one batch: how many batches are prepared ahead when the first run dies is a matter of time.
    assert run(bench, "abort", "DeadlyPreparation", batch_size=12)[0] == -signal.SIGABRT
    code, line = run(bench, "abort", "DeadlyPreparation", batch_size=12)
    assert code == 1
    assert "DeadlyPreparation ends its process on one picture after another, lastly on 0_0007.png" in line
    assert "SIGABRT" in line


def test_a_model_that_cannot_be_loaded_is_nobodys_row(bench: Bench) -> None:
    redden(bench, 6)
    run(bench, "abort")
    code, line = run(bench, "unloadable")
    assert code == 1
    assert line.endswith("Deadly could not be loaded: RuntimeError: no weights")
    assert not bench.output.exists()
    assert len(in_hand(bench)) == 1, "it is still known what was in hand"
