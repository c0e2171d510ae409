"""What the contexts of posts say, as a tagger is to learn it: labels of the spans that they name, and their vectors.

How names are found is :mod:`ner.training.named`'s, how vectors are made :mod:`ner.training.context_vectors`'; how both
are learned, :mod:`ner.models.context_target`'s.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ner.bioes import to_scheme
from ner.models.context_target import OPEN, SILENT, PostTarget
from ner.training import processes
from ner.training.named import NamedSpans, Span, labels_of
from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.settings.training import ContextSpansParams, TrainParams

Describe = Callable[[Sequence[str]], Sequence[np.ndarray | None]]
"""The vectors of contexts, None of those without words (:meth:`ner.training.context_vectors.ContextVectors.of`)."""


def targets(
    posts: Sequence[View], params: TrainParams, index: Mapping[str, int], describe: Describe | None
) -> list[PostTarget]:
    """What the contexts of posts say, as far as a tagger is to learn it.

    Args:
        posts: with contexts; those of labelled ones teach nothing where `train.context_target.posts` says so.
        params: the section `train` of params.yaml.
        index: the position of each of the tagger's labels.
        describe: gives contexts their vectors, where those are learned.

    Raises:
        UserError: there is nothing to learn from them.
        ValueError: vectors are to be learned, and nothing gives them.
    """
    nothing = [None] * len(posts)
    options = params.context_target
    if options.posts == "unlabelled":
        posts = [post if post.labels is None else replace(post, context="") for post in posts]
    labels: Sequence[Sequence[int] | None] = nothing
    if options.spans.weight:
        labels = _labels(posts, options.spans, params.scheme, index)
    vectors: Sequence[np.ndarray | None] = nothing
    if options.embedding.weight:
        if describe is None:
            raise ValueError(
                "train.context_target.embedding: its vectors are made by a ContextVectors, and none is given"
            )
        vectors = _centred(describe([post.context for post in posts]))
    return [PostTarget(*each) for each in zip(labels, vectors, strict=True)]


def _labels(
    posts: Sequence[View], options: ContextSpansParams, scheme: str, index: Mapping[str, int]
) -> list[list[int] | None]:
    """Of each post those of its tokens, or SILENT, or OPEN; None where its context names nothing.

    Raises:
        UserError: a type is none of the tagger's, or no context names a span with a type.
    """
    known = sorted({label.partition("-")[2] for label in index} - {""})
    if unknown := [name for name, words in options.types.items() if words and name not in ("O", *known)]:
        raise UserError(
            f"train.context_target.spans.types: found {', '.join(unknown)}; expected O, or types of the data set, "
            f"{', '.join(known)}"
        )
    find = NamedSpans(options)
    found = [find.of(post.tokens, post.context) for post in posts]
    n_spans = sum(span.type not in (None, "O") for spans in found for span in spans or [])
    if processes.is_first():
        n_named = sum(spans is not None for spans in found)
        print(
            f"train: {n_named:,} of {len(posts):,} posts have a context that names something, and "
            f"{n_spans:,} spans of them have a type by that",
            file=sys.stderr,
        )
    if not n_spans:
        raise UserError(
            f"train.context_target.spans.weight: {options.weight}, but no context of the {len(posts):,} posts names a "
            'span of its post with a type of train.context_target.spans.types, as in "Oprah (person)"; set weight: 0, '
            "or give views a context that does (views.kinds, knowledge.extractor)"
        )
    return [
        None if spans is None else _of_tokens(spans, len(post.tokens), scheme, index)
        for spans, post in zip(found, posts, strict=True)
    ]


def _of_tokens(spans: Sequence[Span], n_tokens: int, scheme: str, index: Mapping[str, int]) -> list[int]:
    labels = to_scheme(labels_of(spans, n_tokens), scheme)
    found = [SILENT if label == "O" else index[label] for label in labels]
    for start, end, kind, _ in spans:
        if kind in (None, "O"):
            found[start:end] = [OPEN if kind is None else index["O"]] * (end - start)
    return found


def _centred(vectors: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Vectors less their mean, 0 in the place of None.

    Vectors of texts have most of their length in common, which tells nothing of a text (Mu and Viswanath, ICLR 2018,
    "All-but-the-top").

    Raises:
        UserError: no two of them differ.
    """
    every = [vector for vector in vectors if vector is not None]
    mean = np.mean(every, 0, np.float32) if every else np.zeros(1, np.float32)
    nothing = np.zeros(mean.shape, np.float16)
    centred = [nothing if vector is None else (vector - mean).astype(np.float16) for vector in vectors]
    if not any(np.abs(vector).max() > 1e-4 for vector in centred):
        raise UserError(
            f"train.context_target.embedding.weight is above 0, but {len(every):,} of {len(vectors):,} posts have a "
            "context, and no two contexts differ; set weight: 0, or give views contexts (views.kinds)"
        )
    return centred
