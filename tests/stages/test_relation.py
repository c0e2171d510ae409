"""RpBERT through the stages, with posts to learn the relation from: their pictures are read, the card tells of them."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import ResNetConfig, ResNetModel

from tests.project import Project
from tests.robustness.conftest import light_project


@pytest.mark.slow  # seven stages, one of them a training
def test_posts_with_a_relation_go_from_their_file_to_the_tagger(tmp_path: Path) -> None:
    made = Project.make(tmp_path / "run", {"train": 8, "valid": 3, "test": 3})
    data = made.folder / "sample/data"
    shutil.copy(next((data / "images").iterdir()), data / "images/extra.jpg")
    posts = [{"id": number, "text": "what a day", "image": "extra.jpg", "relation": number % 2} for number in range(3)]
    posts.append({"id": "gone", "text": "no picture", "image": "gone.jpg", "relation": 1})
    (data / "relation.jsonl").write_text("\n".join(map(json.dumps, posts)), encoding="utf-8")
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).save_pretrained(
        made.folder / "checkpoints/tiny"
    )
    off = {"extractor": None}
    made.edit(
        data={"relation": ["relation.jsonl"]},
        objects=off,
        captions=off,
        ocr=off,
        features={"extractor": "resnet", "resnet": {"model": "checkpoints/tiny", "side": 64, "grid": 2}},
        train={"model": "rpbert", "epochs": 1, "rpbert": {"lstm_width": 16, "detach_gate": True}},
        evaluate={"conditions": ["cross_modal", "text_only"], "bootstrap_samples": 10},
    )
    told = ""
    for stage in (
        "posts",
        "images",
        "objects",
        "captions",
        "ocr",
        "features",
        "knowledge",
        "views",
        "train",
        "evaluate",
    ):
        told += made.run("python", "-m", f"stages.{stage}")
    assert "relation: 4 posts, 2 whose picture adds" in told
    assert "1 of the 4 posts of data.relation have no text or no picture with features" in told
    assert [row["id"] for row in made.rows("data/posts/relation.jsonl")] == ["0", "1", "2", "gone"]
    images = {row["image"]: row["status"] for row in made.rows("data/images.jsonl")}
    assert (images["extra.jpg"], images["gone.jpg"]) == ("ok", "missing")
    found = json.loads((made.folder / "models/tagger/training.json").read_text(encoding="utf-8"))
    assert found["result"]["relation"] == {"posts": 3}
    seen = made.rows("data/predictions/test.cross_modal.jsonl")
    assert all(0 < row["relation"] < 1 for row in seen)
    assert all(row["relation"] is None for row in made.rows("data/predictions/test.text_only.jsonl"))

    made.edit(data={"relation": ["nowhere.jsonl"]})
    assert "data.relation: sample/data/nowhere.jsonl: no such file" in made.run(
        "python", "-m", "pipeline.params", "check", expect=2
    )


def test_a_malformed_relation_leaves_the_posts_as_they_were(tmp_path: Path) -> None:
    project = light_project(tmp_path / "project", 2)
    project.run("python", "-m", "stages.posts")
    before = {path.name: path.read_bytes() for path in (project.folder / "data/posts").iterdir()}
    assert len(before) == 6
    (project.folder / "set/train.txt").write_text("IMGID:new\nhello\tO\n", encoding="utf-8")
    (project.folder / "set/relation.jsonl").write_text('{"id": 1, "text": "no"}\n', encoding="utf-8")
    project.edit(data={"relation": ["relation.jsonl"]})
    assert "set/relation.jsonl:1: " in project.run("python", "-m", "stages.posts", expect=2)
    assert {path.name: path.read_bytes() for path in (project.folder / "data/posts").iterdir()} == before
