"""What looks like a beginner's slip is said, is no error, and is not said of the sample or of real settings."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.checks.slips import slips
from pipeline.settings import params, presets, yaml
from tests.conftest import ROOT


def keys(path: Path, **data: object) -> list[str]:
    values = yaml.load(path).values
    values["data"] |= data
    return [key for key, _ in slips(params.parse(yaml.dump(values), "params.yaml"))]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_sample_as_it_ships_has_none() -> None:
    assert keys(ROOT / "params.yaml") == []


def test_other_data_with_what_was_made_for_the_sample() -> None:
    assert keys(ROOT / "params.yaml", root="corpora/mine") == [
        "objects.transformers.model",
        "captions.blip.model",
        "train.encoder",
        "ocr.rapidocr.limit_side_len",
    ]


def test_a_real_encoder_at_the_samples_learning_rate(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("encoder: checkpoints/sample/xlm-r", "encoder: FacebookAI/xlm-roberta-base"))
    assert keys(path) == ["train.learning_rate"]


def test_the_preset_for_tweets_has_none(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    presets.apply("tweets", path)
    assert keys(path, root="corpora/mine") == []


def test_params_check_warns_with_the_line_and_succeeds(tmp_path: Path) -> None:
    """Of data that are the sample's, under another name."""
    (tmp_path / "mine").symlink_to(ROOT / "sample/data")
    for name in ("checkpoints", "ner", "pipeline"):
        (tmp_path / name).symlink_to(ROOT / name)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("root: sample/data", "root: mine")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.params", "check"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    line = text.splitlines().index("    limit_side_len: 320        # pixels") + 1
    assert done.returncode == 0, done.stderr
    assert f"warning: params.yaml:{line}: ocr.rapidocr.limit_side_len: 320 pixels suit the sample's" in done.stderr
    assert done.stdout == "params.yaml: valid, and what it names is there\n"
