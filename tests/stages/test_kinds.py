"""A kind of context is one entry: a made-up fourth one goes through extraction, views and report."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.reporting.made import MadePost, finish, project
from tests.reporting.test_report import text_of

RECORD = '''
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Mood:
    """How a picture feels."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    feeling: str
    score: float | None = None
    box: tuple[float, float, float, float] | None = None


'''
ENTRY = """
        TextKind("moods", Mood, lambda mood, template: f"feels {mood.feeling}", called="moods", batch_size=2),
"""
EXTRACTOR = """
from pipeline.core.kinds import Mood


class Moods:
    def fingerprint(self):
        return {"name": "moods", "version": 1}

    def extract(self, images):
        return [[Mood("gloomy" if sum(image.getpixel((0, 0))) < 300 else "bright", 0.8, (1.0, 1.0, 9.0, 9.0))]
                for image in images]
"""
STAGE = '''"""Stage `moods`: pictures → data/contexts/moods.jsonl."""

from stages.shared import extraction

if __name__ == "__main__":
    extraction.run("moods")
'''


@pytest.mark.slow  # several stages
def test_a_fourth_kind_is_one_entry(tmp_path: Path) -> None:
    posts = [MadePost("a", ["see", "Rome"], ["O", "B-LOC"], (60, 40), [], ["a street"])]
    made = project(tmp_path / "run", {"test": posts}, run=False)
    for name in ("pipeline", "stages"):
        (made.folder / name).unlink()
        shutil.copytree(ROOT / name, made.folder / name)
    kinds = made.folder / "pipeline/core/kinds.py"
    before, listed, after = kinds.read_text(encoding="utf-8").partition("KINDS: dict[str, Kind] = {")
    assert listed
    kinds.write_text(before + RECORD + listed + after.replace("    for kind in (", "    for kind in (" + ENTRY, 1))
    (made.folder / "moods.py").write_text(EXTRACTOR, encoding="utf-8")
    (made.folder / "stages/moods.py").write_text(STAGE, encoding="utf-8")
    params = made.folder / "params.yaml"
    text = params.read_text(encoding="utf-8").replace("\nviews:\n", "\nviews:\n  moods: {max: 3}\n")
    params.write_text(f"{text}\nmoods:\n  extractor: moods:Moods\n", encoding="utf-8")
    made.edit(views={"kinds": ["moods", "captions"]})
    for stage in ("posts", "images", "objects", "captions", "ocr", "features", "knowledge", "moods", "views"):
        made.run("python", "-m", f"stages.{stage}")
    [row] = made.rows("data/contexts/moods.jsonl")
    assert row["status"] == "ok"
    [mood] = row["moods"]
    assert mood == {"feeling": mood["feeling"], "score": 0.8, "box": [1.0, 1.0, 9.0, 9.0]}
    assert made.rows("data/views/test.jsonl")[0]["context"] == f"feels {mood['feeling']} . a street"
    assert json.loads((made.folder / "data/views/sources.json").read_text())["contexts"]["moods"] == "moods:Moods"
    finish(made)
    page = (made.folder / "report/index.html").read_text(encoding="utf-8")
    assert "moods:Moods" in text_of(page)
    assert 'id="f-moods"' in page, "its boxes can be drawn"
    assert f"feels {mood['feeling']}" in (made.folder / "report/assets/posts.js").read_text(encoding="utf-8")
    made.edit(views={"kinds": ["moods", "smells"]})
    refused = made.run("python", "-m", "stages.views", expect=2)
    assert "views.kinds.1: found 'smells', expected one of moods, objects, captions, ocr, knowledge" in refused
