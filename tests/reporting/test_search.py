"""The search: bad files, what Optuna is asked, results as they are written, a real search that is killed."""

import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.settings import yaml
from reporting import search_results
from reporting.search_results import Tried
from reporting.space import Search, is_whole, read_search, require_searchable
from tests.conftest import ROOT
from tests.project import Project, kill_group, wait_for
from tests.reporting.test_ablation import experiment_locks

SEARCH: dict[str, Any] = {
    "title": "Two | rates",
    "trials": 2,
    "fixed": {"train.views": "text_only"},
    "params": {
        "train.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
        "views.kinds": [["ocr"], ["objects", "ocr"]],
    },
}


def searching(params: dict[str, Any]) -> dict[str, Any]:
    return {"params": params}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "search.yaml:2: trials: found 0, expected"),
        ({"metric": {"condition": "text"}}, "metric.condition: found 'text', expected 'cross_modal', "),
        ({"trial": 1}, "trial: unknown key; expected one of title, trials, metric"),
        (searching({}), "search.yaml:5: params: "),
        (searching({"train.epochs": 5}), "search.yaml:6: params.train.epochs: found 5, expected a list of values or"),
        (searching({"train.epochs": [5]}), "params.train.epochs: found [5], expected two or more different values"),
        (searching({"train.epochs": [5, 5]}), "expected two or more different values"),
        (searching({"train.epochs": {"low": 8, "high": 5}}), "found low: 8, high: 5, expected low to be less"),
        (searching({"train.epochs": {"low": 5}}), "expected numbers as low and high"),
        (searching({"train.epochs": {"low": 1, "high": 9, "lag": 1}}), "found 'lag', expected low, high and perhaps"),
        (searching({"train.epochs": {"low": 0, "high": 9, "log": True}}), "expected a low above 0 and no step"),
        (searching({"train.epochs": {"low": 1, "high": 9, "step": 0.5}}), "step: 0.5, expected a whole number"),
        (searching({"train.views": ["both", "text_only"]}), "fixed.train.views: is searched, too; expected it below"),
    ],
)
def test_a_bad_search_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.dump({**SEARCH, **change}), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        read_search(path)


@pytest.fixture
def runnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a checkout's, as far as trials are checked; returns the search's file in it."""
    for name in ("sample", "checkpoints", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Path("search.yaml")


@pytest.mark.parametrize(
    ("params", "messages"),
    [
        ({"train.learning_rat": [1e-4, 1e-3]}, ["train.learning_rat: params.yaml has no such key"]),
        ({"train.epochs": {"low": 0, "high": 5}}, ["search.yaml:6: train.epochs: found 0, expected"]),
        (
            {"train.encoder": ["checkpoints/sample/xlm-r", "checkpoints/lost"]},
            ["train.encoder: checkpoint "],
        ),
        ({"evaluate.conditions": [["text_only"], ["cross_modal"]]}, ["evaluate.conditions: lacks text_only"]),
        (SEARCH["params"], []),
    ],
)
def test_choices_that_cannot_run_are_found_before_anything_runs(
    params: dict[str, Any], messages: list[str], runnable: Path
) -> None:
    path = runnable
    path.write_text(yaml.dump({**SEARCH, "params": params}), encoding="utf-8")
    if not messages:
        require_searchable(read_search(path), path)
        return
    with pytest.raises(UserError) as caught:
        require_searchable(read_search(path), path)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages)
    assert all(message in line for message, line in zip(messages, lines, strict=True))


def test_results_have_every_trial_and_test_of_the_best_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_results, "OUTPUT", tmp_path / "report")
    search = Search.model_validate(SEARCH)
    scores = (0.5, 0.75, None, 0.75)
    tried = [
        Tried(n, f"s-t{n}", {"train.learning_rate": n / 3e3, "views.kinds": ["ocr"]}, f1, None if f1 else "diverged")
        for n, f1 in enumerate(scores)
    ]
    chosen = search_results.best(tried)
    assert chosen == tried[1], "the first of equals"
    search_results.write(search, tried, chosen, 0.625)
    text = (tmp_path / "report" / "search.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| s-")]
    assert [row[0].removeprefix("| ") for row in rows] == ["s-t1", "s-t3", "s-t0", "s-t2"]
    assert rows[0][1:] == ["0.0003333", '["ocr"]', "75.00 |"]
    assert rows[-1][-1] == "failed |"
    assert text.count("62.50") == 1
    found = json.loads((tmp_path / "report" / "search.json").read_text(encoding="utf-8"))
    assert found["best"] == {"experiment": "s-t1", "params": tried[1].params, "dev": 0.75, "test": 0.625}
    assert found["trials"][2]["failed"] == "diverged"
    assert search_results.best([tried[2]]) is None


def test_the_documented_search_can_run(runnable: Path) -> None:
    text = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```\n(title: .*?)^```$", text, re.DOTALL | re.MULTILINE)
    runnable.write_text(block, encoding="utf-8")
    search = read_search(runnable)
    require_searchable(search, runnable)
    assert [is_whole(wanted) for wanted in search.params.values() if isinstance(wanted, dict)] == [False, True, False]


def references(project: Project) -> str:
    """The experiments' references, and what DVC keeps beside them while one runs."""
    command = ["git", "for-each-ref", "--format=%(refname)", "refs/exps/"]
    return subprocess.run(command, cwd=project.folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_search_goes_on_and_a_finished_one_repeats_nothing(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna is an extra (requirements-search.lock)")
    project = Project.make(tmp_path / "cut")
    project.edit(train={"epochs": 1})
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        git = ["-c", f"import subprocess; subprocess.run(['git', 'config', {key!r}, {value!r}], check=True)"]
        project.run("python", *git)
    (project.folder / "search.yaml").write_text(yaml.dump(SEARCH), encoding="utf-8")
    before = (project.folder / "params.yaml").read_bytes()
    study = project.folder / "data" / "search" / "search.db"

    def asked() -> int:
        """How many params have been chosen."""
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True)) as found:
            return int(found.execute("SELECT count(*) FROM trial_params").fetchone()[0])
        return 0

    command = ("python", "-m", "reporting.search")
    process = project.start(*command)
    wait_for(lambda: asked() == 2, 600)  # the first trial's; it has not been run
    kill_group(process)
    process = project.start(*command)
    wait_for(lambda: asked() == 4, 600)  # the second's
    first = experiment_locks(project)
    assert set(first) == {"search-t0"}
    wait_for(lambda: "/search-t1" in references(project), 600)
    kill_group(process)  # its experiment is there, perhaps before its score is kept
    with closing(sqlite3.connect(study)) as database:
        database.execute("DELETE FROM trial_values WHERE trial_id = 2")
        database.execute("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = 2")
        database.commit()
    locks = experiment_locks(project)
    output = project.run(*command)
    assert "[2/2] " in output
    assert "(the experiment search-t1 was there)" in output
    assert "[1/2] " not in output
    assert experiment_locks(project) == locks, "no trial is run twice"
    assert {**locks, **first} == locks
    assert (project.folder / "params.yaml").read_bytes() == before
    branch = ["git", "symbolic-ref", "HEAD"]  # a killed experiment leaves its own commit there
    subprocess.run(branch, cwd=project.folder, check=True)
    assert project.repro("evaluate") == []
    found = json.loads((project.folder / "report" / "search.json").read_text(encoding="utf-8"))
    assert [trial["experiment"] for trial in found["trials"]] == ["search-t0", "search-t1"]
    assert found["best"]["dev"] == max(trial["dev"] for trial in found["trials"])
    assert found["best"]["test"] is not None
    report = project.run(*command)
    assert "[" not in report.split("best: ")[0], "nothing is tried once all is"
    (project.folder / "search.yaml").write_text(yaml.dump({**SEARCH, "seed": 2}), encoding="utf-8")
    assert "search.yaml searches otherwise than when its 2 trials were made" in project.run(*command, expect=None)
    apart = {"train.max_context": [380, 382], "train.stride": [200, 210]}  # each can be, but no two together
    hopeless = {"title": "Hopeless", "trials": 5, "params": apart}
    (project.folder / "hopeless.yaml").write_text(yaml.dump(hopeless), encoding="utf-8")
    failed = project.run(*command, "hopeless.yaml", expect=None)
    assert "error: the last 3 trials failed" in failed
    lines = re.findall(r"^\[\d/5\] train\.max_context=.*: failed: .*stride: 2[01]0 is too much", failed, re.M)
    assert len(lines) == 3
