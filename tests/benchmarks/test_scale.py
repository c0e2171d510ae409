"""The benchmark of scale: its parts that need no cluster, small, for real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow  # a benchmark
def test_memory_and_finished_shards_are_measured_and_written(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-ray.lock)")
    small = ("--rows", "2000", "8000", "--shards", "40", "--json", str(tmp_path / "out.json"))
    command = [sys.executable, "-m", "benchmarks.scale", "shards", "finished", *small]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ratios = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["ratios"]
    assert [name.partition(":")[0] for name in ratios] == ["shards", "shards", "finished"]
    assert all(ratio["value"] > 0 and ratio["target"] for ratio in ratios.values())
