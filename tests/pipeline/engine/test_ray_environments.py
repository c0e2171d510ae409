"""Separate environments on a cluster: the bytes of the local engine there, and one message where a node has none."""

import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.environments import Environment
from pipeline.core.errors import UserError
from pipeline.core.store import Store
from pipeline.engine import nodes
from pipeline.engine.ray import RayEngine
from pipeline.engine.run import extract
from pipeline.extractors.registry import choose
from tests.conftest import ROOT
from tests.envs.tiny import Tiny
from tests.pipeline.engine.bench import Bench, rows_of
from tests.pipeline.engine.clustered import execution, section
from tests.project import wait_for

OTHER = Path("/usr/bin/python3.11")
BLIP = """
\"\"\"The sample's captioner, in a separate environment.\"\"\"

import sys

from pipeline.extractors.blip import Blip


class Where(Blip):
    INTERPRETER = "tiny"

    def fingerprint(self):
        return {**super().fingerprint(), "prefix": sys.prefix}  # a worker that runs elsewhere refuses its shard
"""


def made(folder: Path, python: Path = Path(sys.executable)) -> Environment:
    """An environment that has what this process' has, by a .pth file."""
    found = Environment("tiny", folder / "envs" / "tiny.txt", folder / "tiny")
    subprocess.run([python, "-m", "venv", "--without-pip", found.folder], check=True)
    [packages] = found.folder.glob("lib/python*/site-packages")
    (packages / "core.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return found


def absent(folder: Path) -> Environment:
    return Environment("tiny", folder / "envs" / "tiny.txt", folder / "nowhere")


def without_ray(folder: Path) -> Environment:
    found = made(folder)
    for path in found.folder.glob("lib/python*/site-packages/core.pth"):
        path.unlink()
    return found


def without_a_package(folder: Path) -> Environment:
    found = made(folder)
    for packages in found.folder.glob("lib/python*/site-packages"):
        (packages / "pydantic.py").write_text("raise ModuleNotFoundError(\"No module named 'pydantic'\")\n")
    return found


def of_another_python(folder: Path) -> Environment:
    if not OTHER.exists():
        pytest.skip(f"there is no {OTHER}")
    found = made(folder, OTHER)
    done = subprocess.run([found.python, "-V"], capture_output=True, text=True, check=True)
    if done.stdout.split()[1] == platform.python_version():
        pytest.skip(f"{OTHER} is the Python of the tests")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (absent, r"has no \S+/nowhere/bin/python; run there, in "),
        (without_ray, r"no worker can run in \S+/tiny/bin/python: ModuleNotFoundError: No module named 'ray'"),
        (without_a_package, r"no worker can run in \S+: ModuleNotFoundError: No module named 'pydantic'"),
        (of_another_python, r"\S+/tiny/bin/python is Python \S+ and Ray (\S+), the driver's is Python \S+ and Ray \1"),
    ],
)
def test_an_environment_that_no_worker_can_run_in_is_one_message(
    tmp_path: Path, cluster: Any, broken: Callable[[Path], Environment], message: str
) -> None:
    environment = broken(tmp_path)
    bench = Bench(tmp_path)
    rows = rows_of(bench.folder)
    engine = RayEngine(section(), execution(cluster.address), environment)
    choice = choose("captions", section(), "params.yaml")
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"execution\.engine: ray: node \S+:? {message}") as caught:
        extract(
            *("captions", choice.create(), rows, bench.folder, bench.output),
            *(Store.open(tmp_path / "other"), 4),
            engine=engine,
        )
    assert time.monotonic() - started < 60
    assert "python -m pipeline.environments sync tiny --ray" in str(caught.value)
    assert not bench.output.exists()


@pytest.mark.slow
def test_a_node_that_comes_later_without_the_environment_is_named(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of this machine see one file system: what the later one misses is taken away in between."""
    pytest.importorskip("ray")
    environment = made(tmp_path)
    from pipeline.engine.cluster import cluster as connected

    with connected(execution(cluster.address).ray, environment) as ray:
        asked = nodes.Nodes(ray, execution().ray, environment, str(ROOT))
        asked.look(wait=True)
        environment.folder.rename(tmp_path / "gone")
        asked.look(wait=True)
        late = cluster.add_node(num_cpus=1)
        try:
            wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 3)
            with pytest.raises(UserError, match=r"node \S+ has no \S+/tiny/bin/python"):
                asked.look(wait=True)
        finally:
            cluster.remove_node(late)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["store", "parts"])
def test_a_captioner_of_an_environment_gives_the_bytes_of_the_local_engine(
    tmp_path: Path, cluster: Any, kept: str
) -> None:
    """The sample's BLIP, by the stage, which goes on in the environment with its workers on two nodes."""
    pytest.importorskip("pyarrow")
    project = Tiny(tmp_path / "project")
    (project.folder / "where.py").write_text(BLIP)
    (project.folder / "envs" / "ray").mkdir()
    (project.folder / "envs" / "ray" / "tiny.txt").write_text("# nothing yet\n")
    (project.folder / "pictures" / "a.png").unlink()
    pictures = sorted((ROOT / "sample/data/images").iterdir())[:40]
    for path in pictures:
        shutil.copy(path, project.folder / "pictures")
    with (project.folder / "pipeline/engine/shards.py").open("a") as file:
        file.write("\nMEAN, LEAST, MOST = 8, 2, 20\n")
    model: dict[str, Any] = {"model": str(ROOT / "checkpoints/sample/blip")}
    project.build()
    project.set(**model)
    project.captions()
    expected = (project.folder / "out.jsonl").read_bytes()
    readable = len(pictures) - 1  # one of the sample's is broken
    assert expected.count(b'"captions": [{"text":') == readable

    results = str(tmp_path / "parts") if kept == "parts" else None
    project.set({"engine": "ray", "ray": {"address": cluster.address}, "results": results}, **model)
    other: dict[str, Any] = {"SIGHTREAD_STORE": str(tmp_path / "other store")}
    said = project.captions(expect=2, **other)
    assert "tiny runs in a separate environment" in said
    assert "which has no Ray; run, on every node: python -m pipeline.environments sync tiny --ray" in said
    project.environments("sync", "tiny", "--ray")
    assert f"{readable} read, 0 from the store" in project.captions(**other)
    assert (project.folder / "out.jsonl").read_bytes() == expected
    assert f"0 read, {readable} from the store" in project.captions(**other)
