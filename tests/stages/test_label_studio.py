"""Posts go to Label Studio least certain first, and come back on the same tokens."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from ner.tagger import Tagger
from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.records import FoundEntity, Prediction, View
from pipeline.corpus import label_studio as format_of
from stages import label_studio
from tests.conftest import ROOT
from tests.ner.conftest import many_views, tagger_folder, xlm_r_folder, xlm_r_tokenizer  # noqa: F401 - fixtures


@pytest.mark.parametrize("by", ["entropy", "disagreement"])
def test_tasks_are_written_least_certain_first_and_read_back(
    by: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tagger_folder: Path,  # noqa: F811
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    views = many_views(30)
    (tmp_path / "data/views").mkdir(parents=True)
    records.write(tmp_path / "data/views/unlabelled.jsonl", views)
    command = ["stages.label_studio", str(tagger_folder), "--output", "tasks.json", "--by", by, "--first", "12"]
    monkeypatch.setattr(sys, "argv", command)
    label_studio.main()
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    told = [task["data"]["uncertainty"] for task in tasks]
    assert told == sorted(told, reverse=True)
    assert len(told) == 12
    tagger = Tagger.load(tagger_folder, "cpu")
    if by == "entropy":
        assert told == pytest.approx(sorted(tagger.entropies(views), reverse=True)[:12], abs=1e-3)
    assert '<Label value="LOC"/>' in (tmp_path / "tasks.xml").read_text(encoding="utf-8")
    exported = [{"data": task["data"], "annotations": task["predictions"]} for task in tasks]
    (tmp_path / "export.json").write_text(json.dumps(exported), encoding="utf-8")
    found = {each.id: each for each in tagger.predict(views)}
    for post in format_of.read(tmp_path / "export.json"):
        assert (post.tokens, post.labels) == (found[post.id].tokens, found[post.id].predicted)


def test_views_disagree_by_what_only_one_of_them_finds() -> None:
    def read(*entities: FoundEntity) -> Prediction:
        return Prediction("1", ["a", "b"], None, ["O", "O"], list(entities), "")

    one, other = FoundEntity(0, 1, "LOC", "a", 0.75), FoundEntity(1, 2, "PER", "b", 0.5)
    assert label_studio.disagreement(read(one, other), read(one)) == 0.5
    assert label_studio.disagreement(read(one), read(other)) == 1.25
    assert label_studio.disagreement(read(one), read(FoundEntity(0, 1, "LOC", "a", 0.25))) == 0.0


def test_pictures_outside_of_the_project_need_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("  listing:", "  listing: list.sha256")
    (tmp_path / "params.yaml").write_text(text.replace("images: images", "images: /elsewhere"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["stages.label_studio", "tagger", "--output", "tasks.json"])
    with pytest.raises(UserError, match="/elsewhere: not below this project; say by --pictures PREFIX where"):
        label_studio.main()


def test_a_split_without_posts_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tagger_folder: Path,  # noqa: F811
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data/views").mkdir(parents=True)
    records.write(tmp_path / "data/views/unlabelled.jsonl", list[View]())
    monkeypatch.setattr(sys, "argv", ["stages.label_studio", str(tagger_folder), "--output", "tasks.json"])
    with pytest.raises(UserError, match="--split unlabelled: it has no posts"):
        label_studio.main()
