"""Posts through the engine: by all that the extractor is shown of them, once each."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Note, Post
from pipeline.core.store import Store
from pipeline.engine.inputs import PostInputs
from pipeline.engine.run import Summary, run
from pipeline.extractors.base import PostInput, Wants
from pipeline.images.pictures import Folder
from pipeline.settings.params import ImagesParams
from tests.pipeline.engine.bench import colour, figures, make_pictures, rows_of

LIMITS = ImagesParams()


class Says:
    """Says of a post all that it is shown; fails on the word `bad`."""

    def __init__(self, wants: Wants | None = None) -> None:
        self.shown, self.seen = wants or Wants(), list[PostInput]()

    def wants(self) -> Wants:
        return self.shown

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "says", "version": 1}

    def extract(self, posts: Sequence[PostInput]) -> list[list[Note]]:
        self.seen += posts
        if any("bad" in post.tokens for post in posts):
            raise ValueError("a bad word")
        return [[Note(f"{post.text} | {dict(post.contexts)} | {[*map(colour, post.pictures)]}")] for post in posts]


def post(name: str, text: str, *images: str) -> Post:
    return Post(name, text.split(), None, list(images))


class Bench:
    """Posts, a store, an output, and perhaps pictures."""

    def __init__(self, place: Path) -> None:
        self.store, self.output, self.folder = Store.open(place / "store"), place / "out.jsonl", place / "images"

    def run(
        self, extractor: Any, posts: Sequence[tuple[str | None, Post]], words: Sequence[Mapping[str, str]] = ()
    ) -> Summary:
        rows = rows_of(self.folder) if self.folder.exists() else []
        wants = extractor.wants() if hasattr(extractor, "wants") else Wants()
        inputs = PostInputs(posts, wants, words or [{}] * len(posts), rows, Folder(self.folder, LIMITS), LIMITS)
        return run("knowledge", extractor, inputs, self.output, self.store, batch_size=4)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_same_text_is_read_once_and_has_a_row_for_every_post(bench: Bench) -> None:
    posts = [("train", post("b", "see Rome")), ("test", post("a", "see Rome")), ("dev", post("b", "at home"))]
    says = Says()
    summary = bench.run(says, posts)
    assert sorted(each.text for each in says.seen) == ["at home", "see Rome"]
    assert str(summary) == "3 posts: 2 read, 1 from the store, 0 failed"
    assert [(row["id"], row["split"]) for row in bench.rows()] == [("a", "test"), ("b", "dev"), ("b", "train")]
    assert bench.rows()[0]["knowledge"] == bench.rows()[2]["knowledge"]
    again = Says()
    assert figures(bench.run(again, [*posts, (None, post("c", "new"))])) == (1, 3, 0)
    assert [each.text for each in again.seen] == ["new"]


def test_what_is_shown_decides_and_nothing_else(bench: Bench) -> None:
    wants, posts = Wants(frozenset({"captions"})), [("test", post("a", "see Rome"))]
    assert figures(bench.run(Says(wants), posts, [{"captions": "a dog", "ocr": "STOP"}])) == (1, 0, 0)
    assert bench.rows()[0]["knowledge"][0]["text"] == "see Rome | {'captions': 'a dog'} | []"
    assert figures(bench.run(Says(wants), posts, [{"captions": "a dog", "ocr": "another"}])) == (0, 1, 0)
    assert figures(bench.run(Says(wants), posts, [{"captions": "a cat", "ocr": "STOP"}])) == (1, 0, 0)
    assert figures(bench.run(Says(wants), posts, [{"captions": "a dog"}])) == (0, 1, 0)


def test_pictures_are_shown_where_they_are_wanted_and_can_be_read(bench: Bench) -> None:
    names = make_pictures(bench.folder, 3)
    (bench.folder / "broken.png").write_bytes(b"no picture")
    posts = [("test", post("a", "see Rome", "broken.png", *names)), ("test", post("b", "see Rome"))]
    says = Says(Wants(pictures=2))
    assert figures(bench.run(says, posts)) == (2, 0, 0)
    assert sorted(len(each.pictures) for each in says.seen) == [0, 2]
    assert figures(bench.run(Says(), posts)) == (0, 2, 0), "without them, both are the text that has been read"
    (bench.folder / names[0]).write_bytes((bench.folder / names[2]).read_bytes())
    assert figures(bench.run(Says(Wants(pictures=2)), posts)) == (1, 1, 0), "another picture under the name"


def test_a_picture_that_goes_while_it_is_read_is_a_row(bench: Bench) -> None:
    [name] = make_pictures(bench.folder, 1)
    rows = rows_of(bench.folder)
    (bench.folder / name).unlink()
    inputs = PostInputs(
        [("test", post("a", "see Rome", name)), ("test", post("b", "home"))],
        Wants(pictures=1),
        [{}, {}],
        rows,
        Folder(bench.folder, LIMITS),
        LIMITS,
    )
    assert figures(run("knowledge", Says(), inputs, bench.output, bench.store)) == (1, 0, 1)
    assert [(row["status"], row["error"]) for row in bench.rows()] == [
        ("failed", f"{name}: No such file or directory"),
        ("ok", None),
    ]


def test_a_post_that_fails_is_a_row_and_the_others_are_read(bench: Bench) -> None:
    posts = [("test", post(str(number), text)) for number, text in enumerate(["a", "bad", "c", "d"])]
    summary = bench.run(Says(), posts)
    assert figures(summary) == (3, 0, 1)
    assert [(row["status"], row["error"]) for row in bench.rows()][1] == ("failed", "ValueError: a bad word")
    assert str(summary).endswith("1 failed; to try again what failed here: run the same command once more")
    with pytest.raises(UserError, match="failed on each of the 2 posts that it was given, lastly on 1: ValueError"):
        bench.run(Says(), [("test", post("0", "bad a")), ("test", post("1", "bad b"))])


def test_what_is_no_note_stops_the_run(bench: Bench) -> None:
    class Wrong(Says):
        def extract(self, posts: Sequence[PostInput]) -> list[list[Note]]:
            return [["a"] for _ in posts]  # type: ignore[list-item]

    with pytest.raises(UserError, match=r"knowledge: Wrong gave list .* for a post; expected a list of Note"):
        bench.run(Wrong(), [("test", post("a", "see Rome"))])


def test_looked_up_knowledge_needs_an_entry_for_one_post_at_least(bench: Bench) -> None:
    class Published:
        source = "a file"

        def lookup(self, given: PostInput) -> list[Note] | None:
            return [Note(f"{given.id} {given.split}")] if given.id == "a" else None

    posts = [("dev", post("a", "x")), ("test", post("b", "y"))]
    assert figures(bench.run(Published(), posts)) == (1, 0, 1)
    assert [(row["status"], row["error"]) for row in bench.rows()] == [
        ("ok", None),
        ("missing", "the extractor has no entry for this post"),
    ]
    assert [context.items for context in TEXT_KINDS["knowledge"].read(bench.output)] == [[Note("a dev")], []]
    with pytest.raises(UserError, match="a file covers none of the data set's 1 posts, the first of which is b; check"):
        bench.run(Published(), posts[1:])
