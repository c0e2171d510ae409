"""Results by shard, for several machines at once: one Parquet file a shard and extractor, behind a URL.

A part is written once and never changed: its name is a digest of the keys in it. A shard whose pictures are others than
before gets another part, with what the older one has of them. To keep results of this machine alone is left to
:mod:`pipeline.core.store`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from pipeline.core import environments
from pipeline.core.errors import UserError
from pipeline.core.remote import Remote

SCHEMA = "1"
"""Version of the files' layout, kept in their metadata."""

_GROUP_BYTES = 32_000_000  # of values that are read at a time
_PLAIN_BYTES = 16_000  # values that are larger in the mean are tensors: to compress them takes longer than to make them
_META = b"sightread"


class Parts:
    """Results (bytes) by (digest of a fingerprint, shard, digest of the input), below a URL.

    Several machines may write at once: what two of them write under one name has the same keys and values.

    Args:
        url: of a folder that all of them see; created if missing.
        folder: of this machine, for what its runs write down about themselves; None: nowhere.

    Raises:
        UserError: pyarrow or what speaks the URL's protocol is not installed.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        try:
            import pyarrow
        except ImportError:
            raise UserError(
                f"execution.results: {url}: parts are Parquet files, and pyarrow is not installed; "
                f"{environments.getting('pyarrow')}"
            ) from None
        pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # its own keeps tens of MB of what was freed
        self.url, self.folder = url, folder
        self._remote = Remote(url)
        self._listed: dict[str, dict[str, set[str]]] = {}

    def part(self, fingerprint: str, shard: str) -> "Part":
        """The results of a shard.

        Args:
            fingerprint: digest of what reads.
            shard: its name.

        Raises:
            UserError: the folder cannot be listed.
        """
        names = self._listing(fingerprint).setdefault(shard, set())
        return Part(self._remote, fingerprint, shard, names)

    def one(self, fingerprint: str, shard: str) -> "Part":
        """As :meth:`part`; that shard alone is listed, for a process that takes up few of them."""
        found = self._remote.find(f"{fingerprint[:32]}/{shard}")
        return Part(self._remote, fingerprint, shard, {name for name in found if name.endswith(".parquet")})

    def refresh(self) -> None:
        """Look again for what others have written since."""
        self._listed.clear()

    def _listing(self, fingerprint: str) -> dict[str, set[str]]:
        """Names of parts by shard; listed once, as a bucket gives a thousand names a call."""
        if fingerprint not in self._listed:
            found: dict[str, set[str]] = {}
            for path in self._remote.find(fingerprint[:32]):
                shard, _, name = path.partition("/")
                if name.endswith(".parquet"):
                    found.setdefault(shard, set()).add(name)
            self._listed[fingerprint] = found
        return self._listed[fingerprint]

    def __getstate__(self) -> tuple[str, Path | None]:
        return self.url, self.folder

    def __setstate__(self, state: tuple[str, Path | None]) -> None:
        Parts.__init__(self, *state)


class Part:
    """The results of one shard; made by :meth:`Parts.part`. What is put is kept once :meth:`save` has returned."""

    def __init__(self, remote: Remote, fingerprint: str, shard: str, names: set[str]) -> None:
        self._remote, self._shard, self._names = remote, f"{fingerprint[:32]}/{shard}", names
        self._fingerprint = fingerprint
        self._files: dict[str, _File] = {}  # that have been opened
        self._new: dict[str, bytes] = {}

    def get_many(self, _fingerprint: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The values that are there, by key.

        Raises:
            UserError: a part is damaged, newer than this program, or cannot be read.
        """
        found = {key: self._new[key] for key in keys if key in self._new}
        for file in self._opened():
            rest = [key for key in keys if key not in found]
            if not rest:
                break
            found |= file.get_many(rest)
        return found

    def known(self, _fingerprint: str, keys: Sequence[str]) -> set[str]:
        """The keys that have a value; where a part is named for them all, it is not opened. Errors as above."""
        wanted = set(keys)
        if _name(wanted) in self._names:
            return wanted
        return {key for key in wanted if key in self._new or any(key in file for file in self._opened())}

    def put_many(self, _fingerprint: str, values: Mapping[str, bytes]) -> None:
        """Add values by key to those that are written by :meth:`save`; a key that is there keeps its value."""
        for key, value in values.items():
            self._new.setdefault(key, value)

    def save(self) -> None:
        """Write what was put, with what older parts have, as a part of its own; nothing where nothing was put.

        Raises:
            UserError: it cannot be written.
        """
        if not self._new:
            return
        values: dict[str, bytes] = {}
        for file in self._opened():
            values |= file.get_many(list(file))
        values |= self._new
        name = _name(values)
        if name not in self._names:
            self._remote.write(f"{self._shard}/{name}", _packed(values, self._fingerprint))
            self._names.add(name)
        self._new.clear()

    def _opened(self) -> Iterator["_File"]:
        for name in sorted(self._names):
            if name not in self._files:
                self._files[name] = _File(self._remote, f"{self._shard}/{name}", self._fingerprint)
            yield self._files[name]


class _File:
    """A part on disk: its keys, and its values as they are asked for."""

    def __init__(self, remote: Remote, name: str, fingerprint: str) -> None:
        self._place = f"{remote.url}/{name}"
        try:
            data = remote.read(name)
        except FileNotFoundError:
            raise UserError(f"{self._place}: was there and is gone; run again, and nothing else is read") from None
        with _damaged(self._place):
            import pyarrow.parquet as parquet

            self._file = parquet.ParquetFile(BytesIO(data), page_checksum_verification=True)
            version = (self._file.schema_arrow.metadata or {}).get(_META, b"").decode()
            if version != f"{SCHEMA} {fingerprint}":
                raise UserError(
                    f"{self._place}: a part of layout and extractor {version or 'unknown'!r}; expected {SCHEMA} "
                    f"{fingerprint}. Get the Sightread that wrote it, or set execution.results to another folder"
                )
            self._group: dict[str, int] = {}
            for group in range(self._file.num_row_groups):
                for key in self._file.read_row_group(group, columns=["key"], use_threads=False)["key"].to_pylist():
                    self._group[key.hex()] = group
        self._read: tuple[int, dict[str, bytes]] = -1, {}

    def __contains__(self, key: str) -> bool:
        return key in self._group

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The values that it has of `keys`."""
        groups: dict[int, list[str]] = {}
        for key in keys:
            if key in self._group:
                groups.setdefault(self._group[key], []).append(key)
        found: dict[str, bytes] = {}
        for group, wanted in sorted(groups.items()):
            if self._read[0] != group:
                with _damaged(self._place):
                    table = self._file.read_row_group(group, use_threads=False)
                    names = (key.hex() for key in table["key"].to_pylist())
                    self._read = group, dict(zip(names, table["value"].to_pylist(), strict=True))
            found |= {key: self._read[1][key] for key in wanted}
        return found


def _name(keys: Iterable[str]) -> str:
    """The name of the part that holds these keys."""
    return hashlib.sha256("".join(sorted(keys)).encode("ascii")).hexdigest()[:32] + ".parquet"


def _packed(values: Mapping[str, bytes], fingerprint: str) -> bytes:
    """A part's bytes."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    fields = [pa.field("key", pa.binary(32), nullable=False), pa.field("value", pa.large_binary(), nullable=False)]
    schema = pa.schema(fields, metadata={_META: f"{SCHEMA} {fingerprint}".encode()})
    keys = pa.array([bytes.fromhex(key) for key in values], fields[0].type)
    table = pa.table([keys, pa.array(values.values(), fields[1].type)], schema=schema)
    mean = max(1, sum(map(len, values.values())) // len(values))
    sink = BytesIO()
    parquet.write_table(
        table,
        sink,
        row_group_size=max(1, _GROUP_BYTES // mean),
        compression="none" if mean > _PLAIN_BYTES else "zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return sink.getvalue()


@contextmanager
def _damaged(place: str) -> Iterator[None]:
    """Turn what pyarrow says of a file that it cannot read into what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{place}: this part is damaged ({' '.join(str(error).split())[:200]}); delete it: nothing is lost but "
            "time, its pictures are read again"
        ) from None
