"""Options may stand before, between and behind what a command is about, in every Python that is supported."""

import sys
from collections.abc import Callable

import pytest

from ner import light, predict
from ner.scoring import __main__ as scoring
from pipeline.core.errors import UserError
from sightread import tag


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (tag.main, "{} --device cpu {}"),
        (predict.main, "{} --format conll {} --device cpu"),
        (light.main, "{} --format conll {}"),
        (scoring.main, "{} {} --seed 1 {}"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__module__,
)
def test_a_file_may_stand_behind_options(
    main: Callable[[], None], arguments: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments.replace("{}", f"{tmp_path}/none").split()])
    with pytest.raises(UserError, match="none: no"):  # the arguments were read: there is no such tagger or file
        main()
