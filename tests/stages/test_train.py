"""The training stage: what makes two trainings the same."""

import shutil
from pathlib import Path

from stages.shared.training import CODE, code_identity
from tests.conftest import ROOT
from tests.test_dvc import code_deps


def test_changed_code_is_another_training(tmp_path: Path) -> None:
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    as_it_is = code_identity(tmp_path)
    assert as_it_is == code_identity(ROOT)
    with (tmp_path / "ner/crf/chain.py").open("a", encoding="utf-8") as file:
        file.write("# another\n")
    assert code_identity(tmp_path) != as_it_is


def test_the_code_that_decides_is_all_that_dvc_names() -> None:
    assert {Path(name) for name in CODE} == {room for room in code_deps("train") if room.parts[0] == "ner"}
