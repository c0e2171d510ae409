"""Labels that are spans of characters: what they become on tokens, which are made here or given.

Offsets count code points of the text, as Python and current annotation tools do. Who writes such labels (Label Studio,
doccano, scripts) need not know how Sightread makes tokens; where a span begins or ends inside of one is told.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.settings.params import SpanMode

_DOCCANO = {"label", "entities", "relations", "Comments", "comments"}
"""Keys of doccano's exports besides id and text."""


class Span(NamedTuple):
    """Code points `start` up to, not including, `end` name something of type `label`."""

    start: int
    end: int
    label: str


def of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of JSON Lines with its spans under `spans`: rows of doccano's exports become like our own, MNER-MI's, too.

    MNER-MI has lists of tokens and labels under `text` and `label`, and the tweet's address under `url`.

    doccano writes `label` (in early versions `labels`), a list of `[start, end, type]`, or where a project has
    relations `entities`, a list of objects with `start_offset`, `end_offset` and `label`; relations are left out.

    Raises:
        ValueError: doccano's labels are malformed.
    """
    if isinstance(row.get("text"), list) and isinstance(row.get("label"), list):
        others = {name: value for name, value in row.items() if name not in ("text", "label", "url")}
        return others | {"tokens": row["text"], "labels": row["label"]}
    labels = row.get("labels")
    early = "text" in row and isinstance(labels, list) and labels and all(isinstance(each, list) for each in labels)
    if "spans" in row or not (early or row.keys() & {"label", "entities"}):
        return dict(row)
    key = "entities" if "entities" in row else "label" if "label" in row else "labels"
    found = row[key]
    try:
        if key == "entities":
            spans = [{"start": one["start_offset"], "end": one["end_offset"], "label": one["label"]} for one in found]
        else:
            spans = [{"start": start, "end": end, "label": label} for start, end, label in found]
    except (TypeError, ValueError, KeyError):
        expected = "[start, end, type]" if key != "entities" else '{"start_offset", "end_offset", "label"}'
        raise ValueError(f"{key}: expected a list of {expected}, found {found!r:.200}") from None
    return {name: value for name, value in row.items() if name not in _DOCCANO | {key}} | {"spans": spans}


def parse(value: Any, text: str) -> list[Span]:
    """The spans of a row, in order; one that is given twice is one.

    Raises:
        ValueError: they are malformed, lie outside of the text, name nothing of it, or overlap.
    """
    if not isinstance(value, list):
        raise ValueError(f'spans: expected a list of {{"start", "end", "label"}}, found {value!r:.200}')
    spans = sorted({_span(each, text) for each in value})
    for one, other in itertools.pairwise(spans):
        if text[other.start : one.end].strip():  # they may share the white space between them
            raise ValueError(
                f"spans: {_shown(one, text)} and {_shown(other, text)} overlap; expected one label a part of the text"
            )
    return spans


def _span(value: Any, text: str) -> Span:
    known = isinstance(value, dict) and {"start", "end", "label"} <= value.keys()
    if not known or not all(type(value[key]) is int for key in ("start", "end")) or not isinstance(value["label"], str):
        raise ValueError(f'spans: expected {{"start": number, "end": number, "label": text}}, found {value!r:.200}')
    start, end = value["start"], value["end"]
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"spans: {start} to {end} is no part of the text, which has {len(text)} characters (code points)"
        )
    return Span(start, end, value["label"])


def on_tokens(
    spans: Sequence[Span], tokens: Sequence[tuple[str, int]], text: str, mode: SpanMode, odd: Counter[str]
) -> list[str]:
    """IOB2 labels of tokens.

    Args:
        spans: in order, none overlapping.
        tokens: each with where it begins in the text.
        text: for messages.
        mode: of a span that begins or ends inside of a token: `snap` takes whole tokens, `refuse` is an error.
        odd: counts the spans that were snapped, and those that had no token of their own left.

    Raises:
        ValueError: a span begins or ends inside of a token that it is not to have, or has no token at all.
    """
    labels = ["O"] * len(tokens)
    for span in spans:
        inside = [
            place for place, (token, start) in enumerate(tokens) if start < span.end and span.start < start + len(token)
        ]
        if not inside:
            raise ValueError(f"spans: {_shown(span, text)} holds no token")
        (first, begin), (last, final) = tokens[inside[0]], tokens[inside[-1]]
        torn = first if begin < span.start else last if span.end < final + len(last) else None
        if torn is not None:
            if mode == "refuse":
                raise ValueError(
                    f"spans: {_shown(span, text)} begins or ends inside of the token {torn!r}; with data.spans: snap "
                    "it takes whole tokens"
                )
            odd["spans_snapped"] += 1
        free = [place for place in inside if labels[place] == "O"]
        if not free:  # it shares its only token with the span before it
            odd["spans_lost"] += 1
            continue
        labels[free[0]] = f"B-{span.label}"
        for place in free[1:]:
            labels[place] = f"I-{span.label}"
    return labels


def _shown(span: Span, text: str) -> str:
    return f"{text[span.start : span.end]!r:.60} ({span.start} to {span.end}, {span.label})"
