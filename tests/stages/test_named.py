"""What contexts name, against the labels, as the command tells it of the views that are there."""

import shutil
from pathlib import Path

import pytest

from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.records import View
from stages import named
from stages.shared import paths
from tests.conftest import ROOT


def test_it_says_how_right_names_are_and_which_words_mean_no_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages.named"])
    with pytest.raises(UserError, match=r"train\.jsonl"):
        named.main()
    tokens, context = ["Oprah", "in", "Chicago"], "1. Oprah (person) 2. Chicago (team) 3. in (preposition)"
    labelled = [
        View("1", tokens, ["B-PER", "O", "B-LOC"], context),
        View("2", tokens, ["B-PER", "O", "B-LOC"], "a woman in a city"),
    ]
    splits = {"train": labelled, "dev": [], "test": [], "unlabelled": [View("3", tokens, None, context)]}
    for split, views in splits.items():
        records.write(paths.VIEWS / f"{split}.jsonl", views)
    named.main()
    assert capsys.readouterr().out.splitlines() == [
        "train: 1 of 2 posts have a context that names something; 3 spans of them, 2 with a type",
        "  micro: precision 50.0, recall 25.0, F1 33.3 (4 entities)",
        "  LOC: precision 0.0, recall 0.0, F1 0.0 (2 entities)",
        "  ORG: precision 0.0, recall 0.0, F1 0.0 (0 entities)",
        "  PER: precision 100.0, recall 50.0, F1 66.7 (2 entities)",
        "  of no type: preposition (1)",
        "unlabelled: 1 of 1 posts have a context that names something; 3 spans of them, 2 with a type",
        "  of no type: preposition (1)",
    ]
