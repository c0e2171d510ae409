"""The posts as one value for the page's script: text, gold entities, every condition's predictions, what pictures gave.

The script filters, sorts and draws; it sets text as text, and all text here has been made visible. Lists stand for
records where there are thousands of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.labels import entities
from pipeline.core.records import Caption, ObjectTag, Post, TextLine
from pipeline.corpus.posts import is_invisible
from pipeline.settings.params import KINDS
from reporting.scores import GLOSSES, NAMES
from reporting.sources import Predicted, Results
from reporting.text import visible, visible_token

SHOWN = 100
"""Items of one kind that a picture shows; a page of a newspaper may give OCR thousands."""


def gallery(results: Results, types: Sequence[str], thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """The value that the script reads.

    Returns:
        ``{"types", "conditions": [{"key", "name", "gloss"}], "kinds", "splits", "posts", "pictures"}``.
        A post is ``{"id", "split", "tokens", "gold": [[start, end, type, orphan]] | null, "predicted": [[[start, end,
        type, confidence, orphan]] | null], "context", "used": [str | null], "picture": index | null}``: `type` indexes
        `types`, `orphan` is 1 where the entity opens with `I-` and the strict scorer sees none, `predicted` and `used`
        have a place for each condition, and `used` is null where the tagger read the whole context.
        A picture is ``{"name", "status", "error", "width", "height", "thumbnail", "objects": [[text, score, box]],
        "captions": [[text, score]], "ocr": [[text, score, polygon]], "more": {kind: n}, "failed": {kind: error}}``.
    """
    conditions = results.settings.evaluate.conditions
    index = {name: place for place, name in enumerate(types)}
    pictures: dict[str, int] = {}
    posts = []
    for split in results.settings.report.splits:
        predictions = results.predictions.get(split, {})
        for post in results.posts[split]:
            if post.image is not None:
                pictures.setdefault(post.image, len(pictures))
            view = results.views[split].get(post.id)
            context = view.context if view else ""
            rows = [_prediction(predictions.get(condition), post) for condition in conditions]
            posts.append(
                {
                    "id": visible(post.id, 80),
                    "split": split,
                    "tokens": [visible_token(token, is_invisible(token)) for token in post.tokens],
                    "gold": None
                    if post.labels is None
                    else [
                        [start, end, index[kind], _orphan(post.labels, start)]
                        for start, end, kind in entities(post.labels, "conlleval")
                    ],
                    "predicted": [
                        None
                        if row is None
                        else [
                            [
                                entity["start"],
                                entity["end"],
                                index[entity["type"]],
                                round(entity["confidence"], 3),
                                _orphan(row["predicted"], entity["start"]),
                            ]
                            for entity in row["entities"]
                        ]
                        for row in rows
                    ],
                    "context": visible(context),
                    "used": [
                        None if row is None or row["context_used"] == context else visible(row["context_used"])
                        for row in rows
                    ],
                    "picture": None if post.image is None else pictures[post.image],
                }
            )
    return {
        "types": [visible(name, 40) for name in types],
        "conditions": [{"key": key, "name": NAMES[key], "gloss": GLOSSES[key]} for key in conditions],
        "kinds": list(results.settings.views.kinds),
        "splits": list(results.settings.report.splits),
        "posts": posts,
        "pictures": [_picture(results, name, thumbnails.get(name)) for name in pictures],
    }


def _prediction(predicted: Predicted | None, post: Post) -> dict[str, Any] | None:
    return None if predicted is None else predicted.rows.get(post.id)


def _orphan(labels: Sequence[str], start: int) -> int:
    return int(labels[start].startswith("I-"))


def _picture(results: Results, name: str, thumbnail: str | None) -> dict[str, Any]:
    row = results.images[name]
    picture: dict[str, Any] = {
        "name": visible(name, 120),
        "status": row["status"],
        "error": visible(row["error"] or "", 300),
        "width": row["width"],
        "height": row["height"],
        "thumbnail": thumbnail,
        "more": {},
        "failed": {},
    }
    for kind in KINDS:
        context = results.contexts[kind].get(name)
        items = context.items if context else []
        picture[kind] = [_item(item) for item in items[:SHOWN]]
        if len(items) > SHOWN:
            picture["more"][kind] = len(items) - SHOWN
        if context and context.status != "ok" and row["status"] == "ok":
            picture["failed"][kind] = visible(f"{context.status}: {context.error or ''}", 300)
    return picture


def _item(item: ObjectTag | Caption | TextLine) -> list[Any]:
    if isinstance(item, ObjectTag):
        return [visible(item.text(attributes=True), 200), item.score, item.box]
    if isinstance(item, Caption):
        return [visible(item.text, 1000), item.score]
    return [visible(item.text, 500), item.score, item.polygon]
