"""What the extraction stages have written, by picture and by post."""

from pathlib import Path

import pytest

from pipeline.contexts.found import Found
from pipeline.core.errors import UserError
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Caption, Note, Post
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
