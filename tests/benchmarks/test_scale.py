"""The benchmark of scale: its parts that need no cluster, small, for real."""

import json
import re
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
    assert [name.partition(":")[0] for name in ratios] == ["store", "store", "parts", "parts", "finished"]
    assert all(ratio["value"] > 0 and ratio["target"] for ratio in ratios.values())


@pytest.mark.slow  # a benchmark
@pytest.mark.timeout(900)
def test_a_second_repro_is_measured_with_pictures_listed_in_tars_and_in_a_folder() -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "repro", "--listed", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of pictures' names 0" in done.stdout
    assert len(re.findall(r"^repro: the second.* \d+\.\d\d", done.stdout, re.MULTILINE)) == 3
