"""One picture of a finished run, for a README or a paper: `python -m stages.report --figure FILE.svg`.

A post that its picture decides (what was found in the picture, what each condition made of the tweet), and F1 by type,
from the run's own files. The picture is in the file itself, small and as JPEG, so that the figure is one file.
"""

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.files import portable
from pipeline.core.kinds import PICTURE_KINDS
from pipeline.core.labels import entities
from pipeline.core.records import ImageRow, ObjectTag, Post, TextLine
from pipeline.core.store import Store
from pipeline.images import pictures
from pipeline.images.decoding import PictureError
from pipeline.images.remote import opened
from pipeline.settings.params import Condition, Split
from reporting.charts import interval_chart
from reporting.page import environment
from reporting.scores import NAMES, entity_types, score_splits
from reporting.sources import Results
from reporting.text import visible, visible_token

SPLIT: Split = "test"
SHOWN: tuple[Condition, ...] = ("cross_modal", "text_only")
WIDTH = 220  # pixels that the picture is shown in; it is stored at twice that
LONGEST = 52  # characters of a tweet that the figure has room for
ADVANCE = 7.83  # of a character, in the 13 px monospace type that the figure sets texts in
TYPE_ADVANCE = 7.2  # likewise of the small capitals behind an entity


@dataclass(frozen=True)
class Piece:
    """A stretch of a line: plain text, or an entity with its type; `right` is None for gold."""

    text: str
    x: float
    width: float
    kind: str | None = None
    index: int = 0
    note: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class Line:
    """A labelled line of the figure."""

    name: str
    pieces: list[Piece]


def draw(results: Results, wanted: str | None = None) -> str:
    """The figure as SVG.

    Args:
        wanted: id of the post to show; None chooses one that the picture decides.

    Raises:
        UserError: there is no such post, none that the picture decides, its picture cannot be read, or the split was
            not scored.
    """
    types = entity_types(results)
    chart = interval_chart(next(split for split in score_splits(results, types) if split.split == SPLIT), "strict")
    if chart is None:
        raise UserError(f"--figure: the run has no scores of {SPLIT} to draw")
    post = _choose(results, wanted)
    rows = {condition: results.predictions[SPLIT][condition].rows[post.id] for condition in SHOWN}
    gold = [(start, end, kind, "") for start, end, kind in entities(post.labels or [], "strict")]
    wanted_spans = {entity[:3] for entity in gold}
    lines = [_line("gold", post, gold, types, None)]
    for condition, row in rows.items():
        found = [(entity.start, entity.end, entity.type, f"{entity.confidence:.2f}") for entity in row.entities]
        lines.append(_line(NAMES[condition], post, found, types, wanted_spans))
    picture = results.images[post.images[0]]
    return (
        environment()
        .get_template("figure.svg.j2")
        .render(
            lines=lines,
            context=visible(rows["cross_modal"].context_used, 70),
            picture=picture,
            width=WIDTH,
            embedded=_embedded(results, picture),
            boxes=[
                item
                for item in results.contexts["objects"][picture.image].items
                if isinstance(item, ObjectTag) and item.box
            ],
            polygons=[
                item
                for item in results.contexts["ocr"][picture.image].items
                if isinstance(item, TextLine) and item.polygon
            ],
            chart=chart,
            split=SPLIT,
            name=portable(results.settings.data.root),
        )
    )


def _embedded(results: Results, row: ImageRow) -> str | None:
    """The picture as a data URI, or None where it is no longer there: its contexts may have been computed elsewhere."""
    limits = results.settings.images
    with Store.open() as store:
        place = opened(results.settings.data, limits, store)
        if place is None:
            return None
        try:
            picture = pictures.load(place, row.image, str(row.sha256), limits)
        except PictureError:
            return None
    picture = picture.convert("RGB")
    picture.thumbnail((2 * WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _choose(results: Results, wanted: str | None) -> Post:
    """The post asked for; else the one with boxes and words on which the picture changes most."""
    predictions = results.predictions.get(SPLIT, {})
    if not set(SHOWN) <= predictions.keys():
        raise UserError(
            f"--figure: the run has no predictions of {SPLIT} with and without pictures (evaluate.conditions)"
        )
    best: tuple[float, Post] | None = None
    for post in results.posts[SPLIT]:
        if not _can_be_drawn(results, post):
            continue
        if wanted is not None and post.id == wanted:
            return post
        value = _worth(results, post)
        if wanted is None and value is not None and (best is None or value > best[0]):
            best = value, post
    if best is None:
        raise UserError(
            f"--figure: {SPLIT} has no post with a picture that can be read and "
            + (f"the id {wanted}" if wanted is not None else "decides it, and that fits the figure")
        )
    return best[1]


def _can_be_drawn(results: Results, post: Post) -> bool:
    """Whether the post has a picture of known size; one that is not there may have contexts, computed elsewhere."""
    return bool(post.images) and results.images[post.images[0]].status == "ok"


def _worth(results: Results, post: Post) -> float | None:
    """How sure the tagger is with the picture where it errs without; None where the picture decides nothing."""
    if post.labels is None or not post.images or len(" ".join(post.tokens)) > LONGEST:
        return None
    kinds = [kind for kind in results.settings.views.kinds if kind in PICTURE_KINDS]
    if not all(results.contexts[kind][post.images[0]].items for kind in kinds):
        return None
    rows = [results.predictions[SPLIT][condition].rows[post.id] for condition in SHOWN]
    gold = set(entities(post.labels, "strict"))
    cross, text = (set(entities(row.predicted, "strict")) == gold for row in rows)
    if not gold or not cross or text or not rows[1].entities:
        return None
    return min(entity.confidence for entity in rows[0].entities)


def _line(
    name: str, post: Post, found: list[tuple[int, int, str, str]], types: list[str], gold: set[tuple[Any, ...]] | None
) -> Line:
    pieces: list[Piece] = []
    x, position = 0.0, 0
    tokens = [visible_token(token, invisible=False) for token in post.tokens]
    for start, end, kind, note in sorted(found):
        if start > position:
            text = " ".join(tokens[position:start])
            pieces.append(Piece(text, x, len(text) * ADVANCE))
            x += (len(text) + 1) * ADVANCE
        text, right = " ".join(tokens[start:end]), None if gold is None else (start, end, kind) in gold
        label = visible(kind, 12)
        small = " ".join(filter(None, (label, note, {True: "✓", False: "✗", None: ""}[right])))
        width = len(text) * ADVANCE + (len(small) + 1) * TYPE_ADVANCE + 10
        pieces.append(Piece(text, x, width, label, types.index(kind) % 8, small, right))
        x += width + ADVANCE
        position = end
    if position < len(tokens):
        text = " ".join(tokens[position:])
        pieces.append(Piece(text, x, len(text) * ADVANCE))
    return Line(name, pieces)
