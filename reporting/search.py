"""``python -m reporting.search``: Optuna searches params, every trial a DVC experiment → report/search.md and .json.

Trials are compared by dev alone; test is read once, of the best. What has been tried is kept in data/search/NAME.db,
for Optuna's tools, too. So a search that was killed goes on where it was, and one that gets more `trials` adds them.
"""

import argparse
import copy
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError, run_cli
from pipeline.core.files import read_json
from pipeline.settings import yaml
from reporting import experiments, page, search_results
from reporting.backup import PARAMS
from reporting.grid import Value, problems_of
from reporting.search_results import OUTPUT, Tried
from reporting.space import Search, is_whole, read_search, require_searchable

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SEARCH = Path("search.yaml")
STUDIES = Path("data/search")
EVALUATION = Path("metrics/evaluation.json")
FAILURES = 3
"""So many trials that fail one after the other end a search."""


class Trials:
    """A search under way: its trials, those of earlier runs included."""

    def __init__(self, search: Search, name: str) -> None:
        """Open the study of a search, or begin it.

        Raises:
            UserError: Optuna is not installed, or the study is of another search or of other params.
        """
        self._optuna = _optuna()
        self._search, self._name = search, name
        self._document = yaml.load(PARAMS)
        self._space = _distributions(search)
        self._study = self._opened(STUDIES / f"{name}.db")

    def _opened(self, path: Path) -> "optuna.Study":
        from sqlalchemy.exc import DatabaseError

        STUDIES.mkdir(parents=True, exist_ok=True)
        try:
            study = self._optuna.create_study(
                storage=f"sqlite:///{path}", study_name=self._name, direction="maximize", load_if_exists=True
            )
        except DatabaseError as error:
            raise UserError(f"{path}: no study of Optuna's ({error.orig}); delete it to begin anew") from None
        settings = {key: value for key, value in self._document.values.items() if key not in ("execution", "report")}
        asked = {"search": self._search.model_dump(mode="json", exclude={"title", "trials"}), str(PARAMS): settings}
        begun = study.user_attrs.get("asked")
        if study.trials and begun != asked:
            other = "search" if begun is None or begun["search"] != asked["search"] else str(PARAMS)
            what = f"{self._name}.yaml searches otherwise" if other == "search" else f"{PARAMS} is another"
            raise UserError(
                f"{path}: {what} than when its {len(study.trials)} trials were made, which would not compare; put it "
                "back, give the search's file another name, or delete this one to begin anew"
            )
        study.set_user_attr("asked", asked)
        return study

    def run(self) -> None:
        """Make the trials that are missing.

        Raises:
            UserError: the pipeline fails, dev has no labels, or too many trials fail one after the other.
        """
        with experiments.params_put_back():
            base = self._f1(read_json(EVALUATION, "evaluate"), "dev")
            print(f"{PARAMS} as it is: dev {100 * base:.2f}", flush=True)
            for trial in self._study.get_trials(states=(self._optuna.trial.TrialState.RUNNING,)):
                if trial.params.keys() == self._space.keys():
                    self._settle(trial.number)
                else:  # killed before its params were chosen
                    self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
            while len(self.tried()) < self._search.trials:
                number = len(self._study.trials)
                # A sampler of its own for each: one that began anew would repeat what it chose before.
                self._study.sampler = self._optuna.samplers.TPESampler(seed=self._search.seed + number)
                self._settle(self._study.ask(self._space).number)

    def tried(self) -> list[Tried]:
        """The trials that have ended, failed ones included, in their order."""
        return [
            Tried(
                trial.number,
                self._experiment(trial.number),
                self._searched(trial),
                trial.value,
                self._study.user_attrs.get(f"failed {trial.number}"),
            )
            for trial in self._study.trials
            if trial.state.is_finished() and trial.params.keys() == self._space.keys()
        ]

    def test_of(self, tried: Tried) -> float | None:
        """What a trial scores on test; None where test has no labels.

        Raises:
            UserError: its experiment has been removed.
        """
        changes = {**self._search.fixed, **tried.params}
        commit = _commit(tried.experiment, self._wanted(changes), of_head=False)
        if commit is None:
            raise UserError(
                f"{tried.experiment}: the experiment of the best trial has been removed, so its test scores are lost; "
                f"`dvc exp run` with its params brings them back: {json.dumps(changes)}"
            )
        evaluation = _evaluation(commit)
        return self._f1(evaluation, "test") if "test" in evaluation else None

    def _settle(self, number: int) -> None:
        """Score a trial by its experiment, which is run if there is none, and keep the score.

        Raises:
            UserError: it failed, as those before it did.
        """
        begin = time.monotonic()
        changes = {**self._search.fixed, **self._searched(self._study.trials[number])}
        said = f"[{len(self.tried()) + 1}/{self._search.trials}] {search_results.listed(changes)}: "
        try:
            score, how = self._score(number, changes)
        except UserError as error:
            self._study.set_user_attr(f"failed {number}", str(error))
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
            print(f"{said}failed: {error}", flush=True)
            last = self.tried()[-FAILURES:]
            if len(last) == FAILURES and all(each.failed for each in last):
                raise UserError(
                    f"the last {FAILURES} trials failed, see above; nothing more is tried. What they share may be "
                    "wrong, or the ranges too wide"
                ) from None
            return
        self._study.tell(number, score)
        print(f"{said}dev {100 * score:.2f} ({how or page.duration(time.monotonic() - begin)})", flush=True)

    def _score(self, number: int, changes: Mapping[str, Value]) -> tuple[float, str]:
        """A trial's F1 on dev, and where it is from if nothing was run for it."""
        for earlier in self.tried():
            if earlier.f1 is not None and {**self._search.fixed, **earlier.params} == changes:
                return earlier.f1, f"as {earlier.experiment}"
        condition = self._search.metric.condition
        if wrong := list(problems_of(self._document, changes, self._name, {}, condition=condition)):
            raise UserError("\n".join(wrong))
        experiment, wanted = self._experiment(number), self._wanted(changes)
        commit, how = _commit(experiment, wanted, of_head=True), f"the experiment {experiment} was there"
        if commit is None:
            experiments.forget([experiment])
            experiments.run(experiment, changes, experiment)
            commit, how = _commit(experiment, wanted, of_head=True), ""
        if commit is None:
            raise UserError(f"{experiment}: DVC made no experiment with these params")
        return self._f1(_evaluation(commit), "dev"), how

    def _f1(self, evaluation: Mapping[str, Any], split: str) -> float:
        """Micro-F1 of a split, from what metrics/evaluation.json says."""
        metric = self._search.metric
        scores = evaluation.get(split, {}).get(metric.condition)
        if scores is None:
            found = ", ".join(f"{name} {each}" for name, conditions in evaluation.items() for each in conditions)
            raise UserError(
                f"{EVALUATION}: found {found or 'no scores'}, expected {split} {metric.condition}: a search needs a "
                "dev split with labels"
            )
        return float(scores[metric.reading]["micro"]["f1"])

    def _searched(self, trial: "FrozenTrial") -> dict[str, Value]:
        """What a trial changes of the keys that are searched."""
        wanted = self._search.params
        return {
            key: json.loads(value) if isinstance(wanted[key], list) else value for key, value in trial.params.items()
        }

    def _wanted(self, changes: Mapping[str, Value]) -> Any:
        """What params.yaml says in a trial's experiment."""
        values = copy.deepcopy(self._document.values)
        for key, value in changes.items():
            *parents, last = key.split(".")
            section = values
            for parent in parents:
                section = section[parent]
            section[last] = value
        return values

    def _experiment(self, number: int) -> str:
        return f"{self._name}-t{number}"


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError(
            "a search needs the package optuna, which is an extra: pip install --no-deps -r requirements-search.lock"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it says of each trial is said here
    return optuna


def _distributions(search: Search) -> "dict[str, BaseDistribution]":
    """What is searched as Optuna has it; choices as JSON, since some are lists."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, wanted in search.params.items():
        if isinstance(wanted, list):
            found[key] = CategoricalDistribution([json.dumps(value) for value in wanted])
        elif is_whole(wanted):
            found[key] = IntDistribution(**wanted)
        else:
            found[key] = FloatDistribution(**wanted)
    return found


def _commit(experiment: str, wanted: Any, *, of_head: bool) -> str | None:
    """The commit of an experiment of this name with these params, if there is one.

    Args:
        experiment: its name.
        wanted: what its params.yaml says, what is said of the machine (`execution`) aside.
        of_head: only one that was made from the commit that is checked out.
    """
    head = _git("rev-parse", "HEAD").strip()
    for line in _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps/").splitlines():
        commit, ref = line.split(" ", 1)
        *_, start, end, name = ref.split("/")
        if name != experiment or "/exec/" in ref or (of_head and start + end != head):
            continue
        found = yaml.parse(_git("show", f"{commit}:{PARAMS}"), f"{experiment}:{PARAMS}").values
        if {**found, "execution": None} == {**wanted, "execution": None}:
            return commit
    return None


def _evaluation(commit: str) -> dict[str, Any]:
    """What an experiment's metrics/evaluation.json says, from DVC's cache."""
    import dvc.api

    found: dict[str, Any] = json.loads(dvc.api.read(str(EVALUATION), rev=commit, encoding="utf-8"))
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m reporting.search", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("search", type=Path, nargs="?", default=SEARCH, metavar="SEARCH", help="[%(default)s]")
    arguments = parser.parse_args()
    search = read_search(arguments.search)
    _optuna()
    experiments.recover()
    require_searchable(search, arguments.search)
    trials = Trials(search, arguments.search.stem)
    trials.run()
    tried = trials.tried()
    best = search_results.best(tried)
    if best is None:
        raise UserError(f"{arguments.search}: none of {len(tried)} trials gave a score")
    test = trials.test_of(best)
    search_results.write(search, tried, best, test)
    shown = "" if test is None else f", test {100 * test:.2f}"
    print(f"best: {best.experiment}: {search_results.listed(best.params)}: dev {100 * (best.f1 or 0):.2f}{shown}")
    print(", ".join(str(OUTPUT / f"search.{ending}") for ending in ("md", "json")))


if __name__ == "__main__":
    run_cli(main)
