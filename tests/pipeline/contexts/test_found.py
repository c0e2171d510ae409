"""What the extraction stages have written, by picture and by post."""

import random
from pathlib import Path

import pytest

from pipeline.contexts.found import Found, FoundWords
from pipeline.core.errors import UserError
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Caption, Note, Post, TextLine
from tests.pipeline.contexts.test_template import views


def test_a_post_has_what_its_pictures_gave_and_what_was_said_of_it_in_its_split(tmp_path: Path) -> None:
    captions, knowledge = TEXT_KINDS["captions"], TEXT_KINDS["knowledge"]
    with captions.writing(tmp_path / "captions.jsonl", None) as sink:
        sink.add({"image": "a.jpg", "sha256": None}, "ok", None, captions.dump([Caption("a dog")]))
    with knowledge.writing(tmp_path / "knowledge.jsonl", None) as sink:
        for split in ("dev", "test"):
            sink.add({"id": "1", "split": split}, "ok", None, knowledge.dump([Note(f"of {split}")]))
    template = views(("captions", "knowledge"))
    found = Found.read(tmp_path, template.kinds)
    assert found.words(template, Post("1", ["x"], None, ["b.jpg", "a.jpg"]), "test") == "a dog . of test"
    assert found.words(template, Post("1", ["x"], None), "dev") == "of dev"
    assert found.words(template, Post("2", ["x"], None), "dev") == ""
    assert Found.read(tmp_path, ["captions"]).posts == {}
    with pytest.raises(UserError, match=r"ocr\.jsonl: no such file"):
        Found.read(tmp_path, ["ocr"])
    words = FoundWords(tmp_path, template)
    assert words.contexts([Post("1", ["x"], None, ["b.jpg", "a.jpg"]), Post("2", ["x"], None)], "test") == [
        "a dog . of test",
        "",
    ]
    assert words.contexts([Post("1", ["x"], None)], "dev") == ["of dev"]
    with pytest.raises(UserError, match=r"ocr\.jsonl: no such file"):
        FoundWords(tmp_path, views(("ocr",)))


def test_words_on_disk_are_those_in_memory_for_many_posts(tmp_path: Path) -> None:
    rng = random.Random(1)
    images = [f"{number}.jpg" for number in range(300)]
    for name in ("captions", "ocr"):
        kind = TEXT_KINDS[name]
        with kind.writing(tmp_path / f"{name}.jsonl", None) as sink:
            for image in sorted(rng.sample(images, 250)):
                items = [TextLine("é! ", rng.random()) if name == "ocr" else Caption(f"of {image}", rng.random())]
                sink.add({"image": image, "sha256": None}, "ok", None, kind.dump(items * rng.randrange(3)))
    template = views(("captions", "ocr"))
    posts = [Post(str(number), ["x"], None, rng.sample(images, rng.randrange(4))) for number in range(1500)]
    found = Found.read(tmp_path, template.kinds)
    assert FoundWords(tmp_path, template).contexts(posts, "train") == [
        found.words(template, post, "train") for post in posts
    ]
