"""Which digests occur in a manifest more than once, and where; on disk, in memory that stays flat."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.core.scratch import Scratch
from pipeline.core.store import lookups


class Repeated:
    """The digests that several rows have, with the numbers and names of those.

    Args:
        rows: of each that has a digest: the digest in hex, its number among all rows, its name; in order.
    """

    def __init__(self, rows: Iterable[tuple[str, int, str]]) -> None:
        self._table = Scratch("CREATE TABLE every (key BLOB, number INTEGER, name TEXT)")
        self._table.fill(
            "INSERT INTO every VALUES (?, ?, ?)", ((bytes.fromhex(key), number, name) for key, number, name in rows)
        )
        self._table.run("CREATE TABLE twice AS SELECT key FROM every GROUP BY key HAVING count(*) > 1")
        self.any = next(self._table.rows("SELECT 1 FROM twice LIMIT 1"), None) is not None
        """Whether there are any."""
        if self.any:
            self._table.run("CREATE TABLE shared AS SELECT * FROM every WHERE key IN (SELECT key FROM twice)")
            self._table.run("CREATE INDEX by_key ON shared (key, number)")
        self._table.run("DROP TABLE every")

    def first(self, keys: Iterable[str]) -> dict[str, int]:
        """Of some digests, those that are repeated, with the number of the first row that has each."""
        return {key.hex(): number for key, number in self._of(keys, "key, min(number)", "GROUP BY key")}

    def names(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Of some digests, those that are repeated, with the names of all rows that have each, in order."""
        found: dict[str, list[str]] = {}
        for key, name in self._of(keys, "key, name", "ORDER BY key, number"):
            found.setdefault(key.hex(), []).append(name)
        return found

    def _of(self, keys: Iterable[str], columns: str, rest: str) -> Iterator[Any]:
        for marks, some in lookups(map(bytes.fromhex, keys if self.any else ())):
            query = f"SELECT {columns} FROM shared WHERE key IN ({marks}) {rest}"  # noqa: S608  (names and marks)
            yield from self._table.rows(query, some)
