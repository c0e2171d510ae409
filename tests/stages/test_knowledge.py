"""The stage that reads posts, as it is run."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.core.files import write_jsonl
from tests.project import Project
from tests.reporting.made import MadePost, finish, project
from tests.reporting.test_report import text_of

OWN = """
from pipeline.core.records import Note
from pipeline.extractors.base import Wants


class Own:
    def wants(self):
        return Wants(frozenset({"captions"}), pictures=1)

    def teach(self, posts):
        self.taught = [" ".join(post.tokens) for post in posts]

    def fingerprint(self):
        return {"extractor": "own", "taught": self.taught}

    def extract(self, posts):
        return [[self.note(post)] for post in posts]

    def note(self, post):
        return Note(f"{post.text}; {post.contexts['captions']}; {len(post.pictures)}", None, "own")
"""


@pytest.mark.slow  # all stages up to the report
def test_knowledge_goes_into_views_and_report(tmp_path: Path) -> None:
    tweet = MadePost("a", ["see", "Rome"], ["O", "B-LOC"], (60, 40), [], ["a street"])
    made = project(tmp_path / "run", {"test": [tweet]}, run=False)
    said = "<script>alert(1)</script> Rome (place)"
    write_jsonl(made.folder / "set/said.jsonl", [{"id": "a", "knowledge": said}, {"id": "x", "knowledge": []}])
    made.edit(knowledge={"extractor": "precomputed", "precomputed": {"path": "set/said.jsonl"}})
    for stage in ("posts", "images", "objects", "captions", "ocr", "features"):
        made.run("python", "-m", f"stages.{stage}")
    closing = "3 posts: 1 read, 0 from the store, 2 failed; 1 entry fits no post, such as set/said.jsonl:2\n"
    assert made.run("python", "-m", "stages.knowledge") == closing
    made.run("python", "-m", "stages.views")
    assert [view["context"] for view in made.rows("data/views/test.jsonl")] == [f"a street . {said}"]
    sources = json.loads((made.folder / "data/views/sources.json").read_text(encoding="utf-8"))
    assert list(sources["contexts"].items())[-1] == ("knowledge", "precomputed")
    finish(made)
    page = (made.folder / "report/index.html").read_text(encoding="utf-8")
    words = " ".join(text_of(page).split())
    assert "knowledge precomputed none: looked up, not read 3 posts 1 1 2 yes" in words
    assert "2 posts without a result, and why" in words
    assert "<script>alert" not in page
    posts = (made.folder / "report/assets/posts.js").read_text(encoding="utf-8")
    assert "Rome (place)" in posts
    assert "<script" not in posts
    card = (made.folder / "report/model_card.md").read_text(encoding="utf-8")
    assert "knowledge by precomputed. Knowledge is of the post itself: to read with it" in card


def test_an_extractor_of_ones_own_sees_text_contexts_pictures_and_training_posts(tmp_path: Path) -> None:
    tweet = MadePost("a", ["see", "Rome"], ["O", "B-LOC"], (60, 40), [], ["a street"])
    made = project(tmp_path / "run", {"test": [tweet]}, run=False)
    (made.folder / "own.py").write_text(OWN, encoding="utf-8")
    for stage in ("posts", "images", "captions"):
        made.run("python", "-m", f"stages.{stage}")
    off = made.run("python", "-m", "stages.knowledge")
    assert (off, made.rows("data/contexts/knowledge.jsonl")) == ("knowledge: off\n", [])
    made.edit(knowledge={"extractor": "own:Own"})
    assert made.run("python", "-m", "stages.knowledge").endswith("3 posts: 2 read, 1 from the store, 0 failed\n")
    rows = {
        (row["id"], row["split"]): row["knowledge"][0]["text"] for row in made.rows("data/contexts/knowledge.jsonl")
    }
    assert rows == {
        ("a", "test"): "see Rome; a street; 1",
        ("filler", "dev"): "Paris; ; 0",
        ("filler", "train"): "Paris; ; 0",
    }
    record = json.loads((made.folder / "metrics/runs/knowledge.json").read_text(encoding="utf-8"))
    assert (record["unit"], record["items"], record["fingerprint"]["taught"]) == ("posts", 2, ["Paris"])

    write_jsonl(made.folder / "few.jsonl", [{"id": "a", "text": "see Rome", "images": ["a.png"]}])
    command = ["python", "-m", "stages.knowledge", "--posts", "few.jsonl", "--output", "out.jsonl"]
    assert "captions; give the folder of their files as --contexts DIR" in made.run(*command, expect=2)
    command += ["--contexts", "data/contexts"]
    assert "pictures; give their folder as --images DIR" in made.run(*command, expect=2)
    assert made.run(*command, "--images", "set/images").endswith("1 post: 0 read, 1 from the store, 0 failed\n")
    [row] = made.rows("out.jsonl")
    assert (row["id"], row["split"], row["knowledge"][0]["source"]) == ("a", None, "own")


@pytest.mark.real_data
@pytest.mark.slow
def test_twitter_2015_gets_what_chatgpt_said_of_every_post_but_three(real_data: Path, tmp_path: Path) -> None:
    made = Project.make(tmp_path / "project", {})
    made.run("python", "-m", "pipeline.preset", "knowledge-twitter2015")
    shutil.copytree(real_data / "twitter2015", made.folder / "corpora/twitter2015")
    made.edit(knowledge={"precomputed": {"path": "corpora/twitter2015/knowledge_chatgpt.jsonl"}})
    for stage in ("posts", "images", "captions"):
        made.run("python", "-m", f"stages.{stage}")
    assert made.run("python", "-m", "stages.knowledge") == "8,257 posts: 8,254 read, 0 from the store, 3 failed\n"
    made.run("python", "-m", "stages.views")
    rows = made.rows("data/contexts/knowledge.jsonl")
    assert {row["id"] for row in rows if row["status"] == "missing"} == {"33008", "370925", "1418707"}
    said = {row["id"]: row["knowledge"][0]["text"] for row in rows if row["knowledge"]}
    views = [view for split in ("train", "dev", "test") for view in made.rows(f"data/views/{split}.jsonl")]
    assert sum(view["context"].endswith(" ".join(said.get(view["id"], "?").split())) for view in views) == 8254
