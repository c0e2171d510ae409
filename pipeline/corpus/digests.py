"""Which version of a data set this is: digests of its texts and labels that do not depend on how the files are written.

Copies of a published data set differ in line endings, ids, further columns, the order of their posts and the names of
their types, which changes the files' own hashes and no label. These digests change only where a token or a label does.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pipeline.core.records import Post

HEX_DIGITS = 16

SPELLINGS = {"LOCATION": "LOC", "ORGANISATION": "ORG", "ORGANIZATION": "ORG", "OTHER": "MISC", "PERSON": "PER"}
"""Names of entity types, in capitals, that mean the same as another one; copies of one data set use either."""


def label_digest(posts: Iterable[Post]) -> str:
    """A digest of what the labelled posts say, tokens and labels; "" where there is none.

    Of each post, the SHA-256 of ``[tokens,labels]`` as JSON, ASCII without spaces, types in capitals and by one name
    (:data:`SPELLINGS`). Of those digests as bytes, sorted and joined, the first 16 hex digits of the SHA-256. So
    neither ids, pictures and the order of posts matter, nor how the files are written; how often a post is given does.

    Args:
        posts: as they were read: IOB2, types renamed by `data.types`.
    """
    return of_all(sorted(labels for post in posts if (labels := of_labels(post)) is not None))


def text_digest(posts: Iterable[Post]) -> str:
    """The same of the tokens alone, ``[tokens]`` of every post: whether two label versions are of the same texts."""
    return of_all(sorted(map(of_text, posts)))


def of_labels(post: Post) -> bytes | None:
    """The digest of one post's tokens and labels; None where it has no labels."""
    if post.labels is None:
        return None
    return _digest([post.tokens, [_spelled(label) for label in post.labels]])


def of_text(post: Post) -> bytes:
    """The digest of one post's tokens."""
    return _digest([post.tokens])


def of_all(digests: Iterable[bytes]) -> str:
    """The digest of the sorted digests of posts; "" of none."""
    found, empty = hashlib.sha256(), True
    for digest in digests:
        found.update(digest)
        empty = False
    return "" if empty else found.hexdigest()[:HEX_DIGITS]


@lru_cache(1000)
def _spelled(label: str) -> str:
    prefix, dash, entity_type = label.partition("-")
    name = entity_type.upper()
    return f"{prefix}{dash}{SPELLINGS.get(name, name)}"


def _digest(content: Sequence[Sequence[str]]) -> bytes:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode("ascii")).digest()
