"""Label Studio's files: tasks that people label there, with what a tagger found, and exports of what they labelled.

Offsets count code points, as Label Studio does since 2021; an older export that counts UTF-16 units is told by the text
that a region repeats. What is labelled is put onto the very tokens that a task was made of. Predictions are shown to
people and never read as labels.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pipeline.core.errors import UserError
from pipeline.core.files import contents
from pipeline.core.labels import Scheme
from pipeline.core.records import Post, Prediction
from pipeline.core.tokens import tokenize
from pipeline.corpus.reading import AS_THEY_ARE, Labels, Problems, final, from_row, listed
from pipeline.corpus.spans import on_tokens, parse
from pipeline.settings.params import SpanMode

LOCAL = "/data/local-files/?d="
"""Where Label Studio serves files below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""


def configuration(types: Sequence[str]) -> str:
    """The labelling interface of a project: the pictures, the context, the text with the labels to give."""
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in types)
    return (
        "<View>\n"
        "  <Style>.htx-text { white-space: pre-wrap; }</Style>\n"  # else white space is trimmed, and offsets shift
        '  <Image name="pictures" valueList="$pictures"/>\n'
        '  <Header value="$context" size="5"/>\n'
        f'  <Labels name="label" toName="text">\n{labels}\n  </Labels>\n'
        '  <Text name="text" value="$text"/>\n'
        "</View>\n"
    )


def task(prediction: Prediction, context: str, images: Sequence[str], place: str, uncertainty: float) -> dict[str, Any]:
    """A post as a task, with what the tagger found in it.

    Args:
        prediction: of the tagger.
        context: what its pictures say, in words.
        images: names of its pictures.
        place: what stands before a picture's name in its address.
        uncertainty: of the tagger, 0 where it is sure; the score of its prediction is 1 / (1 + uncertainty).
    """
    starts = _starts(prediction.tokens)
    text = " ".join(prediction.tokens)
    regions = []
    for number, entity in enumerate(prediction.entities):
        start, end = starts[entity.start], starts[entity.end - 1] + len(prediction.tokens[entity.end - 1])
        value = {"start": start, "end": end, "text": text[start:end], "labels": [entity.type]}
        regions.append(
            {
                **{"id": f"entity{number}", "from_name": "label", "to_name": "text", "type": "labels", "value": value},
                "score": round(min(entity.confidence, 1.0), 4),
            }
        )
    return {
        "data": {
            "id": prediction.id,
            "text": text,
            "tokens": list(prediction.tokens),
            "images": list(images),
            "pictures": [place + quote(name) for name in images],
            "context": context,
            "uncertainty": round(uncertainty, 4),
        },
        "predictions": [{"model_version": "sightread", "score": 1 / (1 + uncertainty), "result": regions}],
    }


def each(
    path: str | Path,
    *,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = AS_THEY_ARE,
    odd: Counter[str] | None = None,
    spans: SpanMode = "snap",
) -> Iterator[Post]:
    """Read an export in Label Studio's format JSON (not JSON-MIN): the tasks that somebody has labelled.

    Of several annotations of a task the one changed last is read; cancelled ones are none. Regions of other kinds than
    labels of text are left out. An export is one JSON document, and in memory as a whole.

    Args:
        path: the file.
        scheme: of other files; what is read here becomes IOB2 in any case.
        image_name: how an id names its picture, where a task does not; None for no picture.
        types: new names of entity types; types it does not name stay.
        odd: counts tasks that nobody has labelled and further annotations, which are left out, and odd spans.
        spans: what becomes of a span that begins or ends inside of a token.

    Raises:
        UserError: the file is missing or no such export, or tasks are malformed; the first few are named.
    """
    path, known = Path(path), Labels(scheme, types)
    odd = Counter() if odd is None else odd
    try:
        tasks = json.loads(contents(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}; expected an export of Label Studio in its format JSON") from None
    if not isinstance(tasks, list) or not all(isinstance(each, dict) and "data" in each for each in tasks):
        raise UserError(f"{path}: expected a list of tasks with data; export in the format JSON, not JSON-MIN")
    problems = Problems(path)

    def posts() -> Iterator[Post]:
        for number, task in enumerate(tasks, start=1):
            try:
                regions = _labelled(task, odd)
                post = None if regions is None else _post(task, regions, known, image_name, odd, spans)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
                problems.add(f"{path}: task {number}: {reason}")
                continue
            if post is not None:
                yield post

    return final(posts(), problems, known, odd)


read = listed(each)


def _labelled(each: Mapping[str, Any], odd: Counter[str]) -> list[Any] | None:
    """The regions of a task's annotation; None where it has none."""
    annotations = [one for one in each.get("annotations") or [] if not one.get("was_cancelled")]
    if not annotations:
        odd["tasks_without_annotation"] += 1
        return None
    odd["further_annotations"] += len(annotations) - 1
    last = max(enumerate(annotations), key=lambda pair: (str(pair[1].get("updated_at") or ""), pair[0]))[1]
    found = last["result"]
    if not isinstance(found, list):
        raise ValueError(f"result: expected a list of regions, found {found!r:.200}")
    return found


def _post(
    each: Mapping[str, Any],
    regions: Sequence[Any],
    known: Labels,
    image_name: str | None,
    odd: Counter[str],
    mode: SpanMode,
) -> Post:
    data = each["data"]
    text = data["text"]
    if not isinstance(text, str):
        raise ValueError(f"text: expected a text, found {text!r:.200}")
    tokens: list[str] = data.get("tokens") or [token for token, _ in tokenize(text)]
    made_of = "tokens" in data and bool(data["tokens"])
    if made_of and " ".join(tokens) != text:
        raise ValueError(
            "the text is not its tokens with spaces between them; leave `tokens` out of a task of your own"
        )
    pairs = list(zip(tokens, _starts(tokens), strict=True)) if made_of else tokenize(text)
    labels = on_tokens(parse(list(_spans(regions, text)), text), pairs, text, mode, odd)
    row = {"id": data.get("id") or each.get("id"), "tokens": tokens, "labels": labels}
    return from_row(row | ({"images": data["images"]} if "images" in data else {}), known, image_name, odd)


def _spans(regions: Sequence[Any], text: str) -> Iterator[dict[str, Any]]:
    """The regions that label text, in code points.

    Raises:
        ValueError: a text that one repeats stands there neither by code points nor, with all others, by UTF-16 units.
    """
    values = [region["value"] for region in regions if region.get("type") in ("labels", "hypertextlabels")]
    wrong = [
        value
        for value in values
        if isinstance(repeated := value.get("text"), str)
        and (text[value["start"] : value["end"]] != repeated or value["end"] - value["start"] != len(repeated))
    ]
    units = text.encode("utf-16-le")

    def of_units(unit: int) -> int:
        return len(units[: 2 * unit].decode("utf-16-le", errors="replace"))

    in_units = bool(wrong) and all(
        value.get("text") == units[2 * value["start"] : 2 * value["end"]].decode("utf-16-le", errors="replace")
        for value in values
    )
    if wrong and not in_units:
        value = wrong[0]
        found = text[value["start"] : value["end"]]
        raise ValueError(
            f"{value['text']!r:.100} is not at {value['start']} to {value['end']} of the text, where {found!r:.100} is"
        )
    for value in values:
        named = value.get("labels") or value.get("hypertextlabels") or []
        if len(named) != 1:
            raise ValueError(f"a region with {len(named)} labels ({', '.join(map(str, named))}); expected one")
        start, end = value["start"], value["end"]
        yield {
            "start": of_units(start) if in_units else start,
            "end": of_units(end) if in_units else end,
            "label": named[0],
        }


def _starts(tokens: Sequence[str]) -> list[int]:
    """Where tokens begin that have a space between them."""
    starts, place = [], 0
    for token in tokens:
        starts.append(place)
        place += len(token) + 1
    return starts
