"""`python -m ner.scoring`: what it prints beside scores."""

import json
import sys
from pathlib import Path

import pytest

from ner.scoring.__main__ import main


def test_what_is_skipped_is_said_beside_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gold, predicted = tmp_path / "gold.txt", tmp_path / "predicted.txt"
    gold.write_text("-DOCSTART-\n\n# id 0a1\nParis\tB-LOC\nrocks\tO\n", encoding="utf-8")
    predicted.write_text("Paris\tB-LOC\nrocks\tO\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["ner.scoring", str(gold), str(predicted), "--json", "--bootstrap-samples", "0"])
    main()
    output, errors = capsys.readouterr()
    assert json.loads(output)["strict"]["micro"]["f1"] == 1
    assert errors == f"{gold}: 1 -DOCSTART- line skipped, 1 comment line skipped\n"
