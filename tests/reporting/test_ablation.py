"""The ablation: settings as DVC takes them, tables against figures worked out by hand, a real grid that is killed."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ner.scoring.comparison import RunScore, compare_runs
from pipeline.core.errors import UserError
from pipeline.settings import params, presets, yaml
from pipeline.settings.changes import changed
from pipeline.settings.params import EvaluateParams
from reporting import ablation_tables
from reporting.ablation_formats import Contrast, escaped, legend
from reporting.ablation_tables import Runs, table
from reporting.grid import Grid, System, Teacher, Value, override, read_grid, require_runnable
from tests.conftest import ROOT
from tests.project import Project, kill_group, wait_for

TAGGERS = ("checkpoints/folds/1", "checkpoints/folds/2")
GRID: dict[str, Any] = {
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
        ({"seeds": [1, 2, 1]}, "seeds: names a seed twice"),
        ({"params": {"train.seed": 3}}, "params: sets train.seed, which is each of `seeds` in turn"),
        ({"split": "train"}, "split: found 'train', expected 'dev' or 'test'"),
        ({"seed": 1}, "grid.yaml:17: seed: unknown key; expected one of title, seeds, split"),
        ({"systems": {"a b": {"title": ""}, "text": {"title": ""}}}, "'a b': a name is of letters"),
    ],
)
def test_a_bad_grid_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.dump({**GRID, **change}), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        read_grid(path)


@pytest.fixture
def runnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a checkout's, as far as cells are checked; returns the grid's file in it."""
    for name in ("sample", "checkpoints", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "grid.yaml"


def test_mistakes_in_cells_are_found_before_anything_runs(runnable: Path) -> None:
    wrong: list[tuple[str, Value, str]] = [
        (
            "train.aligment",
            "none",
            "10: train.aligment: params.yaml has no such key, and only what is there can be changed; "
            "is train.alignment meant?",
        ),
        ("train.alignment.form", "none", "14: train.alignment.form: params.yaml has no such key"),
        ("train.alignment", "marginals", "18: train.alignment: found 'marginals', expected 'marginal', "),
        ("train.stride", 600, "22: train.stride: 600 is too much"),
        ("objects.transformers.threshold", "high", "26: objects.transformers.threshold: found 'high'"),
        ("train.encoder", "checkpoints/lost", "30: train.encoder: checkpoint checkpoints/lost"),
        ("train.teacher.taggers", ["checkpoints/no"], "train.teacher.taggers: checkpoints/no: no such folder"),
        ("evaluate.conditions", ["cross_modal"], " evaluate.conditions: lacks text_only"),
    ]
    systems = {f"s{place}": {"title": "", "params": {key: value}} for place, (key, value, _) in enumerate(wrong)}
    runnable.write_text(yaml.dump({**GRID, "baseline": "s0", "systems": systems}), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        require_runnable(read_grid(runnable), runnable)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(wrong)
    for place, (line, (_, _, message)) in enumerate(zip(lines, wrong, strict=True)):
        assert line.startswith(f"{runnable}:")
        assert message in line
        assert line.endswith(f" (systems.s{place})")


def test_teachers_that_a_grid_trains_need_not_be_there(runnable: Path) -> None:
    taught = {"title": "", "params": {"train.teacher.taggers": [f"checkpoints/informed/{number}" for number in (1, 2)]}}
    teachers = {"checkpoints/informed": {"folds": 2, "params": {"train.views": "cross_modal"}}}
    grid = {**GRID, "systems": {**GRID["systems"], "taught": taught}}
    for more, message in (
        ({"teachers": teachers}, None),
        ({}, "train.teacher.taggers: checkpoints/informed/1: no such folder"),
        ({"teachers": {"checkpoints/informed": {"folds": 1}}}, "teachers.checkpoints/informed.folds: found 1"),
        ({"teachers": {"checkpoints/informed": {"of": "ocr", "seeds": [1, 2]}}}, None),
        ({"teachers": {"x": {"of": "ocr"}}}, "expected folds, or of and seeds"),
        ({"teachers": {"x": {"folds": 2, "of": "ocr", "seeds": [1]}}}, "expected folds, or of and seeds"),
        ({"teachers": {"x": {"of": "ocr", "seeds": [1], "params": {"train.views": "both"}}}}, "leave them out"),
        ({"teachers": {"x": {"of": "ocrs", "seeds": [1]}}}, "x: no system 'ocrs'; there are: text, ocr, taught"),
        ({"teachers": {"x": {"of": "ocr", "seeds": [3]}}}, "x: seed 3 is none of `seeds`"),
        ({"teachers": {"x": {"of": "taught", "seeds": [1]}}}, "x: taught is taught by others"),
        ({"teachers": {"x": {"folds": 2, "params": {"views.kinds": []}}}}, "views.kinds: expected keys of train"),
        (
            {"teachers": {"x": {"folds": 2, "params": {"train.view": "both"}}}},
            "no such key, and only what is there can",
        ),
    ):
        runnable.write_text(yaml.dump({**grid, **more}), encoding="utf-8")
        if message is None:
            require_runnable(read_grid(runnable), runnable)
            continue
        with pytest.raises(UserError, match=re.escape(message)):
            require_runnable(read_grid(runnable), runnable)


def test_rows_whose_taggers_teach_come_first_and_seeds_stay_in_order() -> None:
    teachers = {"checkpoints/ocr": {"of": "ocr", "seeds": [1, 2]}, "checkpoints/one": {"of": "ocr", "seeds": [2]}}
    grid = Grid.model_validate({**GRID, "seeds": [2, 1, 3], "teachers": teachers})
    first = [("ocr", 2), ("ocr", 1)]
    assert grid.cells == [*first, ("text", 2), ("text", 1), ("text", 3), ("ocr", 3)]
    assert grid.taggers == {"checkpoints/ocr/1", "checkpoints/ocr/2", "checkpoints/one/2"}
    assert grid.taught_by("ocr", 2) == ["checkpoints/ocr/2", "checkpoints/one/2"]
    assert grid.taught_by("ocr", 3) == grid.taught_by("text", 2) == []
    grid = Grid.model_validate(
        {**GRID, "seeds": [2, 1, 3], "teachers": {"checkpoints/ocr": {"of": "ocr", "seeds": [1]}}}
    )
    assert grid.cells == [*first, ("text", 2), ("text", 1), ("text", 3), ("ocr", 3)], "scores are paired by their order"


def test_the_cells_of_the_shipped_grid_can_run(runnable: Path) -> None:
    require_runnable(read_grid(ROOT / "ablation.yaml"), ROOT / "ablation.yaml")


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("twitter2015", "minilm-twitter2015"),
        ("twitter2015_knowledge", "knowledge-twitter2015"),
        ("twitter2015_informed", "unlabelled-twitter2015"),
    ],
)
def test_the_grids_for_real_tweets_change_what_their_presets_have(name: str, preset: str, runnable: Path) -> None:
    presets.apply(preset, Path("params.yaml"))
    document, grid = yaml.load("params.yaml"), read_grid(ROOT / f"benchmarks/{name}.yaml")
    rows: list[System | Teacher] = [*grid.teachers.values(), *grid.systems.values()]
    for row in rows:
        settings = changed(document, grid.changes(row), name, {})
        folders = set(settings.train.teacher.taggers) - {"self"}
        assert folders <= grid.taggers
        assert len(folders) in (0, 2)
    if name == "twitter2015_informed":
        presets.apply("informed-twitter2015", Path("params.yaml"))
        recipe = params.load().train
        assert changed(document, grid.changes(grid.systems["informed"]), name, {}).train == recipe


def test_rows_have_means_spreads_and_tests_of_both_views_by_shared_seeds() -> None:
    gold = [["B-PER", "O"]] * 40
    right, half, nothing = gold, [*gold[:20], *[["O", "O"]] * 20], [["O", "O"]] * 40

    def scores(*runs: list[list[str]]) -> list[RunScore]:
        return [RunScore.of(gold, run, "strict", 200, 3) for run in runs]

    found = {
        "text": Runs({"strict": {"text_only": scores(half, nothing)}}),
        "ocr": Runs({"strict": {"text_only": scores(right), "cross_modal": scores(right)}}),
    }
    text, ocr = table(Grid.model_validate(GRID), found, "strict", 0.9)
    assert text.cells["text_only"] == (pytest.approx(100 / 3), pytest.approx(200 / 3 / 2**0.5))
    assert (text.cells["cross_modal"], text.tests) == (None, {})
    assert ocr.cells["cross_modal"] == (100.0, None)
    drawn = compare_runs(gold, [half], [right], samples=200, confidence=0.9, seed=3)["strict"]  # the first seed alone
    low, high = drawn["difference_ci"]
    assert drawn["difference"] == pytest.approx(1 - 2 * 20 / 60)
    wanted = Contrast(100 * drawn["difference"], (100 * low, 100 * high), drawn["p_value"], None)
    assert ocr.tests == {"text_only": wanted, "cross_modal": wanted}
    assert drawn["p_value"] < 0.01


@pytest.mark.parametrize("samples", [100, 0])
def test_the_tables_are_written_in_each_format(samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation_tables, "OUTPUT", tmp_path)
    gold = [["B-PER", "O"]] * 8
    grid = Grid.model_validate(GRID)
    settings = EvaluateParams(conditions=["text_only"], bootstrap_samples=samples, bootstrap_seed=7)

    def scores(*right: int) -> list[RunScore]:
        return [RunScore.of(gold, [*gold[:n], *[["O", "O"]] * (8 - n)], "strict", samples, 7) for n in right]

    found = {"text": Runs({"strict": {"text_only": scores(4, 5)}}), "ocr": Runs()}
    found["ocr"].scores["strict"] = {"text_only": scores(6, 7), "cross_modal": scores(7, 8)}
    ablation_tables.write(grid, len(gold), found, settings)
    written = {
        ending: (tmp_path / f"ablation.{ending}").read_text(encoding="utf-8") for ending in ("html", "md", "tex")
    }
    spread = "89.5 ± 5.4"  # of 12/14 and 14/15
    assert f"| {spread} |" in written["md"]
    assert f"& {escaped(spread)} &" in written["tex"]
    assert '89.5<span class="ci">± 5.4</span>' in written["html"]
    for text in written.values():
        assert ("bootstrap seed 7" in text) == ("one-sided" in text) == bool(samples)
        assert "0.500" in text, "of two seeds that both agree, 2 of 4 choices of signs are as far from 0"
        assert "shuffled" not in text, "nothing was scored under it"
    assert "<b>" not in written["html"]
    rows = [line.split("&") for line in written["tex"].splitlines() if "&" in line and "caption" not in line]
    (columns,) = set(re.findall(r"begin{tabular}{(l?r+)}", written["tex"]))
    assert {len(row) for row in rows} == {len(columns)}
    assert len(rows) == 1 + 1 + 2, "heads of both readings, figures of one"
    assert "2 seeds (1, 2)" in legend(grid, settings)


def test_latex_has_no_character_of_its_own_in_a_text() -> None:
    text = escaped("a_b & 50 % of $x^2$ {y}\\n\n~ #1 < 2 > 1")
    assert text == (
        r"a\_b \& 50 \% of \$x\textasciicircum{}2\$ \{y\}\textbackslash{}n \textasciitilde{} \#1 "
        r"\textless{} 2 \textgreater{} 1"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_grid_runs_as_experiments_and_a_killed_one_goes_on(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "cut")
    project.edit(train={"epochs": 1})
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        git = ["-c", f"import subprocess; subprocess.run(['git', 'config', {key!r}, {value!r}], check=True)"]
        project.run("python", *git)
    taggers = [*TAGGERS, "checkpoints/rows/2"]
    taught = {**GRID["systems"]["ocr"], "params": {"views.kinds": ["ocr"], "train.teacher.taggers": taggers}}
    teachers = {
        "checkpoints/folds": {"folds": 2, "params": {"train.views": "cross_modal"}},
        "checkpoints/rows": {"of": "text", "seeds": [2]},
    }
    grid = {**GRID, "teachers": teachers, "systems": {**GRID["systems"], "ocr": taught}}
    (project.folder / "grid.yaml").write_text(yaml.dump(grid), encoding="utf-8")
    before = (project.folder / "params.yaml").read_bytes()
    page = project.folder / "report" / "ablation.html"
    process = project.start("python", "-m", "reporting.ablation", "grid.yaml")
    wait_for(page.exists, 600)  # after two teachers and the first of four cells
    kill_group(process)
    assert "1 seed so far" in page.read_text(encoding="utf-8")
    output = project.run("python", "-m", "reporting.ablation", "grid.yaml")
    assert "[4/4] ocr, seed 2: " in output
    for tagger in TAGGERS:
        assert (
            json.loads((project.folder / tagger / "config.json").read_text(encoding="utf-8"))["views"] == "cross_modal"
        )
    assert "checkpoints/folds: 2 teachers (" in output
    rows = project.folder / "checkpoints/rows"
    assert [path.name for path in rows.iterdir()] == ["2"]
    assert json.loads((rows / "2/config.json").read_text(encoding="utf-8"))["views"] == "text_only"
    teacher_curve = project.folder / "plots/training/plots/metrics/train/teacher.tsv"
    assert teacher_curve.read_text(encoding="utf-8") == "step\tteacher\n", "the results as they were"
    assert (project.folder / "params.yaml").read_bytes() == before
    assert project.repro("evaluate") == []
    found = json.loads((project.folder / "report" / "ablation.json").read_text(encoding="utf-8"))
    assert set(found["text"]["strict"]) == {"text_only"}
    assert found["text"]["strict"]["text_only"] != found["ocr"]["strict"]["text_only"]
    assert [len(values) for values in found["ocr"]["conlleval"].values()] == [2, 2, 2]
    text = (project.folder / "report" / "ablation.md").read_text(encoding="utf-8")
    assert "| OCR / words |" in text
    assert "<b>" not in page.read_text(encoding="utf-8")
    tables = [path.read_bytes() for path in sorted((project.folder / "report").glob("ablation.*"))]
    locks = experiment_locks(project)
    assert set(locks) == {"grid-text-s1", "grid-text-s2", "grid-ocr-s1", "grid-ocr-s2"}
    project.run("python", "-m", "reporting.ablation", "grid.yaml")
    assert experiment_locks(project) == locks, "a finished grid, run again, repeats nothing"
    assert [path.read_bytes() for path in sorted((project.folder / "report").glob("ablation.*"))] == tables


def experiment_locks(project: Project) -> dict[str, str]:
    """dvc.lock of every experiment, by name."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=project.folder, check=True, capture_output=True, text=True).stdout

    refs = git("for-each-ref", "--format=%(refname)", "refs/exps/").split()
    named = {ref.rpartition("/")[2]: ref for ref in refs if "/exec/" not in ref}
    return {name: git("show", f"{ref}:dvc.lock") for name, ref in named.items()}
