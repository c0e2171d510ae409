"""Where results go, whatever keeps them: :class:`pipeline.core.store.Store`, or parts by shard."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


class Results(Protocol):
    """Where results go: bytes by (digest of a fingerprint, digest of an input), as :class:`pipeline.core.store.Store`.

    Called from several threads at once.
    """

    def get_many(self, fingerprint: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The values that are stored, by key; raises UserError where they cannot be read."""
        ...

    def known(self, fingerprint: str, keys: Sequence[str]) -> set[str]:
        """The keys that have a value, which is not read; raises UserError as :meth:`get_many`."""
        ...

    def put_many(self, fingerprint: str, values: Mapping[str, bytes]) -> None:
        """Store `values` by key, all or none; raises UserError where they cannot be written."""
        ...


@runtime_checkable
class PartedResults(Protocol):
    """Results that lie apart by shard, such as :class:`pipeline.core.parts.Parts`: a shard's are whole in themselves,
    those of pictures that another shard has as well included."""

    def part(self, fingerprint: str, shard: str) -> Results:
        """The results of one shard, by its name. What is put there is kept once they are saved: :func:`save`."""
        ...


@runtime_checkable
class _Saved(Protocol):
    def save(self) -> None: ...


def of_shard(results: Results | PartedResults, fingerprint: str, shard: str) -> Results:
    """Where the results of a shard go."""
    return results.part(fingerprint, shard) if isinstance(results, PartedResults) else results


def save(results: Results) -> None:
    """See that what was put there is kept; raises UserError where that cannot be written."""
    if isinstance(results, _Saved):
        results.save()


class Kept:
    """Results in memory, to be given back by whoever reads them for another process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get_many(self, _fingerprint: str, keys: Sequence[str]) -> dict[str, bytes]:
        """As of :class:`Results`."""
        return {key: self.values[key] for key in keys if key in self.values}

    def known(self, _fingerprint: str, keys: Sequence[str]) -> set[str]:
        """As of :class:`Results`."""
        return {key for key in keys if key in self.values}

    def put_many(self, _fingerprint: str, values: Mapping[str, bytes]) -> None:
        """As of :class:`Results`."""
        self.values |= values
