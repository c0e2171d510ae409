"""Stage `views`: posts, what their pictures gave and what is known of them → data/views/, a file a split.

The context of a post is made of these by the template in params; a post without any gets an empty context. sources.json
beside them records what the views were made of, for the card of a tagger that is trained on them.
"""

from collections import Counter
from collections.abc import Iterator

from pipeline.contexts.found import FoundWords
from pipeline.core import records
from pipeline.core.errors import run_cli
from pipeline.core.files import portable
from pipeline.core.locks import stage_lock
from pipeline.core.records import ViewSources
from pipeline.engine.views import views
from pipeline.settings import params
from pipeline.settings.params import POST_SPLITS, Params
from stages.shared import paths
from stages.shared.record import recorded


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    with stage_lock("views"), recorded("views") as record:
        record |= {"items": 0, "unit": "posts"}
        found = FoundWords(paths.CONTEXTS, settings.views)
        for split in POST_SPLITS:
            counts = Counter[str]()
            records.write_lines(paths.VIEWS / f"{split}.jsonl", _lines(settings, split, found, counts))
            record["items"] += counts["posts"]
            if counts["posts"] or split != "unlabelled":
                print(f"{split}: {counts['with a context']:,} of {counts['posts']:,} posts have a context")
        records.write_one(paths.SOURCES, sources(settings))


def _lines(settings: Params, split: str, found: FoundWords, counts: "Counter[str]") -> Iterator[str]:
    """The lines of the views of a split, which are counted."""
    for made in views(paths.POSTS / f"{split}.jsonl", split, found, settings.execution.cluster):
        counts["posts"] += len(made.lines)
        counts["with a context"] += made.with_context
        yield from made.lines


def sources(settings: Params) -> ViewSources:
    """What the views are made of: the data set, and by kind its extractor and the model of that.

    It contains no path outside the project, and only what a card states: `train` runs again when it changes.
    """
    contexts, tensors = (
        {kind: name for kind in kinds if (name := _reader(settings, kind)) is not None}
        for kinds in (settings.views.kinds, ("features", "objects"))
    )
    return ViewSources(portable(settings.data.root), contexts, tensors)


def _reader(settings: Params, kind: str) -> str | None:
    """The extractor of a kind and its model; None where the kind is off."""
    section = settings.extraction(kind)
    name: str | None = section["extractor"]
    if name is None:
        return None
    model = (section.get(name) or {}).get("model")
    return name + (f" ({portable(model)})" if model else "")


if __name__ == "__main__":
    run_cli(main, __doc__)
