"""The ablation: settings as DVC takes them, tables against figures worked out by hand, a real grid that is killed."""

import json
import re
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.settings import yaml
from reporting.ablation_tables import Runs, table
from reporting.grid import Grid, Value, override, read_grid
from tests.conftest import ROOT
from tests.project import Project, kill_group, wait_for

GRID = {
    "title": "<b>Two systems</b>",
    "seeds": [1, 2],
    "baseline": "text",
    "systems": {
        "text": {"title": "text alone", "params": {"train.views": "text_only"}},
        "ocr": {"title": "OCR | words", "params": {"views.kinds": ["ocr"], "train.alignment": "none"}},
    },
}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.views", "text_only", "train.views=text_only"),
        ("views.kinds", ["ocr", "objects"], "views.kinds=[ocr,objects]"),
        ("train.learning_rate", 1e-4, "train.learning_rate=0.0001"),
        ("train.detach_teacher", False, "train.detach_teacher=false"),
        ("train.patience", None, "train.patience=null"),
        ("captions.blip.prompt", "it's a, b", "captions.blip.prompt='it\\'s a, b'"),
        ("captions.blip.prompt", "null", "captions.blip.prompt='null'"),
    ],
)
def test_settings_are_written_as_dvc_takes_them(key: str, value: Value, expected: str) -> None:
    assert override(key, value) == expected


def test_the_shipped_grid_is_whole() -> None:
    grid = read_grid(ROOT / "ablation.yaml")
    assert len(grid.systems) == 9
    assert grid.systems["all-kl"].params == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "none"}, "baseline: no system 'none'; there are: text, ocr"),
        ({"seeds": []}, "seeds: "),
        ({"seed": 1}, "grid.yaml:17: seed: unknown key; expected one of title, seeds, split"),
        ({"systems": {"a b": {"title": ""}, "text": {"title": ""}}}, "'a b': a name is of letters"),
    ],
)
def test_a_bad_grid_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.dump({**GRID, **change}), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        read_grid(path)


def test_rows_have_means_spreads_and_the_test_of_the_text_only_view() -> None:
    gold = [["B-PER", "O"]] * 40
    wrong, right = [["O", "O"]] * 40, gold
    found = {
        "text": Runs({"strict": {"text_only": [50.0, 54.0]}}, [right[:20] + wrong[:20], wrong]),
        "ocr": Runs({"strict": {"text_only": [60.0], "cross_modal": [70.0]}}, [right]),
    }
    text, ocr = table(Grid.model_validate(GRID), gold, found, "strict")
    assert text.cells["text_only"] == (52.0, pytest.approx(8**0.5))
    assert (text.cells["cross_modal"], text.difference) == (None, None)
    assert ocr.cells["cross_modal"] == (70.0, None)
    assert ocr.difference == pytest.approx(100 * (1 - 2 * 20 / 60))  # of the first seed, which both have run
    assert ocr.p_value is not None
    assert ocr.p_value < 0.01


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_grid_runs_as_experiments_and_a_killed_one_goes_on(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "cut")
    project.edit(train={"epochs": 1})
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        git = ["-c", f"import subprocess; subprocess.run(['git', 'config', {key!r}, {value!r}], check=True)"]
        project.run("python", *git)
    (project.folder / "grid.yaml").write_text(yaml.dump(GRID), encoding="utf-8")
    before = (project.folder / "params.yaml").read_bytes()
    page = project.folder / "report" / "ablation.html"
    process = project.start("python", "-m", "reporting.ablation", "grid.yaml")
    wait_for(page.exists, 280)  # after the first of four cells
    kill_group(process)
    assert "1 seed so far" in page.read_text(encoding="utf-8")
    output = project.run("python", "-m", "reporting.ablation", "grid.yaml")
    assert "[4/4] ocr, seed 2: " in output
    assert (project.folder / "params.yaml").read_bytes() == before
    assert project.repro("evaluate") == []
    found = json.loads((project.folder / "report" / "ablation.json").read_text(encoding="utf-8"))
    assert set(found["text"]["strict"]) == {"text_only"}
    assert found["text"]["strict"]["text_only"] != found["ocr"]["strict"]["text_only"]
    assert [len(values) for values in found["ocr"]["conlleval"].values()] == [2, 2, 2]
    text = (project.folder / "report" / "ablation.md").read_text(encoding="utf-8")
    assert "| OCR / words |" in text
    assert "<b>" not in page.read_text(encoding="utf-8")
    experiments = project.run("dvc", "exp", "list", "--name-only").split()
    assert set(experiments) >= {"grid-text-s1", "grid-text-s2", "grid-ocr-s1", "grid-ocr-s2"}
