"""The page of tagged posts: what it says of the tagger, its scores, and its gallery."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ner.scoring.f1 import score
from pipeline.core.records import Post
from sightread.report import Gathered
from sightread.rows import Row
from sightread.tagging import Sightread, Tagged

ROWS = [
    Row("a", Post("a", ["love", "Jordan"], ["O", "B-PER"], ["red.jpg"])),
    Row("b", Post("b", ["in", "Paris", "<b>"], ["O", "B-LOC", "O"], ["blue.jpg", "gone.jpg"])),
    Row("a", Post("a", ["Jordan"], ["B-LOC"], [])),
    Row("c", Post("c", ["love", "the", "Paris"], ["O", "O", "O"], ["red.jpg"])),
]


def written(loaded: Sightread, rows: list[Row], pictures: Path, model: Path, output: Path) -> list[Tagged]:
    """What was found in rows, and its page in a folder."""
    assert loaded.reader is not None
    gathered, all_found = Gathered(loaded.reader.settings, loaded.reader), []
    for found in loaded.stream(rows, pictures):
        assert isinstance(found, Tagged)
        if found.post.id == "b":  # an untrained tagger seldom minds the context
            nothing = replace(found.alone, predicted=["O"] * len(found.post.tokens), entities=[])
            found = replace(found, alone=nothing)
        gathered.add(found)
        all_found.append(found)
    gathered.write(output, "tweets.jsonl", str(model), pictures)
    return all_found


@pytest.fixture(scope="module")
def model(tagger_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tagger, with a record of its training that a stranger may have written."""
    folder = tmp_path_factory.mktemp("of-somebody") / "tagger"
    shutil.copytree(tagger_folder, folder)
    told = {"encoder": {"name": "<script>alert(1)</script>"}, "data": "my tweets"}
    (folder / "training.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(
    loaded: Sightread, pictures: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Tagged]]:
    output = tmp_path_factory.mktemp("page")
    return output, written(loaded, ROWS, pictures, model, output)


def test_labelled_posts_are_scored_under_the_taggers_own_name(page: tuple[Path, list[Tagged]]) -> None:
    output, found = page
    text = (output / "index.html").read_text(encoding="utf-8")
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    assert (
        "4 posts, tagged by tagger, which is &lt;script&gt;alert(1)&lt;/script&gt; with a CRF, trained on my" in words
    )
    assert "Nothing was trained here." in words
    assert "<script>" not in text
    evaluation = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    gold = [each.post.labels or [] for each in found]
    for condition, predicted in (("cross_modal", "seen"), ("text_only", "alone")):
        own = evaluation["test"][condition]["strict"]["micro"]
        wanted = score(gold, [getattr(each, predicted).predicted for each in found])["strict"]["micro"]
        assert (own["f1"], own["support"]) == (wanted["f1"], wanted["support"])
        assert len(own["f1_ci"]) == 2
        assert f"{100 * own['f1']:.2f}" in words


def test_the_gallery_has_every_post_and_picture(page: tuple[Path, list[Tagged]]) -> None:
    output, found = page
    script = (output / "assets/posts.js").read_text(encoding="utf-8")
    data = json.loads(
        re.sub(r"\\x3c", "<", script.split("JSON.parse('", 1)[1].rsplit("');", 1)[0]).replace("\\\\", "\\")
    )
    assert [post["id"] for post in data["posts"]] == ["a", "b", "a#2", "c"]
    assert [post["context"] for post in data["posts"]] == [each.context for each in found]
    assert [picture["status"] for picture in data["pictures"]] == ["ok", "ok", "missing"]
    assert all((output / "assets/thumbnails" / each["thumbnail"]).exists() for each in data["pictures"][:2])
    assert {kind["key"]: kind["off"] for kind in data["kinds"]} == {"objects": False, "captions": False, "ocr": True}


def test_posts_without_labels_have_no_scores(loaded: Sightread, pictures: Path, model: Path, tmp_path: Path) -> None:
    rows = [ROWS[0], Row("z", Post("z", ["Paris"], None))]
    written(loaded, rows, pictures, model, tmp_path)
    assert not (tmp_path / "evaluation.json").exists()
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "1 of 2 posts have no labels to score against; their predictions are shown among the posts." in text


@pytest.mark.browser
def test_posts_that_the_picture_changed_can_be_chosen(page: tuple[Path, list[Tagged]], chromium: Any) -> None:
    output, found = page
    shown = chromium.new_page()
    complaints: list[str] = []
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.goto((output / "index.html").as_uri())
    ids = ["a", "b", "a#2", "c"]
    assert shown.locator("article h3 .id").all_text_contents() == ids
    shown.locator("#f-show").select_option("changed")
    changed = [name for name, each in zip(ids, found, strict=True) if each.changed]
    assert "b" in changed
    assert len(changed) < 4
    assert shown.locator("article h3 .id").all_text_contents() == changed
    assert complaints == []
    shown.close()


def test_no_scores_of_other_posts_stay_beside_a_page(
    loaded: Sightread, pictures: Path, model: Path, tmp_path: Path
) -> None:
    labelled = ROWS[0]
    assert labelled.post is not None
    written(loaded, [labelled], pictures, model, tmp_path)
    assert (tmp_path / "evaluation.json").exists()
    (tmp_path / "own.txt").touch()
    written(loaded, [replace(labelled, post=replace(labelled.post, labels=None))], pictures, model, tmp_path)
    assert not (tmp_path / "evaluation.json").exists()
    assert (tmp_path / "own.txt").exists(), "what else is there stays"
