"""Other kinds that are read along with a stage's own: what each lacks in a shard, and what becomes of one in error.

Reading them is left to :mod:`pipeline.engine.one_pass`; what a cluster adds, to :mod:`pipeline.engine.asked`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.core.store import digest
from pipeline.engine.inputs import PictureInputs
from pipeline.engine.outcome import Outcome, described
from pipeline.engine.plan import Lacking
from pipeline.engine.run import Work, planned
from pipeline.extractors.base import Extractor, fingerprint_of

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Along:
    """Another kind to read.

    Attributes:
        extractor: of that kind.
        inputs: what it is shown.
        batch_size: pictures per batch, at most.
        section: the section of params that names the extractor, for the workers of a cluster, which make their own.
    """

    kind: str
    extractor: Extractor
    inputs: PictureInputs
    batch_size: int
    section: Mapping[str, Any] = field(default_factory=dict)

    def work(self, own: Work) -> Work:
        """What there is to read of it for who reads the own kind."""
        key = digest(fingerprint_of(self.extractor))
        return planned(self.kind, self.extractor, self.inputs, own.results, key, part=own.part)


class WithOthers(Generic[T]):
    """A stage's own kind and others; its errors are raised, another is left to its own stage with one.

    Args:
        kind: the own one.
        left: called with a kind that is left, and why; by default it is told on stderr.
    """

    def __init__(self, kind: str, left: Callable[[str, str], object] | None = None) -> None:
        self.kind = kind
        self.others: dict[str, T] = {}
        self._left = left or self._tell
        self._rest: dict[str, _Abreast] = {}

    def add(self, kind: str, other: T, rest: Iterator[Lacking]) -> None:
        """Put another kind among them, with the shards that it lacks results of."""
        self.others[kind], self._rest[kind] = other, _Abreast(rest)

    def attempt(self, kind: str, act: Callable[[], R]) -> R | None:
        """Do what one kind needs; None where another than the own one fails, which is left out from then on."""
        if kind == self.kind:
            return act()
        try:
            return act()
        except Exception as error:  # whatever it is, its own stage meets it and says so
            said = " ".join(str(error).split()) if isinstance(error, UserError) else described(error)
            self.leave(kind, said)
            return None

    def leave(self, kind: str, why: str) -> None:
        """Leave another kind to its own stage."""
        self.others.pop(kind, None)
        self._left(kind, why)

    def lacking(self, number: int) -> dict[str, Lacking]:
        """What the others lack in a shard, by kind; numbers of shards are to grow from call to call."""
        found = ((kind, self.attempt(kind, partial(self._rest[kind].of, number))) for kind in list(self.others))
        return {kind: lacks for kind, lacks in found if lacks is not None}

    def tell(self, kind: str, outcome: Outcome, used: str = "") -> None:
        """Say what became of another kind, and what that took."""
        said = f"{outcome.count:,} read, {len(outcome.failures):,} failed{used and '; '}{used}"
        print(f"{kind}, along with {self.kind}: {said}", file=sys.stderr)

    def _tell(self, kind: str, why: str) -> None:
        tqdm.write(f"{self.kind}: {kind} is not read along, but left to its own stage: {why}", sys.stderr)


@dataclass(slots=True)
class _Abreast:
    """The shards that a kind lacks results of, looked at as another kind comes to them."""

    rest: Iterator[Lacking]
    _head: Lacking | None = None

    def of(self, number: int) -> Lacking | None:
        """What is lacking in a shard."""
        while self._head is None or self._head.number < number:
            self._head = next(self.rest, None)
            if self._head is None:
                return None
        return self._head if self._head.number == number else None
