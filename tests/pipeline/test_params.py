"""A mistake in params.yaml is one line: file, line, key, what was found, what was expected."""

import re
from pathlib import Path

import pytest

from pipeline import params
from pipeline.errors import UserError
from pipeline.reference import reference
from tests.conftest import ROOT


@pytest.fixture
def edited(tmp_path: Path) -> "Edited":
    return Edited(tmp_path)


class Edited:
    """The shipped params with something replaced."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "params.yaml"

    def __call__(self, old: str, new: str) -> Path:
        text = (ROOT / "params.yaml").read_text()
        assert old in text
        self.path.write_text(text.replace(old, new, 1))
        return self.path


def test_the_shipped_params_are_valid() -> None:
    assert params.load(ROOT / "params.yaml").train.views == "both"


@pytest.mark.parametrize(("old", "new", "message"), [
    ("  epochs:", "  epoch:", r"params\.yaml:\d+: train\.epoch: unknown key; expected one of trainer, "),
    ("\nviews:", "\nview:", r"params\.yaml:\d+: view: unknown key; expected one of data, images"),
    ("word_dropout: 0.1", "word_dropout: 1.5", r"train\.word_dropout: found 1\.5, expected less than 1"),
    ("kinds: [objects, captions, ocr]", "kinds: [objects, tags]", r"params\.yaml:\d+: views\.kinds\.1: found 'tags'"),
    ("kinds: [objects, captions, ocr]", "kinds: [ocr, ocr]", "names a kind twice"),
    ("  dev: [valid.txt]", "  dev: [../valid.txt]", r"data\.dev\.0: found '\.\./valid\.txt', expected a path below"),
    ("  images: images", "  images: /etc", r"data\.images: found '/etc', expected a path below"),
    ('"{id}.jpg"', '"{name}.jpg"', r"data\.image_name: found '\{name\}\.jpg'"),
    ("  seed: 1", "  seed: 1\n  seed: 2", r"line \d+: train\.seed: given twice \(first on line \d+\)"),
    ("  seed: 1", "  seed: [", r"params\.yaml:\d+: not YAML"),
    ("device: auto", "device: gpu", r"execution\.device: found 'gpu'"),
    ("gradient_accumulation: 1", "gradient_accumulation: 3", r"params\.yaml: train\.batch_size: 16 tweets"),
    ("  processes: 1", "  processes: 3", r"16 tweets cannot be split evenly among 3 processes"),
])
def test_a_mistake_is_named(edited: Edited, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        params.load(edited(old, new))


@pytest.mark.parametrize(("section", "old", "new", "message"), [
    ("train", "alignment: marginal", "alignment: sequence", "alignment: found 'sequence', expected marginal or none"),
    ("train", "alignment_warmup: 0.0", "alignment_warmup: 0.5", "alignment_warmup: found 0.5, expected 0.0"),
    ("train", "context_dropout: 0.0", "context_dropout: 0.1", "context_dropout: found 0.1, expected 0.0"),
    ("execution", "processes: 1", "processes: 2", "processes: found 2, but train.trainer: flair runs in 1"),
])
def test_what_flairs_trainer_cannot_do_is_named(edited: Edited, section: str, old: str, new: str, message: str) -> None:
    path = edited("trainer: transformers", "trainer: flair")
    assert params.load(path).train.trainer == "flair"
    path.write_text(path.read_text().replace(f"  {old}", f"  {new}", 1))
    with pytest.raises(UserError, match=rf"params\.yaml.*{section}.*{re.escape(message)}"):
        params.load(path)


def test_all_mistakes_are_named_at_once(edited: Edited) -> None:
    edited("  epochs:", "  epoch:")
    edited.path.write_text(edited.path.read_text().replace("temperature: 4.0", "temperature: hot"))
    with pytest.raises(UserError) as error:
        params.load(edited.path)
    assert "train.epoch" in str(error.value)
    assert "train.temperature" in str(error.value)


def test_a_number_in_yaml_1_2_notation_is_a_number(edited: Edited) -> None:
    assert params.load(edited("learning_rate: 5.0e-4", "learning_rate: 5e-4")).train.learning_rate == 5e-4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        params.load(tmp_path / "params.yaml")


def test_the_reference_is_up_to_date_and_has_every_option() -> None:
    page = (ROOT / "docs" / "params.md").read_text(encoding="utf-8")
    assert page == reference(ROOT / "params.yaml"), "python -m pipeline.params reference > docs/params.md"
    keys = {key for key in params.key_lines(ROOT / "params.yaml") if not key.rpartition(".")[2].isdigit()}
    leaves = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    assert len(leaves) > 100
    assert {key for key in leaves if f"\n| `{key}` |" not in page} == set()


def test_the_reference_says_what_is_allowed_and_why(edited: Edited) -> None:
    page = reference(edited("  seed: 1", "  seed: 7   # a | lucky <one>"))
    assert "| `train.seed` | integer ≥ 0 | `1` | `7` | a \\| lucky \\<one> |" in page
    assert '| `captions.blip.decoding` | `"beams"`, `"nucleus"` | `"beams"` |  | beams, or nucleus: sampled |' in page
    assert "| `captions.blip.model` | text | required |" in page
    assert '| `objects.yolox.classes` | `"coco"` or one or more of: text |' in page
