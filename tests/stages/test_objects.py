"""The stage `objects` where a detector looks for what posts say, as it is run."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.files import write_json, write_jsonl
from pipeline.core.records import Post
from pipeline.settings import yaml
from pipeline.settings.params import POST_SPLITS, PostSplit
from stages import objects
from stages.shared import extraction
from tests.conftest import ROOT

OWN = """
from pipeline.core.records import ObjectTag


class Told:
    def labels_of(self, posts):
        return tuple(word for post in posts for word in post if word.istitle())

    def fingerprint(self):
        return {"extractor": "told", "version": 1}

    def extract(self, shown):
        return [[ObjectTag(label) for label in each.labels] for each in shown]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures, and params whose detector is told what to look for."""
    (tmp_path / "told.py").write_text(OWN, encoding="utf-8")
    settings = yaml.load(ROOT / "params.yaml").values
    settings["data"] |= {"root": ".", "images": "images", "train": [], "dev": [], "test": ["posts.jsonl"]}
    settings["data"]["format"] = "jsonl"
    settings["objects"] |= {"extractor": "told:Told"}
    write_json(tmp_path / "params.yaml", settings)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 6), (len(name), ord(name[0]), 0)).save(tmp_path / "images" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["objects", *arguments])
    extraction._main("objects", objects.posts_of)


def found(file: Path) -> dict[str, list[str]]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["image"]: [tag["label"] for tag in row["objects"]] for row in rows}


def test_a_picture_is_searched_for_what_all_posts_say_that_show_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    posts: dict[PostSplit, list[Post]] = {split: [] for split in POST_SPLITS}
    posts["train"] = [Post("1", ["in", "Rome"], None, ["a.png"])]
    posts["test"] = [Post("2", ["the", "Pope"], None, ["a.png", "b.png"]), Post("3", ["No", "picture"], None, [])]
    for split, some in posts.items():
        records.write(folder / f"data/posts/{split}.jsonl", some)
    write_json(folder / "data/checked/objects.json", {})
    rows = [image_row(folder, name) for name in ("a.png", "b.png")]
    write_jsonl(folder / "data/images.jsonl", rows)
    run(monkeypatch)
    output = folder / "data/contexts/objects.jsonl"
    assert found(output) == {"a.png": ["Rome", "Pope"], "b.png": ["Pope"]}
    assert "2 pictures: 2 read" in capsys.readouterr().out
    records.write(folder / "data/posts/train.jsonl", [Post("1", ["in", "Paris"], None, ["a.png"])])
    run(monkeypatch)
    assert found(output) == {"a.png": ["Paris", "Pope"], "b.png": ["Pope"]}
    assert "2 pictures: 1 read, 1 from the store" in capsys.readouterr().out


def test_a_folder_is_searched_for_what_the_posts_of_a_file_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(folder / "posts.jsonl", [{"id": "1", "text": "the Pope in Rome", "images": ["a.png"]}])
    run(monkeypatch, "--images", "images", "--posts", "posts.jsonl", "--output", "out.jsonl")
    assert found(folder / "out.jsonl") == {"a.png": ["Pope", "Rome"], "b.png": []}
    with pytest.raises(UserError, match=r"give them as --posts FILE\.jsonl"):
        run(monkeypatch, "--images", "images", "--output", "out.jsonl")
    with pytest.raises(UserError, match=r"--posts FILE\.jsonl goes with --images DIR"):
        run(monkeypatch, "--posts", "posts.jsonl")
    write_jsonl(folder / "posts.jsonl", [{"id": "1", "text": "the Pope", "images": ["c.png"]}])
    with pytest.raises(UserError, match=r"none of its 1 posts shows a picture of --images, such as a\.png"):
        run(monkeypatch, "--images", "images", "--posts", "posts.jsonl", "--output", "out.jsonl")


def image_row(folder: Path, name: str) -> dict[str, object]:
    from pipeline.images.manifest import manifest
    from pipeline.settings.params import ImagesParams

    [row] = manifest([name], folder / "images", ImagesParams())
    return dict(records.row(row))
