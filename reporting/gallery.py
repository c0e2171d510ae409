"""The posts as one value for the page's script: text, gold entities, every condition's predictions, what pictures gave.

The script filters, sorts and draws; it sets text as text, and all text here has been made visible. Lists stand for
records where there are thousands of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.kinds import PICTURE_KINDS, POST_KINDS, TEXT_KINDS, TextKind
from pipeline.core.labels import entities
from pipeline.core.records import Context, Post, Prediction
from pipeline.corpus.counts import is_invisible
from reporting.scores import NAMES, glosses
from reporting.sources import Predicted, Results
from reporting.text import visible, visible_token

RESIZE = ("squash", "crop")
"""How features become a square (`features.*.resize`), if that is known: cells cover all of a picture, or its middle."""

SHOWN = 100
"""Items of one kind that a picture or post shows; a page of a newspaper may give OCR thousands."""


def gallery(results: Results, types: Sequence[str], thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """The value that the script reads.

    Returns:
        ``{"types", "conditions": [{"key", "name", "gloss"}], "kinds": [{"key", "name", "about", "used", "off"}],
        "splits", "resize", "posts", "pictures"}``.
        A post is ``{"id", "split", "tokens", "gold": [[start, end, type, orphan]] | null, "predicted": [[[start, end,
        type, confidence, orphan]] | null], "context", "used": [str | null], "pictures": [index],
        "relation": probability | null, "attention": [[weight] | null] | null, "found", "more", "failed"}``: `type`
        indexes `types`, `orphan` is 1 where the entity opens with `I-` and the strict scorer sees none, `predicted` and
        `used` have a place for each condition, and `used` is null where the tagger read the whole context; `relation`
        is how likely the pictures add to the meaning, where the tagger asks that, and `attention` has what its entities
        attend to in each picture's square grid, row by row; `resize` says which part of a picture that covers.
        A picture is ``{"name", "status", "error", "width", "height", "thumbnail", "found": {kind: [[text, score,
        outline, source]]}, "more": {kind: n}, "failed": {kind: error}}``; a post has these of what was said of it.
    """
    conditions = results.settings.evaluate.conditions
    glossed = glosses(results.settings.evaluate)
    resize = _resize(results)
    index = {name: place for place, name in enumerate(types)}
    pictures: dict[str, int] = {}
    posts = []
    for split in results.settings.report.splits:
        predictions = results.predictions.get(split, {})
        for post in results.posts[split]:
            for image in post.images:
                pictures.setdefault(image, len(pictures))
            view = results.views[split].get(post.id)
            context = view.context if view else ""
            rows = [_prediction(predictions.get(condition), post) for condition in conditions]
            own = next((row for row, key in zip(rows, conditions, strict=True) if key == "cross_modal"), None)
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
                                entity.start,
                                entity.end,
                                index[entity.type],
                                round(entity.confidence, 3),
                                _orphan(row.predicted, entity.start),
                            ]
                            for entity in row.entities
                        ]
                        for row in rows
                    ],
                    "context": visible(context),
                    "used": [
                        None if row is None or row.context_used == context else visible(row.context_used)
                        for row in rows
                    ],
                    "pictures": [pictures[image] for image in post.images],
                    "relation": None if own is None or own.relation is None else _down(own.relation),
                    "attention": None if resize is None or own is None else _attention(own),
                    **_found(POST_KINDS, {kind: rows.get((post.id, split)) for kind, rows in results.notes.items()}),
                }
            )
    return {
        "types": [visible(name, 40) for name in types],
        "conditions": [{"key": key, "name": NAMES[key], "gloss": glossed[key]} for key in conditions],
        "kinds": [
            {
                "key": key,
                "name": kind.called,
                "about": kind.about,
                "used": key in results.settings.views.kinds,
                "off": results.runs[key].extractor is None,
            }
            for key, kind in TEXT_KINDS.items()
            if key in results.runs and (not kind.optional or results.runs[key].extractor is not None)
        ],
        "splits": list(results.settings.report.splits),
        "resize": resize,
        "posts": posts,
        "pictures": [_picture(results, name, thumbnails.get(name)) for name in pictures],
    }


def _prediction(predicted: Predicted | None, post: Post) -> Prediction | None:
    return None if predicted is None else predicted.rows.get(post.id)


def _down(probability: float) -> float:
    """Rounded down, so that what is below one half stays there."""
    return math.floor(1000 * probability) / 1000


def _attention(own: Prediction) -> list[list[float] | None] | None:
    """The weights of each picture that the tagger read; None for one whose regions are no square grid."""
    found = [cells if cells and math.isqrt(len(cells)) ** 2 == len(cells) else None for cells in own.attention or []]
    return found if any(found) else None


def _resize(results: Results) -> str | None:
    """Which part of a picture its features are of; None where the extractor, someone's own say, does not tell it."""
    run = results.runs.get("features")
    told = ((run and run.fingerprint) or {}).get("resize")
    return told if told in RESIZE else None


def _orphan(labels: Sequence[str], start: int) -> int:
    return int(labels[start].startswith("I-"))


def _picture(results: Results, name: str, thumbnail: str | None) -> dict[str, Any]:
    row = results.images[name]
    return {
        "name": visible(name, 120),
        "status": row.status,
        "error": visible(row.error or "", 300),
        "width": row.width,
        "height": row.height,
        "thumbnail": thumbnail,
        **_found(PICTURE_KINDS, {kind: rows.get(name) for kind, rows in results.contexts.items()}, row.status == "ok"),
    }


def _found(kinds: Mapping[str, TextKind], rows: Mapping[str, Context | None], readable: bool = True) -> dict[str, Any]:
    """What was found in a picture or said of a post, or why a kind has nothing where it is `readable`."""
    found: dict[str, Any] = {}
    more: dict[str, int] = {}
    failed: dict[str, str] = {}
    for kind, entry in kinds.items():
        context = rows[kind]
        items = context.items if context else []
        found[kind] = [_item(entry, item) for item in items[:SHOWN]]
        if len(items) > SHOWN:
            more[kind] = len(items) - SHOWN
        if context and context.status != "ok" and readable:
            failed[kind] = visible(f"{context.status}: {context.error or ''}", 300)
    return {"found": found, "more": more, "failed": failed}


def _item(kind: TextKind, item: Any) -> list[Any]:
    """Text, score, outline (a box ``[x0, y0, x1, y1]``, a polygon of points, or null), and its source or null."""
    words, source = kind.words(item, kind.template(max=1)), getattr(item, "source", None)
    outline = getattr(item, "box", None) or getattr(item, "polygon", None)
    return [visible(words, 1000), item.score, outline, source and visible(source, 120)]
