"""Predictions, whichever engine makes them: of posts in chunks, of the tokens as given, with their place in a text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pipeline.core.records import FoundEntity, Prediction, View

CHUNK_TOKENS = 200_000
"""A stream is read no further ahead than so many tokens."""


def of_given(view: View, prediction: Prediction, spans: Sequence[tuple[int, int]]) -> Prediction:
    """A prediction of tokens that were written another way, as one of the tokens that were given.

    An entity has all given tokens of which it has a part. Where two would have the same token, the first has it.

    Args:
        view: the post as it was given.
        prediction: what was found in the tokens made of its own.
        spans: of each of those, the given tokens that it is made of.
    """
    labels, found = ["O"] * len(view.tokens), list[FoundEntity]()
    for entity in prediction.entities:
        start, end = spans[entity.start][0], spans[entity.end - 1][1]
        if found and start < found[-1].end:
            continue
        labels[start:end] = [f"B-{entity.type}", *[f"I-{entity.type}"] * (end - start - 1)]
        found.append(replace(entity, start=start, end=end, text=" ".join(view.tokens[start:end])))
    return replace(prediction, tokens=view.tokens, labels=view.labels, predicted=labels, entities=found)


def with_offsets(prediction: Prediction, starts: Sequence[int]) -> Prediction:
    """A prediction whose entities say where they are in the text that was tagged.

    Args:
        prediction: of the text's tokens.
        starts: where each token starts in the text.
    """
    ends = [start + len(token) for start, token in zip(starts, prediction.tokens, strict=True)]
    found = [
        replace(entity, start_char=starts[entity.start], end_char=ends[entity.end - 1])
        for entity in prediction.entities
    ]
    return replace(prediction, entities=found)


def chunks(views: Iterable[View], size: int) -> Iterator[list[View]]:
    """Views in lists of at most `size`, each ended early by the view with which it has CHUNK_TOKENS tokens."""
    chunk: list[View] = []
    n_tokens = 0
    for view in views:
        chunk.append(view)
        n_tokens += len(view.tokens)
        if len(chunk) == size or n_tokens >= CHUNK_TOKENS:
            yield chunk
            chunk, n_tokens = [], 0
    if chunk:
        yield chunk


def conll_lines(prediction: Prediction) -> str:
    """A prediction as CoNLL-like text: an IMGID line, token<TAB>label lines, a blank line."""
    lines = [f"IMGID:{prediction.id}"]
    lines += [f"{token}\t{label}" for token, label in zip(prediction.tokens, prediction.predicted, strict=True)]
    return "\n".join([*lines, "", ""])
