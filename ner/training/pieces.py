"""Very long posts as several training examples, so that the memory of a step does not grow with the longest post.

Prediction reads a post of any length a few windows at a time; a training step keeps all of them for the gradient, and
its CRF pads every post of the batch to the longest. So a post of more than MOST_WINDOWS windows is cut, between
entities, into pieces that take one window each: views like any others. What a window is, is left to :mod:`ner.views`.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from ner.views import ViewEncoder, WindowLimits
from pipeline.core.errors import UserError
from pipeline.core.labels import entities
from pipeline.core.records import View

MOST_WINDOWS = 4  # of a post that is trained whole


def in_pieces(posts: Sequence[View], views: ViewEncoder) -> list[list[View]]:
    """Each post's pieces: itself alone, or where it is too long as many tokens in a row as fit, no entity cut.

    Only a token or an entity that is longer than a window by itself makes a longer piece. Each piece has the post's id,
    context and pictures.

    Args:
        posts: views, labelled or not.
        views: knows the lengths of tokens and windows.

    Returns:
        the pieces of each post, in order.

    Raises:
        UserError: an entity alone has more tokens than MOST_WINDOWS windows take.
    """
    lengths = {token: len(ids) for token, ids in views.words(token for post in posts for token in post.tokens).items()}
    pieces: list[list[View]] = []
    for post in posts:
        ends = list(accumulate(lengths[token] for token in post.tokens))
        whole = not ends or ends[-1] <= taken(MOST_WINDOWS, views.limits)
        pieces.append([post] if whole else _cut(post, ends, views.limits))
    return pieces


def counted(pieces: Sequence[Sequence[View]]) -> list[dict[str, float]]:
    """An entry of the log that tells how many posts were cut, and into how many pieces; none where none was."""
    cut = [len(each) for each in pieces if len(each) > 1]
    return [{"cut_posts": len(cut), "pieces": sum(cut)}] if cut else []


def warn_of_pieces(pieces: Sequence[Sequence[View]]) -> None:
    """Say so where posts are not trained whole."""
    for logs in counted(pieces):
        longest = max(pieces, key=len)
        print(
            f"train: {logs['cut_posts']} of {len(pieces)} posts, longer than {MOST_WINDOWS} encoder windows, are "
            f"trained as {logs['pieces']} pieces, cut between entities; the longest is post {longest[0].id}, "
            f"{sum(len(piece.tokens) for piece in longest)} tokens",
            file=sys.stderr,
        )


def taken(n_windows: int, limits: WindowLimits) -> int:
    """How many sub-tokens of a post so many windows take, beside the longest context that there may be."""
    room = limits.max_length - 3
    share = room - min(limits.max_context, room // 2)
    return share + (n_windows - 1) * (share - min(limits.stride, share // 2))


def _cut(post: View, ends: Sequence[int], limits: WindowLimits) -> list[View]:
    """Cut a post greedily; `ends`: how many sub-tokens there are up to the end of each of its tokens."""
    labels = post.labels or []
    inside: set[int] = set()  # borders that lie in an entity, by the token that follows
    for start, end, kind in entities(labels, "conlleval"):
        inside.update(range(start + 1, end))
        if end - start > taken(MOST_WINDOWS, limits):
            raise UserError(
                f"train: post {post.id} has an entity of {end - start} tokens ({kind}, from token {start + 1}), and an "
                f"entity is trained in one piece; expected at most {taken(MOST_WINDOWS, limits)}: correct its labels, "
                "leave the post out, or raise train.max_length"
            )
    places = []
    start = border = 0  # where the piece begins; the last place behind it where it may end
    for place in range(1, len(ends) + 1):
        if place in inside:
            continue
        if border > start and ends[place - 1] - (ends[start - 1] if start else 0) > taken(1, limits):
            places.append((start, border))
            start = border
        border = place
    places.append((start, border))
    return [
        replace(post, tokens=post.tokens[start:end], labels=None if post.labels is None else labels[start:end])
        for start, end in places
    ]
