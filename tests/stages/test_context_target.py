"""What contexts say as something to learn, through the stages."""

from pathlib import Path

import pytest

from tests.project import Project


@pytest.mark.slow  # the stages, each in a process of its own
def test_contexts_become_vectors_once_and_those_that_name_nothing_are_refused(tmp_path: Path) -> None:
    made = Project.make(tmp_path / "run", {"train": 24, "valid": 6, "test": 4})
    off = {"extractor": None}
    made.edit(objects=off, ocr=off, train={"epochs": 1, "context_target": {"embedding": {"weight": 0.5}}})
    for stage in ("posts", "images", "objects", "captions", "ocr", "features", "knowledge", "views"):
        made.run("python", "-m", f"stages.{stage}")
    assert "vectors of 21 contexts, 21 of which are new" in made.run("python", "-m", "stages.train")
    made.edit(train={"seed": 2})
    assert "vectors of 21 contexts, 0 of which are new" in made.run("python", "-m", "stages.train")
    made.edit(train={"context_target": {"spans": {"weight": 0.5}}})
    refused = made.run("python", "-m", "stages.train", expect=2)
    assert "no context of the 24 posts names a span of its post" in refused
    assert "0 of 24 posts have a context that names something; 0 spans" in made.run("python", "-m", "stages.named")
