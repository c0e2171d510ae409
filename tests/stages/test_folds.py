"""Out-of-fold teachers by one command, and a student that learns from them."""

import json
from pathlib import Path

import pytest

from ner.training import folds
from ner.training.folds import Fold
from pipeline.core import checkpoints
from tests.project import Project


@pytest.mark.slow  # four trainings
def test_each_fold_has_its_tagger_is_trained_once_and_teaches(tmp_path: Path) -> None:
    made = Project.make(tmp_path / "run", {"train": 24, "valid": 6, "test": 4})
    off = {"extractor": None}
    made.edit(objects=off, ocr=off, train={"epochs": 1})
    file = made.folder / "sample/data/train.txt"
    *labelled, last = file.read_text(encoding="utf-8").split("IMGID:")
    without = "\n".join(line.partition("\t")[0] for line in last.split("\n"))
    file.write_text("IMGID:".join([*labelled, without]), encoding="utf-8")
    told = ""
    for stage in ("posts", "images", "objects", "captions", "ocr", "features", "knowledge", "views"):
        told += made.run("python", "-m", f"stages.{stage}")
    assert "train: 24 posts (23 labelled)" in told
    command = ("python", "-m", "stages.folds", "2", "checkpoints/folds", "train.weight_decay=0.02")
    assert "checkpoints/folds/2: trains on" in made.run(*command)
    taggers = [made.folder / "checkpoints/folds" / str(number) for number in (1, 2)]
    for number, tagger in enumerate(taggers):
        noted = folds.read(tagger)
        assert noted is not None
        assert noted[0] == Fold(number, 2)
        facts = json.loads((tagger / "training.json").read_text(encoding="utf-8"))
        assert facts["params"]["weight_decay"] == 0.02
    digests = [checkpoints.digest(tagger) for tagger in taggers]
    assert digests[0] != digests[1]
    again = made.run(*command)
    assert again.count(": is there") == 2
    assert "trains on" not in again
    assert [checkpoints.digest(tagger) for tagger in taggers] == digests

    listed = made.run("python", "-m", "stages.label_errors", "checkpoints/folds", "--confidence", "0")
    assert "of 23 posts are contradicted" in listed
    assert "part" not in listed.splitlines()[-1]
    doubts = made.rows("report/label_errors.jsonl")
    assert doubts
    assert [each["confidence"] for each in doubts] == sorted((each["confidence"] for each in doubts), reverse=True)
    assert "no taggers of folds in it" in made.run(
        "python", "-m", "stages.label_errors", "checkpoints/sample", expect=2
    )

    names = [f"checkpoints/folds/{number}" for number in (1, 2)]
    made.edit(train={"teacher": {"taggers": names}})
    output = made.run("python", "-m", "stages.train")
    assert "24 posts are taught by saved taggers (2): " in output
    made.edit(train={"teacher": {"taggers": names[:1]}})
    assert "every one was trained on post" in made.run("python", "-m", "stages.train", expect=2)
    for wrong, message in (
        ("train.wiews=both", "params.yaml: train.wiews: params.yaml has no such key"),
        ("train.views=neither", "params.yaml: train.views: found 'neither', expected 'both'"),
        ("data.limit=3", "data.limit: expected a setting of the training"),
        ("train.views", "train.views: expected KEY=VALUE"),
    ):
        assert message in made.run("python", "-m", "stages.folds", "2", "x", wrong, expect=2)
    assert "K: expected 2 or more, found 1" in made.run("python", "-m", "stages.folds", "1", "x", expect=2)
