"""Stage `evaluate`: the tagger under every condition → metrics/, data/predictions/, plots/confusion/.

metrics/evaluation.json has all scores, metrics/scores/ micro-F1 alone, in a file for each split and condition, which
`dvc metrics show` makes a row of; metrics/analysis.json says which kinds of mistakes were made, and how often entities
are right by confidence. A split without labels is predicted, and has no scores.
"""

import csv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from ner.predictions import conll_lines
from ner.scoring import calibration, evaluation
from ner.scoring import f1 as scoring
from ner.scoring.surface import SEEN, UNSEEN, Known
from ner.tagger import Tagger
from pipeline.core import checkpoints, records
from pipeline.core.errors import run_cli
from pipeline.core.files import atomic_write, write_json
from pipeline.core.locks import stage_lock
from pipeline.core.progress import Progress
from pipeline.core.records import Analyses, Evaluation, Prediction, Scores, View
from pipeline.settings import params
from pipeline.settings.params import Split
from stages.shared import paths, visuals
from stages.shared.record import recorded

SPLITS: tuple[Split, ...] = ("dev", "test")


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    metrics: Evaluation = {}
    analyses: Analyses = {"temperatures": {}, "splits": {}}
    with ExitStack() as stack:
        stack.enter_context(stage_lock("evaluate"))
        record = stack.enter_context(recorded("evaluate"))
        record |= {"items": 0, "unit": "tweets", "tagger": checkpoints.digest(paths.TAGGER)}
        record["evaluated"] = settings.evaluate.model_dump(mode="json")
        tagger = Tagger.load(paths.TAGGER, settings.execution.device)
        if tagger.reads_visual:
            tagger.show(visuals.opened())
        known = Known.of(records.read(paths.VIEWS / "train.jsonl", View, "views"))
        views = {split: list(records.read(paths.VIEWS / f"{split}.jsonl", View, "views")) for split in SPLITS}
        total = sum(len(rows) * len(evaluation.conditions(rows, settings.evaluate)) for rows in views.values())
        bar = stack.enter_context(Progress("evaluate", "reading", total))
        for split, rows in views.items():
            results = evaluation.evaluate(
                tagger,
                rows,
                settings.evaluate,
                known=known,
                done=bar.update,
                batch_size=settings.execution.predict_batch_size,
            )
            metrics[split] = {condition: scores for condition, (scores, _) in results.items() if scores}
            for condition, (scores, predictions) in results.items():
                if split == "dev" and scores:
                    told = calibration.of_predictions(predictions)
                    analyses["temperatures"][condition] = calibration.fit_temperature(*told)
                temperature = analyses["temperatures"].get(condition)
                _write(f"{split}.{condition}", calibration.with_calibrated(predictions, temperature))
                if scores:
                    analyses["splits"].setdefault(split, {})[condition] = evaluation.analyse(predictions, temperature)
                record["items"] += len(predictions)
        records.write_one(paths.EVALUATION, metrics, Evaluation)
        records.write_one(paths.ANALYSIS, analyses, Analyses)
        _write_micro(metrics)
    for name, conditions in metrics.items():
        if conditions:
            print(
                f"{name}: "
                + ", ".join(
                    f"{condition} {100 * scores['strict']['micro']['f1']:.2f}"
                    for condition, scores in conditions.items()
                )
                + " F1 (strict)"
            )
            if known:
                print(_by_form(name, conditions))
        else:
            print(f"{name}: no labels, so no scores; predictions are in {paths.PREDICTIONS}")


def _by_form(split: str, conditions: Mapping[str, Scores]) -> str:
    """F1 of names that the training split has and of others."""
    strict = {condition: scores["strict"] for condition, scores in conditions.items()}
    n_seen, n_unseen = (next(iter(strict.values()))[row]["support"] for row in (SEEN, UNSEEN))
    return f"{split}, names that train has ({n_seen:,}) / others ({n_unseen:,}): " + ", ".join(
        f"{condition} {100 * rows[SEEN]['f1']:.2f} / {100 * rows[UNSEEN]['f1']:.2f}"
        for condition, rows in strict.items()
    )


def _write_micro(metrics: Evaluation) -> None:
    """Micro-F1 in percent by scorer, a file for each split and condition."""
    paths.SCORES.mkdir(parents=True, exist_ok=True)  # also where no split has labels: it is an out of the stage
    for split, conditions in metrics.items():
        for condition, scores in conditions.items():
            by_scorer = {scorer: round(100 * found[scoring.MICRO]["f1"], 2) for scorer, found in scores.items()}
            write_json(paths.SCORES / f"{split}.{condition}.json", by_scorer)


def _write(name: str, predictions: Sequence[Prediction]) -> None:
    records.write(paths.PREDICTIONS / f"{name}.jsonl", predictions)
    with atomic_write(paths.PREDICTIONS / f"{name}.conll") as file:
        file.writelines(map(conll_lines, predictions))
    with atomic_write(paths.CONFUSION / f"{name}.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", "predicted"])
        labelled = [prediction for prediction in predictions if prediction.labels is not None]
        writer.writerows(
            scoring.confusion(
                [prediction.labels or [] for prediction in labelled], [prediction.predicted for prediction in labelled]
            )
        )


if __name__ == "__main__":
    run_cli(main, __doc__)
