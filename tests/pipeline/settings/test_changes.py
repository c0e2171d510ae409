"""Settings changed by dotted key: what is there alone, each mistake with its place."""

import re
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.settings import yaml
from pipeline.settings.changes import changed, parsed
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def document() -> yaml.Document:
    return yaml.load(ROOT / "params.yaml")


def test_what_is_changed_is_valid_and_the_rest_stays(document: yaml.Document) -> None:
    before = yaml.dump(document.values)
    settings = changed(document, {"train.views": "text_only", "views.kinds": ["ocr"]}, "x", {})
    assert (settings.train.views, settings.views.kinds, settings.train.epochs) == ("text_only", ["ocr"], 8)
    assert yaml.dump(document.values) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train.epoch": 3},
            "x:7: train.epoch: params.yaml has no such key, and only what is there can be changed; is ",
        ),
        ({"train.epochs.n": 3}, "x: train.epochs.n: params.yaml has no such key"),
        ({"zzz": 3}, "x: zzz: params.yaml has no such key, and only what is there can be changed"),
        ({"train.epochs": 0}, "x: train.epochs: found 0"),
    ],
)
def test_a_mistake_is_named(document: yaml.Document, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        changed(document, changes, "x", {"train.epoch": 7})


def test_a_command_line_gives_values_in_yaml() -> None:
    given = [
        "train.patience=null",
        "views.kinds=[ocr, objects]",
        "train.learning_rate=5e-4",
        "a=b=c",
        "train.views=both",
    ]
    assert parsed(given) == {
        "train.patience": None,
        "views.kinds": ["ocr", "objects"],
        "train.learning_rate": 5e-4,
        "a": "b=c",
        "train.views": "both",
    }
    for wrong, message in (
        (["train.views"], "train.views: expected KEY=VALUE"),
        (["=3"], "=3: expected KEY=VALUE"),
        (["a=[1"], "a=[1:1: not YAML"),
        (["a=1", "a=2"], "a=2: a is given twice"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            parsed(wrong)
