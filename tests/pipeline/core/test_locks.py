"""Locks: a second copy of a stage waits and says for whom, and a lock ends with its process."""

import signal
import threading
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.locks import locked, locked_at_once, stage_lock
from tests.pipeline.core.processes import python

HOLDER = """
import sys, time
from pipeline.core.locks import stage_lock
with stage_lock(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
print("left", flush=True)
"""


def test_a_second_copy_of_a_stage_waits(tmp_path: Path) -> None:
    environment = {"SIGHTREAD_STORE": str(tmp_path / "store")}
    first = python(HOLDER, "ocr", str(tmp_path), "60", **environment)
    assert first.stdout
    assert first.stdout.readline() == "held\n"
    second = python(HOLDER, "ocr", str(tmp_path), "0", **environment)
    others = [
        python(HOLDER, "captions", str(tmp_path), "0", **environment),
        python(HOLDER, "ocr", str(tmp_path / "store"), "0", **environment),
    ]
    assert [other.communicate()[0] for other in others] == ["held\nleft\n"] * 2, "locks of another stage or folder"
    assert second.stderr
    assert f"process {first.pid}" in second.stderr.readline()
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=20)[0] == "held\nleft\n"
    first.communicate()


def test_a_stage_lock_is_free_again_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path))
    with pytest.raises(ZeroDivisionError), stage_lock("views"):
        raise ZeroDivisionError
    with stage_lock("views"):
        pass
    assert capsys.readouterr().err == ""


def test_two_threads_exclude_each_other(tmp_path: Path) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / "lock"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_that_cannot_be_made_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(UserError, match="SIGHTREAD_STORE") as caught, locked(tmp_path / "lock"):
        pass
    assert str(tmp_path / "lock") in str(caught.value)


def test_a_lock_can_be_tried_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with locked(path), locked_at_once(path) as held:
        assert not held
    with locked_at_once(path) as held:
        assert held
        with locked_at_once(path) as again:
            assert not again
