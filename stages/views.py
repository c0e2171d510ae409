"""Stage `views`: posts and what was read off their pictures → data/views/{train,dev,test}.jsonl, sources.json.

The context of a post is its picture's, rendered by the template in params; a post without one gets an empty context.
What the views were made of stands in sources.json, for the card of a tagger that is trained on them.
"""

from collections import defaultdict
from typing import Any

from pipeline.contexts.template import render
from pipeline.core.errors import run_cli
from pipeline.core.files import portable, write_json, write_jsonl
from pipeline.core.records import View, read_contexts, view_row
from pipeline.core.store import stage_lock
from pipeline.corpus import posts
from pipeline.settings import params
from pipeline.settings.params import SPLITS, Params, ViewsParams
from stages import paths
from stages._record import recorded


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    with stage_lock("views"), recorded("views") as record:
        record |= {"items": 0, "unit": "posts"}
        by_image = render_contexts(settings.views)
        for split in SPLITS:
            views = [
                View(post.id, post.tokens, post.labels, by_image.get(post.image or "", ""))
                for post in posts.read_records(paths.POSTS / f"{split}.jsonl")
            ]
            write_jsonl(paths.VIEWS / f"{split}.jsonl", map(view_row, views))
            record["items"] += len(views)
            print(f"{split}: {sum(bool(view.context) for view in views):,} of {len(views):,} posts have a context")
        write_json(paths.SOURCES, sources(settings))


def render_contexts(template: ViewsParams) -> dict[str, str]:
    """Image → context string, from the files of the kinds that the template names."""
    items: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for kind in template.kinds:
        for context in read_contexts(paths.CONTEXTS / f"{kind}.jsonl", kind):
            items[context.image][kind] = context.items
    return {image: render(template, **found) for image, found in items.items()}


def sources(settings: Params) -> dict[str, Any]:
    """What the views are made of, as JSON: the data set, and by kind of context its extractor and the model of that.

    No path outside the project is in it. It holds no more than a card states: `train` runs anew where it changes.
    """
    read_by = {}
    for kind in settings.views.kinds:
        section = getattr(settings, kind).model_dump()
        model = (section.get(section["extractor"]) or {}).get("model")
        read_by[kind] = section["extractor"] + (f" ({portable(model)})" if model else "")
    return {"data": portable(settings.data.root), "contexts": read_by}


if __name__ == "__main__":
    run_cli(main, __doc__)
