"""Knowledge about posts that somebody else has gathered, read from files.

Read here are JSON Lines by the posts' ids (records of our own among them), and files as PGIM has them, by the posts'
texts. What a post without an entry becomes is left to the engine.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.files import numbered_jsonl, numbered_lines
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.names import composed
from pipeline.core.records import Note, as_json
from pipeline.extractors.base import Options, PostInput
from pipeline.extractors.precomputed import existing, is_jsonl
from pipeline.settings.params import ExecutionParams

KIND = "knowledge"
END = "<EOS>"
"""Stands between a post's tokens and what is known about it, in files as PGIM has them."""
_FOREIGN = "X"  # the label of what is no part of the post, or its type (B-X)
_EXPECTED = '{"id": id, "knowledge": text or [texts]}'


class PrecomputedKnowledgeOptions(Options):
    """``knowledge.precomputed`` in params.yaml."""

    path: str | list[str] | None = Field(default=None, min_length=1)
    until: str | None = Field(default=None, min_length=1)

    def require(self) -> None:
        """Check that the files are there."""
        self.files()

    def files(self) -> list[Path]:
        """The files; paths are relative to the folder that the stage runs in.

        Raises:
            UserError: `path` is null, or one of them is not there.
        """
        return [existing(path) for path in (self.path if isinstance(self.path, list) else [self.path])]


@dataclass(slots=True)
class _Entry:
    """What a file says of a post: where, and of which: of an id (and split), or of a text."""

    place: str
    notes: list[Note]
    name: str
    split: str | None = None
    first: PostInput | None = None
    """The first post that it is of."""


class PrecomputedKnowledge:
    """What files say of each post; read when the first post is asked for. An entry may be empty.

    An entry with an id is found by it, in Unicode's form NFC; one without a split is of the posts with that id in all
    splits, which must have the same text. An entry with a text is found by its tokens; all entries with the same tokens
    are of every post that has them.
    """

    Options = PrecomputedKnowledgeOptions

    def __init__(self, options: PrecomputedKnowledgeOptions, execution: ExecutionParams) -> None:
        self._options = options

    @property
    def source(self) -> str:
        """The files and what their entries are called, for messages."""
        files = ", ".join(map(str, self._options.files()))
        names = ", ".join(entry.name for entry in self._all[:3])
        return f"{files} (with entries for {names}, …)" if names else f"{files} (empty)"

    def expect(self, posts: Iterable[PostInput]) -> None:
        """Be told the data set's posts, to see which entries are of none.

        Raises:
            UserError: as :meth:`lookup`.
        """
        for post in posts:
            for entry in self._found(post):
                entry.first = entry.first or post

    def lookup(self, post: PostInput) -> list[Note] | None:
        """What is known about the post, or None where the files have no entry for it.

        Raises:
            UserError: a file cannot be read, or the post's entry fits a post with another text, too; the message names
                file and line.
        """
        found = self._found(post)
        for entry in found:
            other = entry.first or post
            if entry.split is None and list(other.tokens) != list(post.tokens):
                raise UserError(
                    f"{entry.place}: the entry {entry.name} fits two posts with different texts, in {other.split} and "
                    f'{post.split}; expected one entry for each, with its "split"'
                )
        return list(dict.fromkeys(self._useful(note for entry in found for note in entry.notes))) if found else None

    def used(self) -> str:
        """How many entries are of no post."""
        left = [entry for entry in self._all if entry.first is None]
        if not left:
            return ""
        return f"{len(left):,} entr{'y fits' if len(left) == 1 else 'ies fit'} no post, such as {left[0].place}"

    def _useful(self, notes: Iterable[Note]) -> Iterator[Note]:
        """Notes as far as `until` stands in them; what says nothing before it is left out."""
        until = self._options.until
        if until is None:
            yield from notes
            return
        for note in notes:
            if text := note.text.partition(until)[0].strip():
                yield replace(note, text=text)

    def _found(self, post: PostInput) -> Sequence[_Entry]:
        name = composed(post.id)
        for split in dict.fromkeys((post.split, None)):
            if (entry := self._by_id.get((name, split))) is not None:
                return [entry]
        return self._by_text.get(tuple(post.tokens), [])

    @cached_property
    def _all(self) -> list[_Entry]:
        return [*self._by_id.values(), *(entry for entries in self._by_text.values() for entry in entries)]

    @cached_property
    def _by_id(self) -> dict[tuple[str, str | None], _Entry]:
        """Entries of files that go by ids."""
        entries: dict[tuple[str, str | None], _Entry] = {}
        for file in filter(is_jsonl, self._options.files()):
            for entry in _read_jsonl(file):
                key = composed(entry.name), entry.split
                if key in entries:
                    raise UserError(
                        f"{entry.place}: a second entry for {entry.name} (the first is {entries[key].place}); expected "
                        "one entry a post"
                    )
                entries[key] = entry
        return entries

    @cached_property
    def _by_text(self) -> dict[tuple[str, ...], list[_Entry]]:
        """Entries of files that go by texts."""
        entries: dict[tuple[str, ...], list[_Entry]] = {}
        for file in self._options.files():
            for tokens, entry in () if is_jsonl(file) else _read_texts(file):
                entries.setdefault(tokens, []).append(entry)
        return entries


def _read_jsonl(file: Path) -> Iterator[_Entry]:
    """Entries by id. `split`, `status` and `error` may be given; a row with another status than ok is no entry."""
    for line, row in numbered_jsonl(file):
        place, name, split, said = f"{file}:{line}", row.get("id"), row.get("split"), row.get(KIND)
        name = str(name) if type(name) is int else name
        if not isinstance(name, str) or not isinstance(said, str | list) or not isinstance(split, str | None):
            raise UserError(f"{place}: expected {_EXPECTED}, found the keys {', '.join(row) or '(none)'}")
        try:
            as_json(name)  # refuses what cannot be written
            notes = _notes(said)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
        if row.get("status", "ok") == "ok":
            yield _Entry(place, notes, name, split)


def _notes(said: str | list[Any]) -> list[Note]:
    """What an entry says; blank texts say nothing. Raises ValueError where that is neither texts nor notes."""
    texts = [said] if isinstance(said, str) else said
    notes: list[Note] = TEXT_KINDS[KIND].load([{"text": each} if isinstance(each, str) else each for each in texts])
    return [note for note in notes if note.text.strip()]


def _read_texts(file: Path) -> Iterator[tuple[tuple[str, ...], _Entry]]:
    """Entries by text: a token and its label a line, ``<EOS>``, then what is known, a word a line, all labelled X.

    Posts are separated by blank lines. What the other labels are is not looked at.
    """
    block: list[tuple[int, str, str]] = []
    for number, line in numbered_lines(file):
        if line.strip("\t "):
            token, separator, label = line.rpartition("\t")
            if not separator or not token:
                raise UserError(
                    f"{file}:{number}: expected a token, a tab and its label, as in files of PGIM, or JSON Lines of "
                    f"{_EXPECTED}; found {line[:60]!r}"
                )
            block.append((number, token.split("\t")[0], label.strip()))
        elif block:
            yield _text_entry(file, block)
            block = []
    if block:
        yield _text_entry(file, block)


def _text_entry(file: Path, block: Sequence[tuple[int, str, str]]) -> tuple[tuple[str, ...], _Entry]:
    """The entry of one post's lines: number, token, label of each."""
    foreign = [label.rpartition("-")[2] == _FOREIGN for _, _, label in block]
    end = next((at for at, (_, token, _) in enumerate(block) if token == END and foreign[at]), None)
    first = block[0][0]
    if end is None or any(foreign[:end]) or not all(foreign[end:]):
        raise UserError(
            f"{file}:{first}: expected the tokens of a post, then {END}<TAB>{_FOREIGN} and what is known about it, a "
            f"word and {_FOREIGN} a line; found {' '.join(token for _, token, _ in block)[:60]!r} without it"
        )
    tokens = tuple(token for _, token, _ in block[:end])
    text = " ".join(word for _, word, _ in block[end + 1 :]).strip()
    return tokens, _Entry(f"{file}:{first}", [Note(text)] if text else [], repr(" ".join(tokens)[:40]))
