"""Training in two processes: the gradients of one, files written once, resuming after a kill."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ner.training.work_folder import COMPLETE
from pipeline.core.errors import UserError
from tests.ner.conftest import small_params
from tests.ner.training.test_run import assert_same, first_step, run, weights
from tests.project import wait_for

ROOT = Path(__file__).resolve().parents[3]

GRADIENTS = """
import os, sys, torch, pytest
from pathlib import Path
from ner.models import losses
from tests.ner.training.test_run import first_step
torch.set_num_threads(1)
encoder, folder = map(Path, sys.argv[1:])
with pytest.MonkeyPatch.context() as patch:
    if os.environ["RANK"] == "0":
        patch.setattr(losses, "SMALL", 0)
    gradients = first_step(encoder, folder / "both", 1, patch)
torch.save(gradients, folder / f"gradients-{os.environ['RANK']}.pt")
"""
WAITING = """
import os, sys, time
from pathlib import Path
from ner.training import processes
processes.end_with_launcher()
Path(sys.argv[1], os.environ["RANK"]).write_text(str(os.getpid()))
time.sleep(600)
"""
GOING_AHEAD = """
import os, sys, time
from pathlib import Path
from ner.training import processes
folder = Path(sys.argv[1])
(folder / f"started-{os.environ['RANK']}").touch()
while processes.is_first() and not (folder / "go").exists():
    time.sleep(0.05)
processes.let_first_go_ahead()
(folder / f"passed-{os.environ['RANK']}").touch()
"""
TRAINING = """
import sys, torch
from pathlib import Path
from pipeline.core.errors import UserError
from tests.ner.conftest import small_params
from tests.ner.training.test_run import run
torch.set_num_threads(1)
encoder, folder = map(Path, sys.argv[1:])
print(run(small_params(encoder, epochs=4), folder))
"""
REFUSED = (
    TRAINING.replace("print(run", "try:\n    print(run")
    + """
except UserError as error:
    print(error)
"""
)
LOSING = (
    REFUSED.replace("epochs=4), folder", "epochs=400), folder, ddp_timeout=15").replace("import sys", "import os, sys")
    + """
    sys.exit(2)
"""
)


def launch(script: Path, *arguments: Path, n: int = 2) -> subprocess.Popen[str]:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(n),
        script,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *arguments], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow  # three starts of torch
def test_two_processes_have_the_gradients_of_one(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout, the same eight tweets: four in each process, or all in one.

    One process has both views in one graph, the other takes the teacher's gradient first, as their batches decide.
    """
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS, encoding="utf-8")
    process = launch(script, xlm_r_folder, tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    alone = first_step(xlm_r_folder, tmp_path / "alone", 1, monkeypatch)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        assert len(together) == len(alone)
        for gradient, other in zip(together, alone, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_processes_killed_resume_to_the_same_tagger(xlm_r_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "training.py"
    script.write_text(TRAINING, encoding="utf-8")
    whole = launch(script, xlm_r_folder, tmp_path / "whole")
    killed = launch(script, xlm_r_folder, tmp_path / "killed")
    work = tmp_path / "killed" / "work"
    deadline = time.monotonic() + 200
    while not list(work.glob(f"checkpoint-*/{COMPLETE}")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for pid in [*(child.pid for child in psutil.Process(killed.pid).children(recursive=True)), killed.pid]:
        os.kill(pid, signal.SIGKILL)
    killed.communicate()
    output, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors
    assert len(set(output.splitlines())) == 1  # both processes saw the same scores
    assert errors.count("epoch 4/4") == 1
    again = launch(script, xlm_r_folder, tmp_path / "killed")
    resumed, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert errors.count("resuming after epoch") == 1
    assert set(resumed.splitlines()) == set(output.splitlines())
    one, other = (weights(tmp_path / name) for name in ("whole", "killed"))
    assert_same(one, other)
    assert not list(work.glob("checkpoint-*"))


def on_two_nodes(*arguments: Sequence[Path | str]) -> list[subprocess.Popen[str]]:
    """A launcher a node, both on this machine, that find each other by torch's rendezvous; the arguments of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "test"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--local-addr", "127.0.0.1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return [subprocess.Popen([*command, *meeting, *one], cwd=ROOT, env=environment, **pipes) for one in arguments]


def holds_rendezvous(node: subprocess.Popen[str]) -> bool:
    """Whether a launcher is the one that the others find each other by: of two on one machine, the first to come."""
    assert isinstance(node.args, list)
    port = int(str(node.args[node.args.index("--rdzv-endpoint") + 1]).rpartition(":")[2])
    mine = psutil.Process(node.pid).net_connections()
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in mine)


def ended(nodes: list[subprocess.Popen[str]], status: int = 0) -> list[tuple[str, str]]:
    """Output and errors of each launcher, once all have ended with a status."""
    said = [node.communicate(timeout=240) for node in nodes]
    assert [node.returncode for node in nodes] == [status] * len(nodes), said
    return said


@pytest.mark.slow  # three starts of torch
def test_two_nodes_have_the_gradients_of_one_process(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS, encoding="utf-8")
    ended(on_two_nodes(*[[script, xlm_r_folder, tmp_path]] * 2))
    alone = first_step(xlm_r_folder, tmp_path / "alone", 1, monkeypatch)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        for gradient, other in zip(together, alone, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_nodes_killed_resume_to_the_same_weights(xlm_r_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "training.py"
    script.write_text(TRAINING, encoding="utf-8")
    output = ended(on_two_nodes(*[[script, xlm_r_folder, tmp_path / "whole"]] * 2))
    assert output[0][0] == output[1][0] != "", "both saw the same scores"
    nodes = on_two_nodes(*[[script, xlm_r_folder, tmp_path / "killed"]] * 2)
    wait_for(lambda: list((tmp_path / "killed" / "work").glob(f"checkpoint-*/{COMPLETE}")), 200)
    for pid in [child.pid for node in nodes for child in psutil.Process(node.pid).children(recursive=True)]:
        os.kill(pid, signal.SIGKILL)
    for node in nodes:
        node.kill()
        node.communicate()
    again = ended(on_two_nodes(*[[script, xlm_r_folder, tmp_path / "killed"]] * 2))
    assert again[0][0] == again[1][0] == output[0][0]
    assert sum(errors.count("resuming after epoch") for _, errors in again) == 1
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.slow
def test_nodes_with_a_work_folder_each_are_refused_before_the_first_step(xlm_r_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "training.py"
    script.write_text(REFUSED, encoding="utf-8")
    nodes = on_two_nodes(*([script, xlm_r_folder, tmp_path / name] for name in ("one", "other")))
    said = [node.communicate(timeout=240) for node in nodes]
    for output, errors in said:
        assert "a training in several processes goes on from checkpoints that all of them see" in output, errors
        assert "set SIGHTREAD_STORE to a folder that the machines share" in output
    assert not list(tmp_path.glob("*/work/*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_node_that_is_lost_ends_the_training_of_the_other_with_one_message(
    xlm_r_folder: Path, tmp_path: Path, number: int
) -> None:
    """A machine that is switched off, or that hangs, with its launcher.

    The other holds torch's rendezvous, without which its launcher would wait.
    """
    script = tmp_path / "losing.py"
    script.write_text(LOSING, encoding="utf-8")
    left, lost = on_two_nodes(*[[script, xlm_r_folder, tmp_path]] * 2)
    of_it: list[int] = []
    try:
        wait_for(lambda: list((tmp_path / "work").glob(f"checkpoint-*/{COMPLETE}")), 200)
        left, lost = (lost, left) if holds_rendezvous(lost) else (left, lost)
        of_it = [lost.pid, *(child.pid for child in psutil.Process(lost.pid).children(recursive=True))]
        for pid in of_it:
            os.kill(pid, number)
        struck = time.monotonic()
        output, errors = left.communicate(timeout=120)
        seconds = time.monotonic() - struck
    finally:
        for pid in of_it:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in (left, lost):
            node.kill()
            node.communicate()
    assert left.returncode == 1, errors
    [message] = output.splitlines()
    assert (
        "hears nothing of another one, which has ended, or has said nothing for 15 s (execution.ddp_timeout)" in message
    )
    assert "started again go on after the last whole epoch" in message
    assert errors.count("Traceback (most recent call last)") <= 1, "that of torch's launcher"
    assert seconds < 15 + 30, "the time, and what processes take to end"


def at_work(process: psutil.Process) -> bool:
    """Whether a process is there, and not only its entry, which an orphan leaves where nobody collects it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_processes_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    script, pids = tmp_path / "waiting.py", tmp_path / "pids"
    script.write_text(WAITING, encoding="utf-8")
    pids.mkdir()
    launcher = launch(script, pids)
    deadline = time.monotonic() + 120
    while len(found := [file.read_text(encoding="utf-8") for file in pids.iterdir()]) < 2 or "" in found:
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [psutil.Process(int(pid)) for pid in found]
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 60
    while any(map(at_work, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_others_wait_until_the_first_has_gone_ahead(tmp_path: Path) -> None:
    script = tmp_path / "going_ahead.py"
    script.write_text(GOING_AHEAD, encoding="utf-8")
    launcher = launch(script, tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("started-*"))) < 2:
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)  # the second could be through long since
    assert not list(tmp_path.glob("passed-*"))
    (tmp_path / "go").touch()
    _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, errors
    assert len(list(tmp_path.glob("passed-*"))) == 2


def test_a_batch_that_the_processes_cannot_share_is_refused(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"train\.batch_size: 8 tweets cannot be split evenly among 3 processes"):
        run(small_params(xlm_r_folder), tmp_path)
