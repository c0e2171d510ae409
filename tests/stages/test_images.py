"""The stage `images`, as it is run: by itself, in parts, on a cluster."""

import json
import os
from pathlib import Path

import pytest

from tests.project import Project
from tests.reporting.made import MadePost, project


def made(tmp_path: Path) -> Project:
    """Posts with sound pictures, a broken one and one that is missing."""
    posts = [MadePost(name, ["see", "Rome"], ["O", "B-LOC"], (60, 40)) for name in ("a", "b", "d")]
    posts += [MadePost("c", ["so"], ["O"], "broken"), MadePost("e", ["so"], ["O"], "missing")]
    made = project(tmp_path / "run", {"test": posts}, run=False)
    for path in (made.folder / "set/images").iterdir():
        os.utime(path, (1e9, 1e9))
    made.run("python", "-m", "stages.posts")
    return made


def known(folder: Path) -> int:
    """How many rows parts hold."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (requirements-ray.lock)")
    return sum(parquet.ParquetFile(path).metadata.num_rows for path in folder.rglob("*.parquet"))


def test_a_stage_finds_what_parts_have_found(tmp_path: Path) -> None:
    run = made(tmp_path)
    said = run.run("python", "-m", "stages.images")
    assert said.splitlines()[-1] == "5 pictures: 1 missing, 3 ok, 1 unreadable", said
    expected = (run.folder / "data/images.jsonl").read_bytes()
    (run.folder / "data/images.jsonl").unlink()
    run.store = tmp_path / "another store"
    parts = [run.run("python", "-m", "stages.images", "--part", f"{number}/2").splitlines()[-1] for number in range(2)]
    assert parts == [
        "images, part 0/2: 5 pictures: 1 missing, 3 ok, 1 unreadable",
        "images, part 1/2: 0 pictures",
    ], "so few are one shard"
    assert not (run.folder / "data/images.jsonl").exists()
    assert run.results_kept() == 4, "of a picture that is missing nothing is kept"
    run.run("python", "-m", "stages.images")
    assert run.results_kept() == 4
    assert (run.folder / "data/images.jsonl").read_bytes() == expected
    assert json.loads((run.folder / "metrics/runs/images.json").read_text())["items"] == 5


def test_where_results_are_parts_rows_are_kept_there(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-ray.lock)")
    run = made(tmp_path)
    run.run("python", "-m", "stages.images")
    expected = (run.folder / "data/images.jsonl").read_bytes()
    run.edit(execution={"results": str(tmp_path / "parts")})
    run.run("python", "-m", "stages.images", "--part", "0/1")
    assert known(tmp_path / "parts") == 4
    run.store = tmp_path / "store of another machine"
    run.run("python", "-m", "stages.images")
    assert (run.folder / "data/images.jsonl").read_bytes() == expected
    assert known(tmp_path / "parts") == 4
    assert run.results_kept() == 0


def test_a_part_that_is_none_is_refused_and_without_pictures_there_is_nothing_to_do(tmp_path: Path) -> None:
    run = made(tmp_path)
    said = run.run("python", "-m", "stages.images", "--part", "2/2", expect=2)
    assert said == "error: --part 2/2: expected I/N with I from 0 to N - 1, as in --part 3/64\n"
    run.edit(data={"images": None})
    said = run.run("python", "-m", "stages.images", "--part", "0/2")
    assert said == "images, part 0/2: no pictures in this data set (data.images: null); 5 named by its posts\n"


@pytest.mark.slow  # clusters
def test_a_cluster_gives_the_file_of_this_process(tmp_path: Path) -> None:
    for package in ("ray", "pyarrow"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-ray.lock)")
    run = made(tmp_path)
    run.run("python", "-m", "stages.images")
    expected = (run.folder / "data/images.jsonl").read_bytes()
    for results in (None, str(tmp_path / "parts")):
        (run.folder / "data/images.jsonl").unlink()
        run.store = tmp_path / f"store {results is None}"
        run.edit(execution={"engine": "ray", "results": results, "ray": {"num_cpus": 2}})
        run.run("python", "-m", "stages.images")
        assert (run.folder / "data/images.jsonl").read_bytes() == expected
        assert run.results_kept() == (4 if results is None else 0)
    assert known(tmp_path / "parts") == 4
