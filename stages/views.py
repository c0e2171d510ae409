"""Stage `views`: posts and what was read off their pictures → data/views/{train,dev,test}.jsonl, sources.json.

The context of a post is that of its pictures, rendered by the template in params; a post without one gets an empty
context. sources.json records what the views were made of, for the card of a tagger that is trained on them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.contexts.template import render_post
from pipeline.core import records
from pipeline.core.errors import run_cli
from pipeline.core.files import portable
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.locks import stage_lock
from pipeline.core.records import Post, View, ViewSources
from pipeline.settings import params
from pipeline.settings.params import SPLITS, Params, ViewsParams
from stages.shared import paths
from stages.shared.record import recorded

Found = Mapping[str, Mapping[str, Sequence[Any]]]
"""Picture → kind → items."""


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    with stage_lock("views"), recorded("views") as record:
        record |= {"items": 0, "unit": "posts"}
        found = read_contexts(settings.views)
        for split in SPLITS:
            posts = records.read(paths.POSTS / f"{split}.jsonl", Post, "posts")
            views = list(make_views(posts, settings.views, found))
            records.write(paths.VIEWS / f"{split}.jsonl", views)
            record["items"] += len(views)
            print(f"{split}: {sum(bool(view.context) for view in views):,} of {len(views):,} posts have a context")
        records.write_one(paths.SOURCES, sources(settings))


def read_contexts(template: ViewsParams) -> Found:
    """What was found in the pictures, of the kinds that the template names."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for kind in template.kinds:
        for context in TEXT_KINDS[kind].read(paths.CONTEXTS / f"{kind}.jsonl"):
            found[context.image][kind] = context.items
    return found


def make_views(posts: Iterator[Post], template: ViewsParams, found: Found) -> Iterator[View]:
    """The posts with the contexts of their pictures."""
    for post in posts:
        context = render_post(template, [found.get(image, {}) for image in post.images])
        yield View(post.id, post.tokens, post.labels, context, post.images)


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
