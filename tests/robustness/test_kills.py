"""Kills and signals, through the real stage command: no row lost, none twice, the same output as undisturbed."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.project import Project, wait_for
from tests.robustness.conftest import BATCH, CAPTIONS, COUNT, prepared, use

STAGE = ("python", "-m", "stages.captions")
PACE = 0.1  # seconds a batch


_UNDISTURBED: dict[bytes, bytes] = {}  # by manifest: a run takes a second


def undisturbed(project: Project) -> bytes:
    """What the stage writes with an empty store and nobody about. Leaves the project with MeanColour, and no output."""
    use(project, "MeanColour")
    manifest = (project.folder / "data/images.jsonl").read_bytes()
    if manifest not in _UNDISTURBED:
        environment, project.environment = project.environment, {"SIGHTREAD_STORE": f"{project.store}-undisturbed"}
        project.run(*STAGE)
        project.environment = environment
        output = project.folder / CAPTIONS
        _UNDISTURBED[manifest] = output.read_bytes()
        output.unlink()
    return _UNDISTURBED[manifest]


def reads(log: Path) -> int:
    return log.read_text(encoding="utf-8").count("read") if log.exists() else 0


def beside_output(project: Project) -> list[str]:
    folder = (project.folder / CAPTIONS).parent
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.slow  # some three seconds a kill
def test_sigkill_of_the_stage_at_20_random_moments(tmp_path: Path) -> None:
    project = prepared(tmp_path / "project")
    expected = undisturbed(project)
    log = tmp_path / "log"
    use(project, "MeanColour", seconds=PACE, log=str(log))
    rng, output = random.Random(6), project.folder / CAPTIONS
    kills = since_empty = 0
    while kills < 20:
        process = project.start(*STAGE)
        time.sleep(rng.uniform(0, 1.6))
        process.kill()
        struck = process.wait() == -signal.SIGKILL
        kills += struck
        since_empty += struck
        if output.exists():  # through, or killed on its way out: from here with nothing in the store
            assert output.read_bytes() == expected
            assert COUNT <= reads(log) <= COUNT + 2 * BATCH * since_empty
            for file in [*(project.store / "results").glob("*"), output, log]:
                file.unlink()
            since_empty = 0
    project.run(*STAGE)
    assert (project.folder / CAPTIONS).read_bytes() == expected
    assert COUNT <= reads(log) <= COUNT + 2 * BATCH * since_empty, "lost: the batch in hand and one being written"
    assert [row["image"] for row in project.rows(CAPTIONS)] == [f"{number:03}.png" for number in range(COUNT)]
    assert beside_output(project) == ["captions.jsonl"], "what killed runs left is swept"


def test_sigkill_of_the_stage_loses_nothing_that_was_kept(project: Project, tmp_path: Path) -> None:
    expected = undisturbed(project)
    log = tmp_path / "log"
    use(project, "MeanColour", seconds=PACE, log=str(log))
    process = project.start(*STAGE)
    wait_for(lambda: reads(log) >= 4 * BATCH)
    process.kill()
    process.wait()
    assert beside_output(project) != [], "a temporary file is left, and"
    project.run(*STAGE)
    assert beside_output(project) == ["captions.jsonl"], "swept by the next run"
    assert (project.folder / CAPTIONS).read_bytes() == expected
    assert reads(log) <= COUNT + 2 * BATCH


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_leave_cleanly(project: Project, tmp_path: Path, number: int, status: int) -> None:
    expected = undisturbed(project)
    log = tmp_path / "log"
    use(project, "MeanColour", seconds=PACE, log=str(log))
    command, options = project.command(*STAGE)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )
    wait_for(lambda: reads(log) >= 3 * BATCH)
    os.killpg(process.pid, number)  # as a terminal does it: to the stage and all that it started
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert beside_output(project) == []
    project.run(*STAGE)
    assert (project.folder / CAPTIONS).read_bytes() == expected
    assert reads(log) == COUNT, "no picture is read twice"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_images_stage_leaves_cleanly_and_takes_its_decoders_along(project: Project, number: int) -> None:
    from tests.robustness.corpus import progressive_bomb

    (project.folder / "data/images.jsonl").unlink()
    (project.folder / "set/images/000.png").write_bytes(progressive_bomb(3000, 3000, 5000))
    project.edit(images={"max_seconds": 60})
    command, options = project.command("python", "-m", "stages.images")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )
    # Until a decoder works on the large picture.
    wait_for(lambda: any(processor_seconds(child) > 0.5 for child in decoders_of(process.pid)))
    children = decoders_of(process.pid)
    process.send_signal(number)  # to the stage alone
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    assert process.returncode == (143 if number == signal.SIGTERM else 130)
    wait_for(lambda: not any(map(alive, children)), 10)
    assert sorted(path.name for path in (project.folder / "data").iterdir()) == ["posts"]


def processor_seconds(pid: int) -> float:
    try:
        return psutil.Process(pid).cpu_times().user
    except psutil.NoSuchProcess:
        return 0.0


def decoders_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children")
    tasks = Path(f"/proc/{parent}/task")
    if not children.exists():
        return []
    return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_runs_of_a_stage_at_once(project: Project, tmp_path: Path) -> None:
    """In one workspace the second waits; it then finds everything in the store."""
    expected = undisturbed(project)
    log = tmp_path / "log"
    use(project, "MeanColour", seconds=PACE, log=str(log))
    processes = [project.start(*STAGE) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (project.folder / CAPTIONS).read_bytes() == expected
    assert reads(log) == COUNT
    assert beside_output(project) == ["captions.jsonl"]


def test_two_runs_at_once_on_one_store(project: Project, tmp_path: Path) -> None:
    """Of two workspaces, or two outputs, both read; what the first has kept stays, and both outputs are the same."""
    expected = undisturbed(project)
    use(project, "MeanColour", seconds=0.03)
    outputs = [tmp_path / f"{name}.jsonl" for name in "abc"]
    processes = [project.start(*STAGE, "--images", "set/images", "--output", str(output)) for output in outputs]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert [output.read_bytes() == expected for output in outputs] == [True] * 3


@pytest.mark.slow  # DVC itself takes seconds
def test_sigkill_of_dvc_alone_leaves_a_stage_that_the_next_run_waits_for(tmp_path: Path) -> None:
    full = Project.make(tmp_path / "dvc", {"train": 30, "valid": 10, "test": 12})
    (full.folder / "faulty.py").write_bytes(Path(__file__).with_name("faulty.py").read_bytes())
    use(full, "MeanColour")
    full.run("dvc", "repro", "images")
    expected = undisturbed(full)
    log = tmp_path / "log"
    use(full, "MeanColour", seconds=0.5, log=str(log))
    process = full.start("dvc", "repro", "captions")
    wait_for(lambda: reads(log) >= BATCH, 120)
    process.kill()
    process.wait()
    try:
        again = full.run("dvc", "repro", "captions")
    finally:
        if process.pid in {os.getpgid(int(pid.name)) for pid in Path("/proc").glob("[0-9]*") if alive(int(pid.name))}:
            os.killpg(process.pid, signal.SIGKILL)
    assert (full.folder / CAPTIONS).read_bytes() == expected
    distinct = len({row["sha256"] for row in full.rows(CAPTIONS) if row["status"] == "ok"})
    assert reads(log) == distinct, "the stage that lived on and the new one never read the same picture"
    assert " 0 read" in again or f" {distinct} read" not in again
    assert beside_output(full) == ["captions.jsonl"]
