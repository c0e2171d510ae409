"""Models that fail, through the real stage command: the right rows, and nothing kept that is not a result."""

import signal
from pathlib import Path

import pytest

from tests.project import Project
from tests.robustness.conftest import BATCH, CAPTIONS, COUNT, redden, use
from tests.robustness.test_kills import STAGE, reads, undisturbed

ALL = [f"{number:03}.png" for number in range(COUNT)]


def test_a_model_that_raises_on_the_nth_batch_costs_a_second_try(project: Project, tmp_path: Path) -> None:
    expected = undisturbed(project)
    use(project, "NthBatch", nth=3, log=str(tmp_path / "log"))
    assert f"{COUNT} read, 0 from the store, 0 failed" in project.run(*STAGE)
    assert (project.folder / CAPTIONS).read_bytes() == expected
    assert reads(tmp_path / "log") == COUNT + BATCH


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        ("Raising", "RuntimeError: a kernel failed"),
        ("NotANumber", "ValueError: score: expected a finite number, found nan"),
    ],
)
def test_pictures_that_a_model_fails_on_are_rows_and_no_others(project: Project, extractor: str, message: str) -> None:
    bad = redden(project, 5, 6, 30)
    project.run("python", "-m", "stages.images")
    expected = undisturbed(project).splitlines()
    use(project, extractor)
    assert (
        f"{COUNT - 3} read, 0 from the store, 3 failed; to try again what failed here: "
        "dvc repro --force --single-item captions"
    ) in project.run(*STAGE)
    rows = project.rows(CAPTIONS)
    assert [row["image"] for row in rows] == ALL
    assert {row["image"]: (row["status"], row["error"], row["captions"]) for row in rows if row["status"] != "ok"} == {
        name: ("failed", message, []) for name in bad
    }
    lines = (project.folder / CAPTIONS).read_bytes().splitlines()
    assert [line for line, row in zip(lines, rows, strict=True) if row["status"] == "ok"] == [
        line for line, name in zip(expected, ALL, strict=True) if name not in bad
    ]
    use(project, "MeanColour")  # of the same fingerprint: the model is mended
    assert f"3 read, {COUNT - 3} from the store, 0 failed" in project.run(*STAGE), "failures are tried again"
    assert (project.folder / CAPTIONS).read_bytes().splitlines() == expected


def test_a_native_crash_on_a_picture_is_its_row_in_the_next_run(project: Project, tmp_path: Path) -> None:
    [bad] = redden(project, 5)
    project.run("python", "-m", "stages.images")
    expected = undisturbed(project).splitlines()
    use(project, "Crashing")
    project.run(*STAGE, expect=-signal.SIGSEGV)
    assert not (project.folder / CAPTIONS).exists()
    assert "1 failed; to try again what failed here" in project.run(*STAGE)
    lines = (project.folder / CAPTIONS).read_bytes().splitlines()
    rows = project.rows(CAPTIONS)
    assert [(row["image"], row["status"], row["error"]) for row in rows if row["status"] != "ok"] == [
        (bad, "failed", "the process that read it ended with SIGSEGV")
    ]
    assert [line for line, row in zip(lines, rows, strict=True) if row["status"] == "ok"] == [
        line for line, name in zip(expected, ALL, strict=True) if name != bad
    ]


@pytest.mark.parametrize("really", [False, True], ids=["as torch says it", "MemoryError"])
def test_a_model_that_runs_out_of_memory_gets_smaller_batches(project: Project, tmp_path: Path, really: bool) -> None:
    expected = undisturbed(project)
    use(project, "Hungry", fits=2, really=really, log=str(tmp_path / "log"))
    assert f"{COUNT} read, 0 from the store, 0 failed" in project.run(*STAGE)
    assert (project.folder / CAPTIONS).read_bytes() == expected
    assert reads(tmp_path / "log") == COUNT


def test_a_model_too_large_for_any_picture_is_an_error(project: Project) -> None:
    """Where the store says that it has been otherwise; with nothing read at all, the run ends with the error."""
    use(project, "Hungry", fits=0)
    output = project.run(*STAGE, expect=2)
    assert f"error: captions: the extractor failed on each of the {COUNT} pictures that it was given" in output
    assert "RuntimeError: CUDA out of memory" in output
    assert "Traceback" not in output
    assert not (project.folder / CAPTIONS).exists()
    use(project, "MeanColour")
    project.run(*STAGE)
    bad = redden(project, 5, 6, 30)
    project.run("python", "-m", "stages.images")
    use(project, "Hungry", fits=0)
    assert f"0 read, {COUNT - 3} from the store, 3 failed" in project.run(*STAGE)
    assert [row["image"] for row in project.rows(CAPTIONS)] == ALL
    assert [row["image"] for row in project.rows(CAPTIONS) if "out of memory" in (row["error"] or "")] == bad


def test_a_model_that_fails_on_everything_stops_with_one_message(tmp_path: Path) -> None:
    from tests.robustness.conftest import prepared

    project = prepared(tmp_path / "project", 80)
    use(project, "Broken")
    output = project.run(*STAGE, expect=2)
    assert "error: captions: the extractor failed on 64 pictures in a row" in output
    assert "RuntimeError: broken for good" in output
    assert output.count("Traceback") == 1, "of a class of one's own: where it failed for the first time"
    assert "Traceback" not in output[output.index("error: captions") :]
    assert not (project.folder / CAPTIONS).exists()
