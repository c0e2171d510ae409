"""The card of a tagger as Markdown: what it was trained on and how, what it scores, how it is loaded, its limits.

It is rendered from what :mod:`ner.training.facts` recorded and what the evaluate stage measured, for the report and for
the hub. Names and labels come from people's data, so none of them is read as YAML or Markdown.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ner.scoring.f1 import MICRO, READINGS
from ner.scoring.surface import SEEN, UNSEEN
from pipeline.core.kinds import POST_KINDS
from pipeline.core.records import Evaluation


@dataclass(frozen=True, slots=True)
class _System:
    """A published system: what it reads of pictures, and how it is cited."""

    name: str
    with_picture: str
    paper: str
    authors: str
    published: str
    link: str


_SYSTEMS = {
    "ita": _System(
        "ITA",
        "the text with what its picture shows, in words",
        "ITA: Image-Text Alignments for Multi-Modal Named Entity Recognition",
        "Xinyu Wang, Min Gui, Yong Jiang, Zixia Jia, Nguyen Bach, Tao Wang, Zhongqiang Huang, Kewei Tu",
        "NAACL 2022",
        "https://aclanthology.org/2022.naacl-main.232",
    ),
    "rpbert": _System(
        "RpBERT",
        "the text with features of its picture's regions behind it, gated by how much the picture adds to the text",
        "RpBERT: A Text-image Relation Propagation-based BERT Model for Multimodal NER",
        "Sun, Wang, Zhang, Su, Weng",
        "AAAI 2021",
        "https://arxiv.org/abs/2102.02967",
    ),
    "iie4mner": _System(
        "IIE4MNER",
        "the text looking at features of its picture's regions and at the names of objects on it",
        "Multi-Granularity Cross-Modality Representation Learning for Named Entity Recognition on Social Media",
        "Liu, Wang, Li, Liu, Ren, Zhu, Sun",
        "Information Processing & Management, 2024",
        "https://arxiv.org/abs/2210.14163",
    ),
}
# What Markdown may read as markup inside a line; a _ inside a word is only a _.
_MARKS = re.compile(r"[!#$&*+:;<=>?@\[\\\]^`{|}~]|\b_|_\b|(?<=www)\.", re.IGNORECASE)


def render(
    found: Mapping[str, Any],
    evaluation: Evaluation | None = None,
    *,
    evaluated: Mapping[str, Any] | None = None,
    repository: str | None = None,
    data: str | None = None,
    licence: str | None = None,
) -> str:
    """The card: a YAML header as the hub reads it, then Markdown.

    Args:
        found: what :func:`ner.training.facts.read` has read.
        evaluation: scores by split and condition, or None where they are not known.
        evaluated: the section `evaluate` of params that they were measured with, or None where it is not known.
        repository: OWNER/NAME on the hub, or None for a folder.
        data: what to call the data set; None: as the training called it.
        licence: the licence's identifier on the hub, or None where nobody has stated one.
    """
    name = data or found["data"]
    header = _header(found, evaluation or {}, repository, name, licence)
    body = "\n\n".join(_body(found, evaluation, evaluated, repository, name, licence))
    return f"---\n{header}\n---\n\n{body}\n"


def _header(
    found: Mapping[str, Any], evaluation: Evaluation, repository: str | None, data: str, licence: str | None
) -> str:
    encoder = found["encoder"]
    results = [
        EvalResult(
            task_type="token-classification",
            task_name="named entity recognition",
            dataset_type=_line(data),
            dataset_name=_line(data),
            dataset_split=split,
            metric_type="f1",
            metric_name=f"micro-F1, {reading}, {condition}",
            metric_value=round(scores[reading][MICRO]["f1"], 4),
        )
        for split, conditions in evaluation.items()
        for condition, scores in conditions.items()
        for reading in READINGS
    ]
    card = ModelCardData(
        model_name=repository.split("/")[1] if repository else "tagger",
        license=licence and _line(licence),
        pipeline_tag="token-classification",
        tags=["sightread", "named-entity-recognition", "twitter", "social-media"],
        base_model=_line(encoder["name"]) if "@" in encoder["identity"] else None,  # the identity of one of the hub
        eval_results=results or None,
    )
    return card.to_yaml()


def _body(
    found: Mapping[str, Any],
    evaluation: Evaluation | None,
    evaluated: Mapping[str, Any] | None,
    repository: str | None,
    data: str,
    licence: str | None,
) -> Iterator[str]:
    types = sorted(found["splits"]["train"]["entities"])
    yield "# A tagger for named entities in tweets"
    params = found["params"]
    system = _SYSTEMS[params.get("model", "ita")]  # that of taggers of earlier versions
    how = {
        "both": f"the text alone and on {system.with_picture}",
        "text_only": "the text alone",
        "cross_modal": f"{system.with_picture}, and never on the text alone",
    }[params["views"]]
    teachers = params.get("teacher", {}).get("taggers", ["self"])  # that of taggers of earlier versions
    if params["views"] == "both" and params["alignment"] != "none" and "self" in teachers:
        how += f", the first drawn to the second as in [ITA]({_SYSTEMS['ita'].link})"
    yield (
        f"It finds {_listed(types)} in tweets, by an encoder and a CRF. The system is {system.name}, trained on {how}."
    )
    if saved := [_escaped(name) for name in teachers if name != "self"]:
        yield f"It was taught by what other taggers made of the same posts: {_listed(saved)}."
    yield "## Use"
    place = repository or "models/tagger"
    yield "With the package `sightread`, which `pip install .` installs from a checkout of Sightread:"
    yield (
        f'```python\nimport sightread\n\nprint(sightread.load("{place}").tag("Finally Jordan ! #tbt").entities)\n```'
    )
    yield (
        f"or `echo TEXT | sightread tag {place}`. With `--images DIR --params FILE` it reads pictures as well, by the "
        "extractors that params name."
    )
    seen = found.get("pictures") or {}
    if params["views"] != "text_only" and seen:
        yield from _pictures(seen, place)
    if (vectors := found.get("word_vectors")) is not None:
        yield (
            f"It has vectors, {vectors['width']} wide, of {vectors['words']:,} words of its data, made from those of "
            f"{_escaped(str(vectors['file']))}; it needs that file no more."
        )
    yield "## Scores"
    yield from _scores(found, evaluation, evaluated)
    yield "## Data"
    yield f"Data set: {_escaped(data)}. Entities are counted as conlleval does."
    splits = found["splits"]
    yield _table(
        ["split", "posts", "tokens", "with a picture" if seen else "with a context", *types],
        [
            [
                split,
                *(f"{counts[key]:,}" for key in ("posts", "tokens", "with_picture" if seen else "with_context")),
                *(f"{counts['entities'].get(name, 0):,}" for name in types),
            ]
            for split, counts in splits.items()
        ],
    )
    if not seen:
        yield _contexts(found["contexts"])
    yield "## Training"
    result = found["result"]
    chosen = f"Epoch {result['best_epoch']} of {result['epochs']} was the best on dev"
    if result.get("chosen_by") == "last_epoch":  # which taggers of earlier versions do not tell
        chosen = f"The last of {result['epochs']} epochs is kept, as none scored above 0 on dev"
    if cut := result.get("cut"):
        chosen += f". Posts too long to be trained whole: {cut['posts']:,}, as {cut['pieces']:,} pieces"
    if without := result.get("unlabelled"):
        chosen += f". Posts without labels, from which the alignment learned as well: {without['posts']:,}"
    if (found["params"].get("model"), found["params"]["views"]) in (("rpbert", "both"), ("rpbert", "cross_modal")):
        posts = result.get("relation", {}).get("posts", 0)
        chosen += f". Whether a picture adds to the text was learned from {f'{posts:,} posts and ' * bool(posts)}"
        chosen += "the entities" if not params["rpbert"]["detach_gate"] else "nothing else"
    yield (
        f"Encoder: {_code(found['encoder']['name'])} ({_code(found['encoder']['identity'])}). "
        f"{chosen}. "
        f"{', '.join(f'{_escaped(name)} {_code(number)}' for name, number in found['versions'].items())}."
    )
    yield "\n".join(
        ["| param | value |", "| --- | --- |"]
        + [f"| {_escaped(key)} | {_code(json.dumps(value))} |" for key, value in _flat(params)]
    )
    yield "## Limits"
    yield "\n".join(f"- {limit}" for limit in _limits(found, params))
    yield "## Citation"
    yield f"{system.authors}: *{system.paper}*. {system.published}. [{system.name}]({system.link})"
    yield "## Licence"
    yield (
        f"{_escaped(licence)}, as stated by whoever published it."
        if licence
        else "None has been stated. That of Sightread's code (Apache-2.0) is not that of these weights: what the "
        "encoder and the data allow has to be looked up."
    )


def _contexts(found: Mapping[str, str]) -> str:
    if not found:
        return "The contexts are empty."
    said = f"The contexts hold, in this order: {'; '.join(f'{kind} by {_code(by)}' for kind, by in found.items())}."
    for kind in found.keys() & POST_KINDS.keys():
        said += (
            f" {kind.capitalize()} is of the post itself: to read with it (`cross_modal`), the tagger needs it of each "
            "post, made in the same way; on the text alone (`text_only`), it needs none."
        )
    return said


def _pictures(seen: Mapping[str, Any], place: str) -> Iterator[str]:
    """What the tagger reads of pictures, and how it is shown them."""
    yield "### With pictures"
    features, objects = seen["features"], seen["objects"]
    read, shown = [], ["None", "None"]
    if features is not None:
        read.append(
            f"features by {_escaped(features['reader'] or 'an extractor')} (fingerprint "
            f"{(features['fingerprint'] or 'unknown')[:12]}), {features['regions']} regions of width "
            f"{features['width']:,} per picture"
        )
        shown[0] = 'Path("data/features")'
    if objects is not None:
        read.append(f"objects by {_escaped(objects['reader'] or 'an extractor')}, {objects['labels']:,} labels")
        shown[1] = 'Path("data/contexts/objects.jsonl")'
    yield (
        f"It reads {'; '.join(read)}. The same extractors have to read your pictures (`python -m stages.features`, "
        "`python -m stages.objects`, with `--images` and `--output`). Posts name their pictures in `images`:"
    )
    yield (
        "```python\nfrom pathlib import Path\n\nfrom ner.tagger import Tagger\nfrom ner.visual import Visuals\n\n"
        f'tagger = Tagger.load("{place}")\ntagger.show(Visuals.open({", ".join(shown)}))\n```'
    )
    options = [("--features data/features", features), ("--objects data/contexts/objects.jsonl", objects)]
    named = " ".join(option for option, kind in options if kind is not None)
    yield f"or `python -m ner.predict {place} posts.jsonl --format jsonl {named}`. Else it reads the text alone."


def _limits(found: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[str]:
    yield "It knows the types above and the language, time and kind of text of its data; others are untested."
    seen = found.get("pictures") or {}
    what = "picture" if seen else "picture's context"
    yield f"A wrong {what} can mislead it; `shuffled` above, where measured, says by how much."
    if seen.get("features") is not None:
        yield "Features of another extractor, or of other weights, mean nothing to it, even where they are as many."
    if seen.get("objects") is not None:
        yield "Labels of objects that no picture of its training data had are all the same to it."
    if found.get("word_vectors") is not None:
        yield "Words that were not in its data have no vector, unless `--word-vectors` names the file of its own."
    yield "A confidence is the CRF's own probability; it is not calibrated."
    yield f"The encoder reads at most {params['max_length']} sub-tokens at once, longer tweets in windows."
    yield "Tweets hold names of living people: mind the law, and the terms that the data came under."


def _scores(
    found: Mapping[str, Any], evaluation: Evaluation | None, evaluated: Mapping[str, Any] | None
) -> Iterator[str]:
    if evaluation is None:
        dev = found["result"]["dev"]
        views = {"f1": "mean of the trained views", "f1_text_only": "text_only", "f1_cross_modal": "cross_modal"}
        yield _table(["dev", "strict micro-F1, %"], [[views[key], f"{100 * value:.2f}"] for key, value in dev.items()])
        yield "The epoch was chosen by these. Scores on other posts are not in this card."
        return
    yield (
        f"In percent, with the bounds of the {_interval(evaluated)}. `conlleval` opens an entity "
        "at an orphan `I-`, `strict` does not. `cross_modal`: with the picture and context; `text_only`: on "
        "the text alone; `shuffled`: with another post's picture and context, `noised`: so for a share of the posts; "
        "`missing`: a share of them without. dev chose the epoch, test did not."
    )
    for split in sorted(evaluation, reverse=True):  # test first
        conditions = evaluation[split]
        if not conditions:
            yield f"{split}: its posts have no labels, so there are no scores."
            continue
        yield f"### {split}"
        alike = all(scores["conlleval"] == scores["strict"] for scores in conditions.values())
        yield _table(
            ["condition", "scorer", "precision", "recall", "F1", "interval", "entities"],
            [
                [
                    condition,
                    ", ".join(READINGS) if alike else reading,
                    *(f"{100 * row[key]:.2f}" for key in ("precision", "recall", "f1")),
                    "–" if row["f1_ci"] is None else "{:.2f} – {:.2f}".format(*(100 * bound for bound in row["f1_ci"])),
                    f"{row['support']:,}",
                ]
                for condition, scores in conditions.items()
                for reading in (READINGS[:1] if alike else READINGS)
                for row in [scores[reading][MICRO]]
            ],
        )
        types = sorted({name for scores in conditions.values() for name in scores["strict"]} - {MICRO, SEEN, UNSEEN})
        yield _table(
            ["F1 by type, strict", *conditions],
            [
                [
                    name,
                    *(
                        "–" if name not in scores["strict"] else f"{100 * scores['strict'][name]['f1']:.2f}"
                        for scores in conditions.values()
                    ),
                ]
                for name in types
            ],
        )
        if all(SEEN in scores["strict"] for scores in conditions.values()):
            yield (
                "Names that the training posts have with the same type, as they are written (seen), and others "
                "(unseen), strict:"
            )
            yield _table(
                ["condition", "seen", "F1", "unseen", "F1"],
                [
                    [condition]
                    + [
                        text
                        for name in (SEEN, UNSEEN)
                        for row in [scores["strict"][name]]
                        for text in (f"{row['support']:,}", f"{100 * row['f1']:.2f}")
                    ]
                    for condition, scores in conditions.items()
                ],
            )


def _interval(evaluated: Mapping[str, Any] | None) -> str:
    """What the bounds of F1 are."""
    if evaluated is None:
        return "confidence interval of F1 (bootstrap over posts)"
    return (
        f"{100 * evaluated['confidence']:g} % confidence interval of F1 (bootstrap over posts, "
        f"{evaluated['bootstrap_samples']:,} samples, seed {evaluated['bootstrap_seed']})"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _listed(types: Sequence[str]) -> str:
    return ", ".join(map(_escaped, types)) or "no entities"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else _escaped(cell) for cell in line) + " |" for line in lines
    )


def _line(text: str) -> str:
    """A text in one line, without what cannot be seen."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split()) or "unnamed"


def _code(text: str) -> str:
    """A text as code, which Markdown shows as it is and no reference spoils; as :func:`_escaped` where it cannot be."""
    line = _line(text)
    return _escaped(text) if set(line) & set("`|\\") else f"`{line}`"


def _escaped(text: str) -> str:
    """A text that Markdown shows as it is: marks become character references, which are never taken for syntax."""
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", _line(text))
