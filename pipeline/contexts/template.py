"""The template that turns what was read off a picture into the context string of a view.

Finding it is left to the extractors, and cutting the context to the encoder's room to ner/views.py.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.core.records import Caption, ObjectTag, TextLine
from pipeline.settings.params import TextContextParams, ViewsParams

# Characters that would end the line or are no text: C0 and C1 controls, line and paragraph separators, byte-order
# marks, halves of surrogate pairs. Joiners stay: emoji are made with them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def _clean(text: str) -> str:
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def render(
    views: ViewsParams,
    objects: Sequence[ObjectTag] = (),
    captions: Sequence[Caption] = (),
    ocr: Sequence[TextLine] = (),
) -> str:
    """The context string of a picture, on one line; empty where nothing was found.

    Each kind in ``views.kinds``, in that order, gives the texts of its items in the order the extractor gave them
    (tags and captions best first, OCR in reading order): those scored below ``min_score`` are left out (an item
    without a score stays), repeated texts are dropped, counted ("2 dog") or kept, and of what remains the first
    ``max`` stand. Texts are the same when they differ in case alone.
    """
    texts: dict[str, list[str]] = {
        "objects": [tag.text(views.objects.attributes) for tag in _passing(objects, views.objects)],
        "captions": [caption.text for caption in _passing(captions, views.captions)],
        "ocr": [line.text for line in _passing(ocr, views.ocr)],
    }
    parts = []
    for kind in views.kinds:
        template: TextContextParams = getattr(views, kind)
        part = template.separator.join(_settle_duplicates(texts[kind], template)[: template.max])
        if part:
            parts.append(part)
    return _UNPRINTABLE.sub(" ", views.separator.join(parts)).strip()


def _passing(items: Sequence[Any], template: TextContextParams) -> Iterator[Any]:
    least = template.min_score
    return (item for item in items if least is None or item.score is None or item.score >= least)


def _settle_duplicates(texts: Sequence[str], template: TextContextParams) -> list[str]:
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
