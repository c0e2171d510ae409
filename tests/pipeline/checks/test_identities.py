"""What a stage loads is called by its content, or by the commit in the hub's cache; nothing is fetched for it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.checks.identities import identities
from pipeline.core import checkpoints
from pipeline.settings import params, yaml
from pipeline.settings.params import Params
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sample's checkpoints, and a hub's cache that is empty."""
    shutil.copytree(ROOT / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "sample").symlink_to(ROOT / "sample")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def settings(**sections: Mapping[str, object]) -> Params:
    values = yaml.load(ROOT / "params.yaml").values
    for section, changes in sections.items():
        for key, value in changes.items():
            if isinstance(value, dict):
                values[section].setdefault(key, {}).update(value)
            else:
                values[section][key] = value
    return params.parse(yaml.dump(values), "params.yaml")


def test_of_the_sample_each_stage_has_its_own_checkpoint(project: Path) -> None:
    found = identities(settings())
    assert {stage: sorted(identity["checkpoints"]) for stage, identity in found.items()} == {
        "posts": [],
        "images": [],
        "objects": ["objects.transformers.model"],
        "captions": ["captions.blip.model"],
        "ocr": [],
        "features": [],
        "knowledge": [],
        "views": [],
        "train": ["train.encoder"],
        "evaluate": [],
        "report": [],
    }
    assert found["train"]["checkpoints"]["train.encoder"] == (
        f"sha256:{checkpoints.digest(project / 'checkpoints/sample/xlm-r')}"
    )


def test_a_changed_file_changes_its_stages_identity_alone(project: Path) -> None:
    before = identities(settings())
    config = project / "checkpoints/sample/blip/config.json"
    config.write_text(config.read_text().replace("{", '{"a": 1,', 1))
    (project / "checkpoints/other.safetensors").write_bytes(b"weights")
    after = identities(settings())
    assert {stage for stage in before if before[stage] != after[stage]} == {"captions"}


def test_a_name_on_the_hub_is_called_by_the_commit_in_the_cache(project: Path) -> None:
    named = {"encoder": "someone/encoder", "revision": "v2"}
    assert identities(settings(train=named))["train"]["checkpoints"] == {"train.encoder": "someone/encoder@v2"}
    named = {"encoder": "someone/encoder"}
    assert identities(settings(train=named))["train"]["checkpoints"] == {"train.encoder": "someone/encoder"}
    assert not (project / "hub").exists()
    repository, commit = project / "hub/models--someone--encoder", "c" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    shutil.copytree(project / "checkpoints/sample/xlm-r", repository / "snapshots" / commit)
    found = identities(settings(train=named))["train"]["checkpoints"]
    assert found == {"train.encoder": f"someone/encoder@{commit}"}


def test_what_runs_elsewhere_depends_on_the_pins_of_its_environment(project: Path) -> None:
    weights = project / "w.safetensors"
    weights.write_bytes(b"weights")
    os.makedirs(project / "bert")
    (project / "bert/vocab.txt").write_text("[PAD]\n")
    lavis = {"weights": "w.safetensors", "tokenizer": "bert"}
    found = identities(settings(captions={"extractor": "lavis", "lavis": lavis}, train={"trainer": "flair"}))
    assert sorted(found["captions"]["checkpoints"]) == ["captions.lavis.tokenizer", "captions.lavis.weights"]
    for stage, name in (("captions", "lavis"), ("train", "flair")):
        environment = found[stage]["environment"]
        assert environment is not None
        assert environment["name"] == name
        assert len(environment["pins"]) == 64
    assert found["objects"]["environment"] is None


def test_an_extractor_of_ones_own_and_files_below_the_data_set(project: Path) -> None:
    (project / "mine.bin").write_bytes(b"x")
    own = {"extractor": "pathlib:Path", "pathlib:Path": {"weights": "mine.bin", "other": "a/b", "prompt": "mine.bin"}}
    found = identities(settings(ocr=own))["ocr"]["checkpoints"]
    assert list(found) == ["ocr.pathlib:Path.weights"]
    precomputed = {"extractor": "precomputed", "precomputed": {"path": "sample/data/train.txt"}}
    assert identities(settings(ocr=precomputed))["ocr"]["checkpoints"] == {}  # a dep of the stage as it is


def test_changed_word_vectors_train_again(project: Path) -> None:
    (project / "vectors.txt").write_text("name 1.5\n", encoding="utf-8")
    own = {"model": "iie4mner", "iie4mner": {"word_vectors": "vectors.txt"}}
    before = identities(settings(train=own))["train"]["checkpoints"]
    assert before["train.iie4mner.word_vectors"].startswith("sha256:")
    assert (
        "train.iie4mner.word_vectors" not in identities(settings(train=own | {"model": "ita"}))["train"]["checkpoints"]
    )
    (project / "vectors.txt").write_text("name 2.5\n", encoding="utf-8")
    assert identities(settings(train=own))["train"]["checkpoints"] != before


def test_every_file_of_a_list_is_named(project: Path) -> None:
    """Those below the data set's folder are not: stages depend on that."""
    for name in ("a.jsonl", "b.jsonl"):
        (project / name).write_text(name)
    paths = ["a.jsonl", "sample/data/train.txt", "b.jsonl"]
    found = identities(settings(knowledge={"extractor": "precomputed", "precomputed": {"path": paths}}))
    assert sorted(found["knowledge"]["checkpoints"]) == ["knowledge.precomputed.path.0", "knowledge.precomputed.path.2"]


def test_an_extractor_of_ones_own_is_known_by_its_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project)
    file = project / "reader_of_mine.py"
    file.write_text("class Reader:\n    def fingerprint(self): return {}\n    def extract(self, images): return []\n")
    own = {"extractor": "reader_of_mine:Reader"}
    before = identities(settings(ocr=own))
    file.write_text(file.read_text() + "# edited\n")
    after = identities(settings(ocr=own))
    assert {stage for stage in before if before[stage] != after[stage]} == {"ocr"}
