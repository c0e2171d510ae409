"""A served model that goes away or never answers, through the real stage command: nothing lost, no secret shown."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.settings import yaml
from tests.conftest import ROOT
from tests.project import Project, wait_for
from tests.robustness.conftest import BATCH, CAPTIONS, COUNT, use
from tests.robustness.test_kills import STAGE

KEY = "sk-of-the-tests-1234567890"


class Process:
    """The server of tests/pipeline/extractors/chat_server.py, as a process."""

    def __init__(self, log: Path, seconds: float, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.pipeline.extractors.chat_server", str(port), str(log), str(seconds)]
        self.log = log
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def answered(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").split() if self.log.exists() else []

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def served(project: Project) -> Project:
    """The project, captioned by a server whose address the environment has to give."""
    use(project, "MeanColour")
    path = project.folder / "params.yaml"
    params = yaml.load(path).values
    del params["captions"]["faulty:MeanColour"]
    params["captions"]["extractor"] = "http"
    params["execution"]["http"] = {"requests": BATCH, "attempts": 2}
    path.write_text(yaml.dump(params), encoding="utf-8")
    project.environment = {"SIGHTREAD_HTTP_KEY": KEY}
    return project


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()


def test_a_killed_server_loses_nothing_that_it_answered(
    served: Project, processes: list[Process], tmp_path: Path
) -> None:
    """The stage ends with one message; with a server at another address the next run asks for what is missing alone."""
    first = Process(tmp_path / "first", 0.05)
    processes.append(first)
    served.environment["SIGHTREAD_HTTP_URL"] = f"http://127.0.0.1:{first.port}/v1"
    command, options = served.command(*STAGE)
    stage = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    wait_for(lambda: stage.poll() is not None or len(first.answered) >= 3 * BATCH)
    first.kill()
    output, _ = stage.communicate()
    assert stage.returncode == 2, output
    assert f"\nerror: captions.http: http://127.0.0.1:{first.port}/v1 does not answer: Connection" in f"\n{output}"
    assert "Traceback" not in output
    assert not (served.folder / CAPTIONS).exists()
    kept = served.results_kept()
    assert 3 * BATCH <= len(first.answered) <= kept <= len(first.answered) + BATCH, "in flight as it was killed"

    second = Process(tmp_path / "second", 0.0)
    processes.append(second)
    served.environment["SIGHTREAD_HTTP_URL"] = f"http://127.0.0.1:{second.port}/v1"
    output = served.run(*STAGE)
    assert f"{COUNT - kept} read, {kept} from the store, 0 failed; {COUNT - kept} requests, " in output
    assert len(second.answered) == COUNT - kept
    assert not set(first.answered) & set(second.answered)

    second.kill()
    assert f"0 read, {COUNT} from the store, 0 failed\n" in served.run(*STAGE), "without any server"


def test_the_key_and_the_address_are_in_no_file(served: Project, processes: list[Process], tmp_path: Path) -> None:
    server = Process(tmp_path / "log", 0.0)
    processes.append(server)
    served.environment["SIGHTREAD_HTTP_URL"] = address = f"http://127.0.0.1:{server.port}/v1"
    output = served.run(*STAGE)
    record = json.loads((served.folder / "metrics/runs/captions.json").read_text())
    assert record["fingerprint"]["model"] == "Qwen/Qwen3-VL-8B-Instruct"
    files = [
        path
        for top in (served.folder, served.store)
        for path in top.rglob("*")
        if path.is_file() and path != server.log
    ]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert KEY.encode() not in content, path
        assert address.encode() not in content, path
    assert KEY not in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_waits_for_a_server_leaves_at_once(
    served: Project, processes: list[Process], tmp_path: Path, number: signal.Signals
) -> None:
    server = Process(tmp_path / "log", 300.0)
    processes.append(server)
    served.environment["SIGHTREAD_HTTP_URL"] = f"http://127.0.0.1:{server.port}/v1"
    stage = served.start(*STAGE)
    wait_for(lambda: stage.poll() is not None or established(server) >= BATCH)
    begin = time.monotonic()
    os.kill(stage.pid, number)
    assert stage.wait() == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert time.monotonic() - begin < 10


def established(server: Process) -> int:
    """Connections that the server has."""
    return sum(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process(server.process.pid).net_connections())
