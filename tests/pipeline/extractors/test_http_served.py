"""The extractor `http` and a server that is no test's own: transformers', with a small untrained model."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.extractors.registry import choose
from pipeline.images.manifest import manifest
from pipeline.settings.params import ExecutionParams, ImagesParams
from tests.conftest import ROOT
from tests.pipeline.extractors.vlms import write_vlm
from tests.project import wait_for

SERVING = ("fastapi", "uvicorn", "openai")
PICTURES = ROOT / "sample" / "data" / "images"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Its address, and the model that it serves."""
    if missing := [name for name in SERVING if importlib.util.find_spec(name) is None]:
        pytest.skip(f"`transformers serve` needs {', '.join(missing)}; pip install python-multipart with them")
    model = str(write_vlm("llava", tmp_path / "model"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: process.poll() is not None or listens(port), 120)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.slow  # a server is started
def test_a_model_behind_transformers_server_captions_pictures(server: tuple[str, str], tmp_path: Path) -> None:
    url, model = server
    names = sorted(path.name for path in PICTURES.iterdir())[:3]
    with Store.open(tmp_path / "store") as store:
        rows = list(manifest(names, PICTURES, ImagesParams(), store))
        choice = choose(
            "captions",
            {"extractor": "http", "http": {"model": model, "url": url, "prompt": "Describe it.", "max_tokens": 8}},
            "params.yaml",
        )
        output = tmp_path / "captions.jsonl"
        first = extract("captions", choice.create(ExecutionParams()), rows, PICTURES, output, store)
        again = extract("captions", choice.create(ExecutionParams()), rows, PICTURES, output, store)
    assert (first.read, first.failed) == (3, 0)
    assert "3 requests" in first.used
    assert (again.read, again.from_store) == (0, 3)
    captions = [json.loads(line)["captions"] for line in output.read_text(encoding="utf-8").splitlines()]
    assert all(caption["text"] for [caption] in captions)
