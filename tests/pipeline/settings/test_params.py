"""A mistake in params.yaml is one line: file, line, key, what was found, what was expected."""

import re
import time
from pathlib import Path

import pytest
from PIL import Image

from ner.scoring.f1 import MICRO
from ner.scoring.surface import SEEN, UNSEEN
from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.corpus.report import report
from pipeline.extractors.registry import option_models
from pipeline.settings import params
from pipeline.settings.reference import reference
from pipeline.settings.section import changed
from pipeline.settings.training import TrainParams
from reporting.scores import NOTHING
from tests.conftest import ROOT

OPTIONS = {kind: option_models(kind) for kind in KINDS}


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs:", "  epoch:", r"params\.yaml:\d+: train\.epoch: unknown key; expected one of model, trainer, "),
        ("\nviews:", "\nview:", r"params\.yaml:\d+: view: unknown key; expected one of data, images"),
        ("word_dropout: 0.1", "word_dropout: 1.5", r"train\.word_dropout: found 1\.5, expected less than 1"),
        (
            "  - captions\n",
            "  - tags\n",
            r"params\.yaml:\d+: views\.kinds\.1: found 'tags'",
        ),
        ("  - captions\n", "  - ocr\n", r"params\.yaml:\d+: views\.kinds: names a kind twice"),
        (
            "  - valid.txt",
            "  - ../valid.txt",
            r"data\.dev\.0: found '\.\./valid\.txt', expected a path below",
        ),
        ("  images: images", "  images: /etc", r"data\.images: found '/etc', expected a path below"),
        (
            "  images: images",
            "  images: ../x",
            r"'\.\./x', .*; pictures may lie elsewhere where data\.listing lists",
        ),
        (
            "  root: sample/data",
            "  root: s3://x/y",
            r"data\.root: found 's3://x/y', .*`dvc import-url URL FOLDER`",
        ),
        ("  listing:", "  listing: ../list", r"data\.listing: found '\.\./list', expected a path below data\.root"),
        ("  images: images", "  images: s3://me:pass@x/y", r"images: found 's3://…@x/y', expected a URL without user"),
        ("\n  results: ", "\n  results: https://me@x/y  ", r"results: found 'https://…@x/y', expected a URL without"),
        ("\n  results: ", "\n  results: s3://  ", r"results: found 's3://', expected a place behind ://"),
        ("{id}.jpg", "{name}.jpg", r"data\.image_name: found '\{name\}\.jpg'"),
        ("{id}.jpg", "{id}}.jpg", r"yaml:\d+: data\.image_name: found '\{id\}\}\.jpg', expected .*no other braces"),
        ("  types: {}", "  types: {OTHER: ''}", r"params\.yaml:\d+: data\.types\.OTHER: found ''"),
        (
            "  types: {}",
            "  types: {OTHER: none}",
            r"types\.OTHER: found 'none', expected a name other than micro, none",
        ),
        ("max_pixels: 50000000", "max_pixels: 178956971", r"found 178956971, expected less than or equal to 178956970"),
        ("warmup_ratio: 0.1", "warmup_ratio: 1.0", r"train\.warmup_ratio: found 1\.0, expected less than 1"),
        ("  seed: 1", "  seed: 1\n  seed: 2", r"line \d+: train\.seed: given twice \(first on line \d+\)"),
        ("  seed: 1", "  seed: [", r"params\.yaml:\d+: not YAML"),
        ("\ndata:", "\n\ndata:  # \x07", r"params\.yaml:6: not YAML: the character U\+0007 is not allowed; remove it"),
        ("  types: {}", "  types: &a {x: *a}", r"params\.yaml: nested too deeply, or an alias"),
        ("device: auto", "device: gpu", r"execution\.device: found 'gpu'"),
        ("device: auto", "device: mps", r"yaml:\d+: execution\.device: found 'mps', expected auto, .* float64"),
        (
            "  seed: 1",
            "  seed: 4294967296",
            r"yaml:\d+: train\.seed: found 4294967296, expected less than or equal",
        ),
        ("  seed: 1", "  seed: -1", r"yaml:\d+: train\.seed: found -1, expected greater than or equal to 0"),
        ("  types: {}", "  types: {? [a]\n: b}", r"params\.yaml: line \d+: a list or a mapping cannot be a key"),
        ("gradient_accumulation: 1", "gradient_accumulation: 3", r"params\.yaml:\d+: train\.batch_size: 16 tweets"),
        (
            "  one_pass: []",
            "  one_pass: [objects, knowledge]",
            r"one_pass\.1: found 'knowledge', expected one of objects, ",
        ),
        ("  processes: 1", "  processes: 3", r"16 tweets cannot be split evenly among 3 processes"),
    ],
)
def test_a_mistake_is_named(edited: Edited, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        params.load(edited(old, new))


@pytest.mark.parametrize(
    ("section", "old", "new", "message"),
    [
        (
            "train",
            "alignment: marginal",
            "alignment: sequence",
            "alignment: found 'sequence', expected marginal or none",
        ),
        ("train", "alignment_warmup: 0.0", "alignment_warmup: 0.5", "alignment_warmup: found 0.5, expected 0.0"),
        ("train", "context_dropout: 0.0", "context_dropout: 0.1", "ita.context_dropout: found 0.1, expected 0.0"),
        ("execution", "processes: 1", "processes: 2", "processes: found 2, but train.trainer: flair runs in 1"),
    ],
)
def test_what_flairs_trainer_cannot_do_is_named(edited: Edited, section: str, old: str, new: str, message: str) -> None:
    path = edited("trainer: transformers", "trainer: flair")
    assert params.load(path).train.trainer == "flair"
    path.write_text(path.read_text().replace(f"  {old}", f"  {new}", 1))
    with pytest.raises(UserError, match=rf"params\.yaml:\d+: {section}\.{re.escape(message)}"):
        params.load(path)


def test_brackets_without_end_are_one_message(edited: Edited) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: nested too deeply"):
        params.load(edited("  types: {}", f"  types: {'[' * 3000}{']' * 3000}"))


def test_aliases_that_repeat_each_other_end_in_one_message_at_once(edited: Edited) -> None:
    """Ten aliases in ten, nine times over: a billion values, where they are followed."""
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    path = edited("# Every knob", f"a0: &a0 x\n{levels}# Every knob")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"params\.yaml: more than 20,000 keys and values, .* aliases"):
        params.load(path)
    assert time.monotonic() - began < 5


def test_an_alias_stands_for_what_it_names(edited: Edited) -> None:
    path = edited("  types: {}", "  types: &t {A: B}")
    path.write_text(path.read_text().replace("weights: {text_only: 1.0,", "weights: {text_only: *w,"))
    path.write_text(path.read_text().replace("temperature: 4.0", "temperature: &w 4.0"))
    assert params.load(path).train.weights.text_only == 4.0


def test_as_many_pixels_as_pillow_opens_are_accepted(edited: Edited) -> None:
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == params.MOST_PIXELS
    path = edited("max_pixels: 50000000", f"max_pixels: {params.MOST_PIXELS}")
    assert params.load(path).images.max_pixels == params.MOST_PIXELS


def test_reserved_types_are_the_keys_that_stand_beside_types() -> None:
    assert set(params.RESERVED_TYPES) == {MICRO, NOTHING, "total", SEEN, UNSEEN}
    assert "total" in report({"train": [], "dev": [], "test": []})["splits"]["train"]["entities"]["strict"]


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
    assert page == reference(ROOT / "params.yaml", OPTIONS), "python -m pipeline.params reference > docs/params.md"
    keys = {key for key in params.key_lines(ROOT / "params.yaml") if not key.rpartition(".")[2].isdigit()}
    leaves = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    assert len(leaves) > 100
    # An option may itself be a mapping, whose keys are its value.
    assert {
        key for key in leaves if not any(f"\n| `{name}` |" in page for name in (key, key.rpartition(".")[0]))
    } == set()


def test_the_reference_says_what_is_allowed_and_why(edited: Edited) -> None:
    page = reference(edited("  seed: 1", "  seed: 7   # a | lucky <one>"), OPTIONS)
    assert "| `train.seed` | integer ≥ 0, ≤ 4294967295 | `1` | `7` | a \\| lucky \\<one> |" in page
    assert '| `captions.blip.decoding` | `"beams"`, `"nucleus"` | `"beams"` |  | beams, or nucleus: sampled |' in page
    assert "| `captions.blip.model` | text | required |" in page
    assert '| `objects.yolox.classes` | `"coco"` or one or more of: text |' in page


def test_no_path_of_the_machine_is_in_what_was_changed() -> None:
    """It goes into metrics/runs and the report."""
    found = {change.key: change.value for change in changed(TrainParams(encoder="/home/me/encoders/mine"))}
    assert found["encoder"] == "mine"


@pytest.mark.parametrize(
    "images", ["/pictures", "../pictures", "pictures", "../tars/{000..009}.tar", "s3://x/pictures"]
)
def test_pictures_that_are_listed_may_lie_anywhere(edited: Edited, images: str) -> None:
    path = edited("  listing:", "  listing: list.sha256")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  images: images", f"  images: {images}"), encoding="utf-8")
    data = params.load(path).data
    assert data.listing_file == Path("sample/data/list.sha256")
    elsewhere = {"../tars/{000..009}.tar": "sample/data/../tars/{000..009}.tar", "s3://x/pictures": "s3://x/pictures"}
    assert data.images_elsewhere == elsewhere.get(images)
    if images == "/pictures":
        assert data.images_folder == Path("/pictures")
    path.write_text(text.replace("  images: images", "  images:"), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"params\.yaml:\d+: data\.listing: names a file, but data\.images says of no place"
    ):
        params.load(path)
