"""detectron2's configurations are read as data; expressions are evaluated in the installed package's alone."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.extractors import detectron2

ANCHORS = """_BASE_: "../Base.yaml"
MODEL:
  SIZES: !!python/object/apply:eval ["[[x, x * 2] for x in [32, 64]]"]
SOLVER:
  STEPS: (60000, 80000)
  BASE_LR: 5e-4
"""


def test_an_expression_is_evaluated_in_the_zoos_files_and_refused_in_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTREAD_VENVS", str(tmp_path / "venvs"))
    zoo = tmp_path / "venvs/detectron2/lib/python3.11/site-packages/detectron2/model_zoo/configs"
    (zoo / "COCO").mkdir(parents=True)
    (zoo / "Base.yaml").write_text("VERSION: 2\n", encoding="utf-8")
    (zoo / "COCO/anchors.yaml").write_text(ANCHORS, encoding="utf-8")
    options = detectron2.Detectron2Options(model="COCO/anchors.yaml", weights="w.safetensors")
    files = options.configurations()
    assert [file.resolve() for file in files] == [zoo / "COCO/anchors.yaml", zoo / "Base.yaml"]
    assert detectron2._settings(files[0]) == {
        "MODEL": {"SIZES": [[32, 64], [64, 128]]},
        "SOLVER": {"STEPS": "(60000, 80000)", "BASE_LR": 5e-4},
    }
    own = tmp_path / "own.yaml"
    own.write_text(ANCHORS, encoding="utf-8")
    with pytest.raises(UserError, match="no plain YAML"):
        detectron2._settings(own)
