"""The engine `ray` as a process of its own: killed, signalled or ended, what it leaves and what is gone on with."""

import json
import random
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from pipeline.core.parts import Parts
from tests.conftest import ROOT
from tests.pipeline.engine.clustered import COUNT, NEEDED, Place, execution
from tests.project import wait_for


def start(place: Place, kept: str = "parts", **of_ray: Any) -> "subprocess.Popen[str]":
    """A run by a driver of its own; without an address, with a cluster of its own, of which a process has but one."""
    asked = {
        "folder": str(place.bench.folder),
        "output": str(place.bench.output),
        kept: str(place.place / kept),
        "options": {"log": str(place.log), "seconds": 0.05},
        "ray": of_ray,
    }
    command = [sys.executable, "-c", "from tests.pipeline.engine.clustered import main; main()", json.dumps(asked)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_cluster_of_this_machine_ends_with_the_run(
    place: Place, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTREAD_CORES", str(workers))
    output, errors = start(place, "other store").communicate(timeout=120)
    assert output == f"{COUNT} pictures: {COUNT} read, 0 from the store, 0 failed\n", errors
    assert "Traceback" not in errors
    assert place.same
    assert len({process for process, _ in place.logged()}) == workers
    wait_for(lambda: not ray_processes(), 30)


def whole(place: Place) -> int:
    return len(list((place.place / "parts").rglob("*.parquet")))


def ray_processes() -> list[psutil.Process]:
    """The servers of a cluster of this machine alone."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if ("raylet" in line or "gcs_server" in line) and "/ray-" in line:
            found.append(process)
    return found


@NEEDED
@pytest.mark.slow
def test_a_driver_killed_at_ten_moments_goes_on_with_the_parts_that_are_missing(place: Place, cluster: Any) -> None:
    pytest.importorskip("pyarrow")
    place.bench.output.unlink()
    rng = random.Random(4)
    for _ in range(10):
        before = len(place.logged("load"))
        process = start(place, address=cluster.address)
        wait_for(lambda before=before: len(place.logged("load")) > before)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
    kept = whole(place)
    counted = {path: path.read_bytes() for path in (place.place / "parts").rglob("*.parquet")}
    place.log.unlink(missing_ok=True)
    read, known, failed = place.run(execution(cluster.address), Parts(str(place.place / "parts")))
    assert (read + known, failed) == (COUNT, 0)
    assert kept > 0
    assert sum(count for _, count in place.logged()) == read, "only what is missing"
    assert all(path.read_bytes() == content for path, content in counted.items())
    assert place.same


@NEEDED
@pytest.mark.slow
def test_of_a_killed_driver_no_process_is_left_after_90_seconds(place: Place) -> None:
    pytest.importorskip("pyarrow")
    process = start(place)
    wait_for(lambda: whole(place) > 0)
    servers = ray_processes()
    assert len(servers) >= 2
    listening = {one.laddr.ip for server in servers for one in server.net_connections() if one.status == "LISTEN"}
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, "on loopback alone"
    process.kill()
    process.communicate()
    wait_for(lambda: not ray_processes(), 90)


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_driver_without_a_traceback(place: Place, number: int, status: int) -> None:
    pytest.importorskip("pyarrow")
    process = start(place)
    wait_for(lambda: whole(place) > 0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    wait_for(lambda: not ray_processes(), 30)


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_ray", "message"),
    [
        ({"num_gpus": 3}, "a worker takes CPU 1, GPU 3 (num_cpus, num_gpus), and no node has that"),
        ({"address": "127.0.0.1:1"}, "execution.ray.address: 127.0.0.1:1: no cluster there"),
    ],
)
def test_a_cluster_that_will_not_do_is_an_error(place: Place, of_ray: dict[str, Any], message: str) -> None:
    process = start(place, **of_ray)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert message in errors
    assert "Traceback" not in errors
