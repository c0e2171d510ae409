"""The template that turns what was read off a post's pictures, and said of the post, into the context of a view.

Finding it is left to the extractors, and cutting the context to the encoder's room to ner/views.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from pipeline.core.kinds import PICTURE_KINDS, TEXT_KINDS, TextTemplate
from pipeline.settings.params import ViewsParams

# Characters that would end the line or are no text: C0 and C1 controls, line and paragraph separators, byte-order
# marks, halves of surrogate pairs. Joiners stay: emoji are made with them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


Items = Mapping[str, Sequence[Any]]
"""Kind → items."""
Words = Mapping[str, str]
"""Kind → its items in words."""
_NONE: Items = {}


def render_post(views: ViewsParams, pictures: Sequence[Items], said: Items = _NONE) -> str:
    """The context string of a post, on one line.

    Args:
        views: the template.
        pictures: what was found in each.
        said: what was said of the post.
    """
    return join_post(views, [in_words(views, found) for found in pictures], in_words(views, said))


def join_post(views: ViewsParams, pictures: Sequence[Words], said: Words) -> str:
    """As :func:`render_post`, of what is in words already.

    Of neighbours in ``views.kinds`` that are about pictures, the contexts of the pictures in their order, the first
    `max_images` that have one; a kind that is about the post stands once, before or behind them.
    """
    parts = []
    for about_pictures, kinds in groupby(views.kinds, PICTURE_KINDS.__contains__):
        some = list(kinds)
        texts = [text for words in (pictures if about_pictures else [said]) if (text := _join(views, some, words))]
        parts.append(views.image_separator.join(texts[: views.max_images]))
    return _UNPRINTABLE.sub(" ", views.separator.join(filter(None, parts))).strip()


def render(views: ViewsParams, found: Items) -> str:
    """The context string of a picture, on one line; empty where nothing was found.

    Args:
        views: the template.
        found: kind → items; a kind that is missing found nothing.
    """
    return _join(views, views.kinds, in_words(views, found))


def in_words(views: ViewsParams, found: Items) -> Words:
    """What was found, in words, kind by kind; without those that found nothing."""
    return {kind: words for kind in views.kinds if (words := kind_in_words(views, kind, found.get(kind, ())))}


def kind_in_words(views: ViewsParams, kind: str, items: Sequence[Any]) -> str:
    """The texts of a kind's items, in the order the extractor gave them (tags and captions best first, OCR in reading
    order).

    Those scored below ``min_score`` are left out (an item without a score stays), repeated texts are dropped, counted
    ("2 dog") or kept, and of what remains the first ``max`` stand. Texts are the same when they differ in case alone.
    """
    template = views.template(kind)
    texts = [TEXT_KINDS[kind].words(item, template) for item in _passing(items, template)]
    return template.separator.join(_settle_duplicates(texts, template)[: template.max])


def _join(views: ViewsParams, kinds: Sequence[str], words: Words) -> str:
    parts = [part for kind in kinds if (part := words.get(kind))]
    return _UNPRINTABLE.sub(" ", views.separator.join(parts)).strip()


def _passing(items: Sequence[Any], template: TextTemplate) -> Iterator[Any]:
    least = template.min_score
    return (item for item in items if least is None or item.score is None or item.score >= least)


def _clean(text: str) -> str:
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def _settle_duplicates(texts: Sequence[str], template: TextTemplate) -> list[str]:
    cleaned = [text for text in map(_clean, texts) if text]
    if template.duplicates == "keep":
        return cleaned
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for text in cleaned:
        key = text.casefold()
        first.setdefault(key, text)
        counts[key] = counts.get(key, 0) + 1
    if template.duplicates == "drop":
        return list(first.values())
    return [text if counts[key] == 1 else f"{counts[key]} {text}" for key, text in first.items()]
