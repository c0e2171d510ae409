"""The README's table: what text alone, both views, the KL term, each kind of context and wrong pictures are worth.

It trains on the outputs of `dvc repro` (posts and contexts) with the settings of params.yaml and changes only what a
row says. It is the sample's own experiment: `sample/data/decides.tsv` says which posts each kind decides.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ner.scoring import evaluation
from ner.scoring import f1 as scoring
from ner.tagger import Tagger
from ner.training import run as training
from ner.visual import Visuals
from pipeline.contexts.found import FoundWords
from pipeline.core import checkpoints, records
from pipeline.core.errors import run_cli
from pipeline.core.files import atomic_write, write_json
from pipeline.core.labels import Reading
from pipeline.core.records import Post, View
from pipeline.settings import params
from pipeline.settings.params import SPLITS, EvaluateParams, Params
from sample.dataset import KINDS, read_decides
from stages.shared import paths

READING: Reading = "strict"
SYSTEMS: dict[str, tuple[str, dict[str, str]]] = {
    "text": ("(a) text alone", {"views": "text_only"}),
    "both": ("(b) both views, no KL", {"views": "both", "alignment": "none"}),
    "kl": ("(c) both views and KL", {"views": "both"}),
}
CONDITIONS = ("text_only", "cross_modal", "shuffled")
Table = dict[str, dict[str, list[float]]]


def split_views(settings: Params, left_out: str | None) -> dict[str, list[View]]:
    """The views of every split from posts and contexts, with one kind left out of the template, or none."""
    template = settings.views.model_copy(update={"kinds": [kind for kind in settings.views.kinds if kind != left_out]})
    found = FoundWords(paths.CONTEXTS, template)
    return {
        split: found.views(list(records.read(paths.POSTS / f"{split}.jsonl", Post, "posts")), split) for split in SPLITS
    }


def run(
    settings: Params, views: Mapping[str, Sequence[View]], changes: Mapping[str, Any], seen: Visuals | None = None
) -> Tagger:
    """Train a tagger with some of the settings of `train` changed, and load it; it is shown what pictures give."""
    changed = settings.train.model_copy(update=dict(changes))
    encoder = checkpoints.resolve(changed.encoder, changed.revision)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tagger"
        training.train(changed, encoder=encoder.folder, train=views["train"], dev=views["dev"], visuals=seen,
                       output=folder, work=Path(scratch) / "work", curves=None,
                       device=settings.execution.device)  # fmt: skip
        tagger = Tagger.load(folder, settings.execution.device)
        if seen is not None and tagger.reads_visual:
            tagger.show(seen)
        return tagger


def f1(
    tagger: Tagger, views: Sequence[View], condition: str, params: EvaluateParams, only: set[str] | None = None
) -> float:
    """Strict micro-F1 in points under a condition, over all posts or those of the ids `only`."""
    seen = evaluation.condition_views(views, condition, params)
    seen = [view for view in seen if only is None or view.id in only]
    predicted = [prediction.predicted for prediction in tagger.predict(seen)]
    scores = scoring.score([view.labels or [] for view in seen], predicted)
    return 100 * scores[READING][scoring.MICRO]["f1"]


def systems(settings: Params, seeds: Sequence[int], bar: Any) -> tuple[Table, Table]:
    """F1 of each system under each condition, and of (c) with pictures on the posts that each kind decides."""
    views, decides = split_views(settings, None), read_decides(settings.data.root)
    table: Table = {system: {} for system in SYSTEMS}
    whole: Table = {"none": {}}
    for seed in seeds:
        for system, (_, changes) in SYSTEMS.items():
            tagger = run(settings, views, {**changes, "seed": seed})
            for condition in CONDITIONS[:1] if system == "text" else CONDITIONS:
                table[system].setdefault(condition, []).append(f1(tagger, views["test"], condition, settings.evaluate))
            if system == "kl":
                for kind in KINDS:
                    only = {name for name, by in decides.items() if by == kind}
                    whole["none"].setdefault(kind, []).append(
                        f1(tagger, views["test"], "cross_modal", settings.evaluate, only)
                    )
            bar.update()
    return table, whole


def ablations(settings: Params, seeds: Sequence[int], bar: Any) -> Table:
    """F1 of (c), trained and scored without a kind of context, on the test posts that this kind decides."""
    decides = read_decides(settings.data.root)
    table: Table = {}
    for kind in KINDS:
        views, only = split_views(settings, kind), {name for name, by in decides.items() if by == kind}
        for seed in seeds:
            tagger = run(settings, views, {**SYSTEMS["kl"][1], "seed": seed})
            score = f1(tagger, views["test"], "cross_modal", settings.evaluate, only)
            table.setdefault(kind, {}).setdefault(kind, []).append(score)
            bar.update()
    return table


def cell(values: Sequence[float] | None) -> str:
    """Mean ± sample standard deviation."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def markdown(table: Table, whole: Table, without: Table, seeds: Sequence[int]) -> str:
    """The two tables."""
    lines = ["| trained on | `text_only` | `cross_modal` | `shuffled` |", "|---|---|---|---|"]
    for system, (name, _) in SYSTEMS.items():
        lines.append(f"| {name} | " + " | ".join(cell(table[system].get(condition)) for condition in CONDITIONS) + " |")
    lines += [
        "",
        "(c), `cross_modal`, on the test posts that one kind of context decides:",
        "",
        "| decided by | with all kinds | trained and scored without it |",
        "|---|---|---|",
    ]
    for kind in KINDS:
        lines.append(f"| {kind} | {cell(whole['none'].get(kind))} | {cell(without[kind][kind])} |")
    lines += ["", f"Strict micro-F1 in points; mean ± standard deviation of the seeds {', '.join(map(str, seeds))}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(prog="python -m sample.results", description="The table of the README.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every score")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table, too")
    options = parser.parse_args()
    settings = params.load(paths.PARAMS)
    trainings = len(options.seeds) * (len(SYSTEMS) + len(KINDS))
    with tqdm(total=trainings, unit="tagger", disable=None) as bar:
        table, whole = systems(settings, options.seeds, bar)
        without = ablations(settings, options.seeds, bar)
    text = markdown(table, whole, without, options.seeds)
    print(text, end="")
    if options.json:
        left_out = {kind: {"with": whole["none"][kind], "without": without[kind][kind]} for kind in KINDS}
        write_json(options.json, {"seeds": options.seeds, "f1": {READING: table}, "decided": left_out})
    if options.markdown:
        with atomic_write(options.markdown) as file:
            file.write(text)


if __name__ == "__main__":
    run_cli(main)
