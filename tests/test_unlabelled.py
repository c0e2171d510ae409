"""Tweets that nobody labelled, through the real pipeline: contexts and predictions, and a plain word where it ends."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a training, and the extraction stages


def write_dump(project: Project) -> list[str]:
    """The cut's test posts as a tweet dump: a CSV file with texts, one row without a picture. Return their ids."""
    posts = [
        block.splitlines()
        for block in (project.folder / "sample/data/test.txt").read_text(encoding="utf-8").split("IMGID:")[1:]
    ]
    folder = project.folder / "dump"
    shutil.copytree(project.folder / "sample/data/images", folder / "pictures")
    with open(folder / "tweets.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "created_at", "text", "image"])
        for number, (identifier, *lines) in enumerate(posts):
            words = [line.partition("\t")[0] for line in lines if line]
            writer.writerow(
                [
                    identifier,
                    "2016-05-01",
                    " ".join(words[:2]) + "\n" + " ".join(words[2:]),
                    f"{identifier}.jpg" if number else "",
                ]
            )
    return [identifier for identifier, *_ in posts]


def test_posts_without_labels_get_contexts_and_predictions(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    test = project.folder / "sample/data/test.txt"
    test.write_text(
        "".join(f"{line.partition(chr(9))[0]}\n" for line in test.read_text(encoding="utf-8").split("\n")),
        encoding="utf-8",
    )
    output = project.run("dvc", "repro")
    assert "test: no labels, so no scores" in output
    scores = json.loads((project.folder / "metrics/evaluation.json").read_text(encoding="utf-8"))
    assert (set(scores["dev"]), scores["test"]) == ({"cross_modal", "text_only", "shuffled"}, {})
    assert len(project.rows("data/predictions/test.cross_modal.jsonl")) == 12
    page = (project.folder / "report/index.html").read_text(encoding="utf-8")
    assert "12 of 12 posts have no labels to score against; their predictions are shown among the posts." in page

    shutil.copytree(project.folder / "models/tagger", project.folder / "taggers/mine")
    ids = write_dump(project)
    project.edit(
        data={"root": "dump", "format": "csv", "train": [], "dev": [], "test": ["tweets.csv"], "images": "pictures"}
    )
    output = project.run("dvc", "repro", "views")
    assert "test: 12 posts (0 labelled), " in output
    views = project.rows("data/views/test.jsonl")
    assert [view["id"] for view in views] == sorted(ids)
    assert {view["labels"] for view in views} == {None}
    assert ids[0] in [view["id"] for view in views if not view["context"]]
    assert sum(bool(view["context"]) for view in views) >= 6
    assert project.rows("data/views/train.jsonl") == project.rows("data/views/dev.jsonl") == []

    def predict(*options: str) -> list[dict[str, object]]:
        printed = project.run(
            "python", "-m", "ner.predict", "taggers/mine", "data/views/test.jsonl", "--format", "jsonl", *options
        )
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    with_context, text_only = predict(), predict("--text-only")
    assert [row["id"] for row in with_context] == [row["id"] for row in text_only] == sorted(ids)
    assert [bool(row["context_used"]) for row in with_context] == [bool(view["context"]) for view in views]
    assert {row["context_used"] for row in text_only} == {""}

    output = project.run("dvc", "repro", expect=None)
    assert "train: the train split has no posts" in output
    assert "python -m ner.predict" in output
    assert "Traceback" not in output
