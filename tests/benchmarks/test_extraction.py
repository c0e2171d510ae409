"""The extraction benchmark: its small parts for real, and that it cannot be fooled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.extraction import Pictures, adapter, compare_ocr, run_engine
from benchmarks.extraction_http import compare_requests
from benchmarks.extraction_one_pass import compare_one_pass
from benchmarks.extraction_store import opened_below
from pipeline.core.errors import UserError
from tests.conftest import ROOT


@pytest.mark.slow  # a benchmark
def test_store_and_images_are_measured_and_written(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.extraction",
        "store",
        "images",
        "--rows",
        "50",
        "3000",
        "--files",
        "60",
        "--json",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [name.partition(":")[0] for name in found["ratios"]] == ["store", "store", "images"]
    assert all(ratio["value"] > 0 and ratio["target"] for ratio in found["ratios"].values())
    assert found["machine"]["cores"] >= 1


@pytest.mark.slow  # a benchmark
def test_ocr_on_all_cores_reads_the_same(tmp_path: Path) -> None:
    pictures = Pictures(ROOT / "sample/data/images", 3)
    assert [ratio.name.partition(":")[0] for ratio in compare_ocr(pictures, 1, 1)] == ["ocr", "ocr"]


@pytest.mark.slow  # a benchmark
def test_one_pass_is_measured_against_separate_passes_with_the_same_rows() -> None:
    ratio, memory = compare_one_pass(4)
    assert ratio.name.startswith("one pass / separate passes, processor time")
    assert 0 < ratio.value < 1
    assert memory.ceiling


def test_many_requests_at_once_are_as_many_times_as_fast() -> None:
    """Half as many times will do: this machine may have other work."""
    [ratio] = compare_requests(1, latency=0.1, turns=3)
    assert ratio.target == 14
    assert 7 < ratio.value < 17


def test_the_engine_reads_every_picture_anew() -> None:
    pictures = Pictures(ROOT / "sample/data/images", 2)
    captioner = adapter("captions", ROOT / "checkpoints/sample/blip", "cpu", "float32")
    rows = [json.loads(line) for line in run_engine("captions", captioner, pictures, 2, 1).splitlines()]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert all(row["captions"][0]["text"] for row in rows)


def test_opened_files_are_counted(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with opened_below(tmp_path) as opened:
        (tmp_path / "a.png").read_bytes()
        Path(__file__).read_bytes()
    assert opened == [str(tmp_path / "a.png")]


def test_a_folder_without_a_whole_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="no picture there"):
        Pictures(tmp_path, 3)
