"""Stage `train`: views → models/tagger/, and the learning curves."""

from contextlib import ExitStack
from typing import Any

from ner.training import processes
from pipeline.core.errors import run_cli
from pipeline.core.locks import stage_lock
from pipeline.core.store import Store
from pipeline.settings import params
from stages.shared import paths, training
from stages.shared.record import recorded


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    if processes.launched():
        processes.end_with_launcher()
    elif settings.execution.processes > 1:
        processes.relaunch("stages.train", settings.execution.processes)
    with ExitStack() as stack:
        store = stack.enter_context(Store.open())
        record: dict[str, Any] = {}
        if processes.is_first():
            stack.enter_context(stage_lock("train"))
            record = stack.enter_context(recorded("train"))
        views = training.views()
        run = training.Training(settings, store, views)
        result, resumed = run.run(paths.TAGGER, paths.CURVES)
        # The time of a resumed training is that of its last part, and says nothing of how many tweets a second.
        record |= {
            "items": None if resumed else len(views["train"]) * result["epochs"],
            "unit": "tweets",
            "resumed": resumed,
            "encoder": run.encoder.identity,
            **result,
        }


if __name__ == "__main__":
    run_cli(main, __doc__)
