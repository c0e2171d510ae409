"""Which post of a predicted file belongs to which post of the gold one."""

from collections.abc import Sequence

from pipeline.core.errors import UserError
from pipeline.core.names import FORMS, composed
from pipeline.core.records import Post
from pipeline.corpus.reading import unique_ids


def match(gold: Sequence[Post], predicted: Sequence[Post], gold_name: str, predicted_name: str) -> list[Post]:
    """The predicted posts in the order of the gold ones: by id where both sides know theirs, else by position.

    Ids are compared in Unicode's form NFC. An id that a file gives twice stands for `id` and `id#2`, which is what
    predictions call the second of them.

    Raises:
        UserError: a post is missing, one too many, without labels, or has other tokens.
    """
    if all(post.images for post in [*gold, *predicted]):  # only an IMGID line names a picture
        gold_keys, predicted_keys = ([composed(post.id) for post in unique_ids(side)] for side in (gold, predicted))
        by_key = dict(zip(predicted_keys, predicted, strict=True))
        missing = [key for key in gold_keys if key not in by_key]
        extra = sorted(set(predicted_keys) - set(gold_keys))
        if missing or extra:
            name, which, key = (predicted_name, "lacks", missing[0]) if missing else (predicted_name, "adds", extra[0])
            raise UserError(
                f"{name}: {which} post IMGID:{key}, unlike {gold_name} "
                f"({len(missing)} missing, {len(extra)} too many); expected the same posts in both files"
            )
        ordered = [by_key[key] for key in gold_keys]
    elif len(gold) != len(predicted):
        raise UserError(
            f"{predicted_name}: {len(predicted)} posts, but {gold_name} has {len(gold)}; expected the same "
            "posts in both files (in the same order where they have no IMGID lines)"
        )
    else:
        ordered = list(predicted)
    for one, other in zip(gold, ordered, strict=True):
        for name, post in ((gold_name, one), (predicted_name, other)):
            if post.labels is None:
                raise UserError(f"{name}: post {post.id} has no labels; expected token<TAB>label")
        if one.tokens != other.tokens:
            place = next(
                (index for index, pair in enumerate(zip(one.tokens, other.tokens, strict=False)) if pair[0] != pair[1]),
                min(len(one.tokens), len(other.tokens)),
            )
            same = composed(" ".join(one.tokens)) == composed(" ".join(other.tokens))
            hint = f"; they differ {FORMS}: write both files in NFC" if same else ""
            raise UserError(
                f"post {one.id}: token {place + 1} is {_token(one, place)} in {gold_name}, but "
                f"{_token(other, place)} in {predicted_name}; expected the same tokens in both files{hint}"
            )
    return ordered


def _token(post: Post, place: int) -> str:
    return repr(post.tokens[place]) if place < len(post.tokens) else "missing"
