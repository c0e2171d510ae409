"""Knowledge by search, without a model: passages of a file and labelled training posts that are like a post (BM25).

After MoRe (Wang et al., 2022), which retrieves passages of Wikipedia for a tweet, and PGIM (Li et al., 2023), whose
prompts cite labelled posts. BM25 is bm25s's, in Lucene's variant.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pipeline.core.errors import UserError
from pipeline.core.files import numbered_jsonl, numbered_lines
from pipeline.core.hashes import file_digest
from pipeline.core.labels import entities
from pipeline.core.records import Note, Post, as_json
from pipeline.core.store import digest
from pipeline.core.tokens import tokenize
from pipeline.extractors.base import Options, PostInput
from pipeline.extractors.precomputed import is_jsonl
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
"""Raised when the same post, passages and options would give other notes."""

_URL = re.compile(r"https?:|www\.", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
Terms = tuple[str, ...]


class RetrievalOptions(Options):
    """``knowledge.retrieval`` in params.yaml."""

    passages: Annotated[str, Field(min_length=1)] | None = None
    training_posts: bool = True
    max_notes: PositiveInt = 3
    min_score: NonNegativeFloat = 0.0
    k1: PositiveFloat = 1.5
    b: Fraction = 0.75
    types: dict[str, str] = Field(default={"PER": "person", "LOC": "place", "ORG": "organization"})

    def require(self) -> None:
        """Check that there is something to search, and that the file is there."""
        if self.passages is None and not self.training_posts:
            raise UserError("retrieval: nothing to search; expected a file as `passages`, or training_posts: true")
        if self.passages is not None and not self.file.is_file():
            raise UserError(
                f"retrieval.passages: {self.passages}: no such file; the path is relative to the folder of dvc.yaml"
            )

    @property
    def file(self) -> Path:
        """The file of passages; `passages` is not None."""
        return Path(self.passages or "").expanduser()


class Retrieval:
    """The passages and training posts that share the most telling words with a post, best first, without scores.

    A training post is cited with its entities: "Finally Jordan (place) !". No post is given itself, nor another that
    consists of the same words, wherever it is from; only the training split's labels are ever shown.
    """

    Options = RetrievalOptions

    def __init__(self, options: RetrievalOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._taught: list[Post] = []

    def teach(self, posts: Iterable[Post]) -> None:
        """The training posts; those without labels have nothing to show."""
        if self._options.training_posts:
            self._taught = [post for post in posts if post.labels is not None]

    def fingerprint(self) -> Mapping[str, Any]:
        """Options, the digests of all that is searched, bm25s's version and ours."""
        options = self._options.model_dump(mode="json", exclude={"passages"})
        passages = None if self._options.passages is None else file_digest(self._options.file)
        return {
            "extractor": "knowledge.retrieval",
            "version": VERSION,
            "bm25s": version("bm25s"),
            **options,
            "passages": passages,
            "posts": self._posts_digest,
        }

    @cached_property
    def _posts_digest(self) -> str:
        return digest({"posts": [[post.id, post.tokens, post.labels] for post in self._taught]})

    def load(self) -> None:
        """Read what is searched, and index it.

        Raises:
            UserError: the file is malformed, or there is nothing to search.
        """
        import bm25s

        self._notes: list[Note] = []
        words: dict[str, int] = {}
        numbered: list[list[int]] = []
        self._copies: dict[bytes, list[int]] = {}
        for tokens, note in self._documents():
            found = terms(tokens)
            self._copies.setdefault(_key(found), []).append(len(self._notes))
            numbered.append([words.setdefault(word, len(words)) for word in found])
            self._notes.append(note)
        if not words:
            raise UserError(f"knowledge.retrieval: {self._searched()}: no words in there to search for")
        self._words = words
        self._index = bm25s.BM25(k1=self._options.k1, b=self._options.b, method="lucene")
        self._index.index((numbered, words), create_empty_token=False, show_progress=False)

    def extract(self, posts: Sequence[PostInput]) -> list[list[Note]]:
        """At most `max_notes` for each post; none where no word of it is known."""
        return [self._search(terms(post.tokens)) for post in posts]

    def _search(self, query: Terms) -> list[Note]:
        known = [self._words[word] for word in dict.fromkeys(query) if word in self._words]
        if not known:
            return []
        scores: NDArray[np.float32] = self._index.get_scores(known)
        scores[self._copies.get(_key(query), [])] = 0
        return [self._notes[place] for place in best(scores, self._options.max_notes, self._options.min_score)]

    def _documents(self) -> Iterator[tuple[Sequence[str], Note]]:
        """Tokens of each passage and post, and the note that cites it."""
        if self._options.passages is not None:
            for source, text in _passages(self._options.file):
                yield [token for token, _ in tokenize(text)], Note(text, None, source)
        for post in self._taught:
            yield post.tokens, Note(cited(post, self._options.types), None, f"train:{post.id}")

    def _searched(self) -> str:
        posts = f"{len(self._taught):,} labelled training posts" if self._options.training_posts else ""
        return " and ".join(filter(None, [self._options.passages or "", posts]))


def terms(tokens: Sequence[str]) -> Terms:
    """What is searched for, and in: words without case, marks and `#`, `@`; addresses are left out."""
    return tuple(word for token in tokens if not _URL.match(token) for word in _WORD.findall(token.casefold()))


def _key(found: Terms) -> bytes:
    """The same for the same words alone, and short."""
    return hashlib.sha256(" ".join(found).encode()).digest()


def best(scores: "NDArray[np.float32]", most: int, least: float) -> list[int]:
    """The places of the highest scores above 0, at `least` or above, best first; of equal ones the first.

    Args:
        scores: *Shape:* (documents,).
        most: so many of them.
        least: a score.
    """
    import numpy as np

    threshold = np.partition(scores, -most)[-most] if len(scores) > most else 0
    places = np.flatnonzero((scores > 0) & (scores >= max(threshold, least)))
    order = np.lexsort((places, -scores[places]))[:most]
    return [int(place) for place in places[order]]


def cited(post: Post, types: Mapping[str, str]) -> str:
    """The text of a labelled post, each entity with its type in brackets behind it.

    Args:
        post: with labels.
        types: what types are called; one that is missing is called by its own name, in lower case.
    """
    words = list(post.tokens)
    for _, end, kind in entities(post.labels or [], "conlleval"):
        words[end - 1] += f" ({types.get(kind, kind.lower())})"
    return " ".join(words)


def _passages(file: Path) -> Iterator[tuple[str, str]]:
    """Where a passage is from, and its text: a line each, or of JSON Lines `text`, and `source` or `id`.

    Raises:
        UserError: a line is malformed.
    """
    if not is_jsonl(file):
        yield from ((f"{file.name}:{number}", line) for number, line in numbered_lines(file) if line.strip())
        return
    for number, row in numbered_jsonl(file):
        place = f"{file}:{number}"
        text, source = row.get("text"), row.get("source", row.get("id", f"{file.name}:{number}"))
        if not isinstance(text, str) or not isinstance(source, str | int):
            raise UserError(f'{place}: expected {{"text": text}} and perhaps "source", found the keys {", ".join(row)}')
        try:
            as_json([text, source])
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
        if text.strip():
            yield str(source), text
