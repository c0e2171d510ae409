"""Context records found by picture or post in the file of their kind, without an index and without reading it all.

The stages write them in order. So the file is halved at the ends of lines, and what is wanted with it, until what is
left is short, or is wanted for the most part, and is gone through: a few rows of a large file cost a few short reads
each, and many that stand together little more than their bytes.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.core.errors import UserError, damaged
from pipeline.core.files import opened
from pipeline.core.kinds import Key, TextKind
from pipeline.core.records import Context

_BLOCK = 4096  # bytes that are read at a time, and gone through rather than halved
_DENSE = 4  # as many rows to go through, for each that is wanted
_COUNTED = 1 << 20  # bytes read at a time to count lines


class _Range(NamedTuple):
    """Bytes `start` up to `end` of a file, whole lines, in which the keys from `first` up to `last` may be.

    `length` is that of one of the lines; 0: none is known.
    """

    first: int
    last: int
    start: int
    end: int
    length: int = 0


class OrderedContexts:
    """The context records of a kind, in order.

    Args:
        path: data/contexts/{kind}.jsonl.
        kind: which.
    """

    def __init__(self, path: Path, kind: TextKind) -> None:
        self._path, self._kind = path, kind

    def require(self) -> None:
        """See that the file is one that the stage has written: lines that begin and end as records do, in order.

        Raises:
            UserError: it is missing or cannot be read, or a line has no key, is cut off or not in order.
        """
        previous, start = None, 0
        with opened(self._path, self._kind.name) as file:
            for line in file:
                if line != b"\n" or start > 0:  # of no rows at all the file has an empty line
                    key = self._key(line, start)
                    if not line.endswith(b"}\n"):
                        raise self._damaged(start, "this row is cut off")
                    if previous is not None and key <= previous:
                        raise self._damaged(start, f"the row of {key[0]!r} stands behind that of {previous[0]!r}")
                    previous = key
                start += len(line)

    def find(self, keys: Sequence[Key]) -> Iterator[Context]:
        """Yield the records of those of the keys that are there.

        Args:
            keys: in order, each once; so is the file, as :meth:`require` sees to.

        Raises:
            UserError: a line that was come upon is no record of this kind; the message names it.
        """
        with self._path.open("rb", buffering=_BLOCK) as file:
            waiting = [_Range(0, len(keys), 0, os.fstat(file.fileno()).st_size)]
            while waiting:
                one = waiting.pop()
                if one.first == one.last:
                    continue
                halves = self._halves(file, keys, one)
                if halves:
                    waiting += halves
                else:
                    yield from self._among(file, keys[one.first : one.last], one.start, one.end)

    def _halves(self, file: IO[bytes], keys: Sequence[Key], one: _Range) -> Sequence[_Range]:
        """Both halves of a range, the second one first; none of one that is to be gone through."""
        if one.end - one.start <= max(_BLOCK, _DENSE * one.length * (one.last - one.first)):
            return ()
        file.seek((one.start + one.end) // 2 - 1)
        middle = file.tell() + len(file.readline())
        if middle >= one.end:  # a line has all of this half
            return ()
        line = file.readline()
        split = bisect_left(keys, self._key(line, middle), one.first, one.last)
        return (
            _Range(split, one.last, middle, one.end, len(line)),
            _Range(one.first, split, one.start, middle, len(line)),
        )

    def _among(self, file: IO[bytes], keys: Sequence[Key], start: int, end: int) -> Iterator[Context]:
        """As :meth:`find`, of a range, whose lines are gone through."""
        wanted = set(keys)
        file.seek(start)
        while start < end and wanted:
            line = file.readline()
            key = self._key(line, start) if line != b"\n" else None
            if key in wanted:
                wanted.remove(key)
                try:
                    yield self._kind.parse(line.decode())
                except ValueError as error:
                    raise self._damaged(start, error) from None
            start += len(line)

    def _key(self, line: bytes, start: int) -> Key:
        try:
            return self._kind.key(line.decode())
        except ValueError as error:  # a UnicodeDecodeError is a ValueError
            raise self._damaged(start, error) from None

    def _damaged(self, start: int, trouble: object) -> UserError:
        """The error of the line that begins at a byte."""
        number = 1
        with self._path.open("rb") as file:
            while start > 0 and (block := file.read(min(start, _COUNTED))):
                number += block.count(b"\n")
                start -= len(block)
        return damaged(f"{self._path}:{number}", trouble, self._kind.name)
