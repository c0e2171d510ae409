"""Pictures that a listing of digests tells DVC of: dvc.lock has the listing, and what reads them reads what it says."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.project import Project
from tests.robustness.conftest import light_project


def test_a_listing_of_the_first_posts_alone_says_so(tmp_path: Path) -> None:
    project = light_project(tmp_path / "project", 5)
    project.edit(data={"listing": "pictures.sha256", "limit": 2})
    said = project.run("python", "-m", "pipeline.listing")
    assert "data.limit: 2: of the first posts of each split alone; once it is null, run it again" in said
    assert "set/pictures.sha256: 2 pictures\n" in said
    project.edit(data={"limit": None})
    said = project.run("python", "-m", "pipeline.listing")
    assert "data.limit" not in said
    assert "set/pictures.sha256: 5 pictures\n" in said


@pytest.mark.slow
@pytest.mark.timeout(900)  # several runs of DVC, on a machine that may have other work
def test_dvc_sees_the_listing_alone_and_a_changed_one_reads_what_changed(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project", {"train": 8, "valid": 2, "test": 2})
    pictures = tmp_path / "pictures"
    (project.folder / "sample/data/images").rename(pictures)
    project.edit(
        data={"images": "../../../pictures", "listing": "pictures.sha256"},
        **{kind: {"extractor": None} for kind in ("objects", "captions", "ocr")},
    )
    assert "data.listing: sample/data/pictures.sha256: no such file" in project.run(
        "dvc", "repro", "images", expect=None
    )
    assert "sample/data/pictures.sha256: " in project.run("python", "-m", "pipeline.listing")
    assert project.repro("captions") == ["check", "posts", "images", "captions"]
    lock = (project.folder / "dvc.lock").read_text(encoding="utf-8")
    assert "pictures/" not in lock
    assert re.findall(r"\S+\.jpg", lock.replace("'{id}.jpg'", "")) == []
    root = re.search(r"- path: sample/data\n.*?nfiles: (\d+)", lock, re.DOTALL)
    assert root is not None
    assert root[1] == "4", "three texts and the listing"
    assert project.repro("captions") == []

    first = {row["image"]: row for row in project.rows("data/images.jsonl")}
    changed, other, *others = (name for name, row in first.items() if row["status"] == "ok")
    (pictures / changed).write_bytes((pictures / other).read_bytes())
    assert project.repro("captions") == []
    project.edit(captions={"extractor": "blip"})
    assert project.repro("captions") == ["check", "captions"]
    statuses = {row["image"]: row["status"] for row in project.rows("data/contexts/captions.jsonl")}
    assert statuses == {name: row["status"] for name, row in first.items()} | {changed: "failed"}
    assert "before it python -m pipeline.listing where data.listing names one" in json.dumps(
        project.rows("data/contexts/captions.jsonl")
    )

    project.run("python", "-m", "pipeline.listing")
    for name in others:
        (pictures / name).unlink()
    assert project.repro("images") == ["posts", "images"]
    rows = {row["image"]: row for row in project.rows("data/images.jsonl")}
    assert {name: row for name, row in rows.items() if row != first[name]} == {
        changed: {**first[other], "image": changed}
    }
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", str(project.folder / "sample/data/pictures.sha256")],
        cwd=pictures,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("FAILED open or read") == len(others)
