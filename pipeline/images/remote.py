"""Pictures that lie in a bucket or in tars: single objects below a URL, and WebDataset's shards.

A network that fails is an error of the run, never a picture that is missing. What bytes become is left to
:mod:`pipeline.images.decoding`.
"""

import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from json import dumps, loads
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.remote import Remote
from pipeline.core.store import Store, batched, digest
from pipeline.images.decoding import PictureError
from pipeline.images.pictures import Folder, StampedPictures, check_name
from pipeline.settings.params import DataParams, ImagesParams

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_ADDED = 2048  # members put into the index at a time
_BLOCK = 1 << 20  # of a tar that is read through


class Objects:
    """Pictures that are single files below a URL, by their path with ``/`` below it.

    Args:
        url: of the folder, ``s3://bucket/pictures`` say.
        limits: on each picture.
    """

    def __init__(self, url: str, limits: ImagesParams) -> None:
        self._remote, self._limits = Remote(url), limits

    def read(self, name: str) -> bytes:
        """The bytes of a picture.

        Raises:
            PictureError: it is missing, its name leads elsewhere, or it is larger than ``limits.max_bytes``.
            UserError: the place cannot be reached, or refuses.
        """
        check_name(name)
        try:
            data = self._remote.read(name, 0, self._limits.max_bytes + 1)
        except FileNotFoundError:
            raise PictureError("missing", "No such object") from None
        except UserError as error:
            try:
                empty = not self._remote.state(name)[0]
            except FileNotFoundError:  # as a web server says, too, that cannot be reached
                raise error from None
            if not empty:
                raise
            return b""  # of which there is no range
        if len(data) > self._limits.max_bytes:
            raise PictureError("too_large", f"more bytes than images.max_bytes, {self._limits.max_bytes}")
        return data

    def stamp(self, name: str) -> str | None:
        """None: to ask for an object's state takes as long as to read it."""
        return None

    def states(self) -> dict[str, str]:
        """What tells the states of all objects without reading them, as digests by name; of those that can be listed.

        Raises:
            UserError: the place cannot be reached.
        """
        url = self._remote.url
        return {
            name: digest({"object": f"{url}/{name}", "state": state}) for name, state in self._remote.states().items()
        }


class Tars:
    """Pictures that are members of tars, by their names there, which are unique among all of them.

    The first to open them reads every tar's headers and keeps in the store where each member is; after that, members
    are read one by one. Where a tar has changed, that is done again.

    Args:
        pattern: path or URL with ``{00000..00099}`` or ``*`` for the numbers of several.
        limits: on each picture.
        store: keeps the index.

    Raises:
        UserError: there is no such tar, one cannot be read, or a name is in two of them.
    """

    def __init__(self, pattern: str, limits: ImagesParams, store: Store) -> None:
        folder, _, name = pattern.rpartition("/")
        self._remote, self._limits = Remote(folder or "."), limits
        self._names = list(self._expanded(name))
        self._states = [(one, *self._state(one)) for one in self._names]
        self._key = digest({"tars": 1, "folder": self._remote.url, "states": self._states})
        self._store: Store | None = store
        self._places: dict[str, tuple[int, int, int]] = {}
        self._build(store)

    def read(self, name: str) -> bytes:
        """The bytes of a member.

        Raises:
            PictureError: no tar has it, its tar ends within it, or it is larger than ``limits.max_bytes``.
            UserError: the tar cannot be reached.
        """
        found = self._places.get(name) or self._looked_up([name]).get(name)
        if found is None:
            raise PictureError("missing", "No such member of a tar")
        tar, offset, size = found
        if size > self._limits.max_bytes:
            raise PictureError("too_large", f"{size} bytes; images.max_bytes is {self._limits.max_bytes}")
        if not size:
            return b""
        try:
            data = self._remote.read(self._names[tar], offset, offset + size)
        except FileNotFoundError:
            place = f"{self._remote.url}/{self._names[tar]}"
            raise UserError(f"{place}: was there and is gone; run dvc repro images") from None
        if len(data) < size:
            raise PictureError("truncated", f"{self._names[tar]} ends within it: {len(data)} bytes of {size}")
        return data

    def stamp(self, name: str) -> str | None:
        """What tells a member's state without reading it: its tar's, and its place in it."""
        found = self._looked_up([name]).get(name)
        if found is None:
            return None
        tar, offset, size = found
        return digest({"folder": self._remote.url, "tar": self._states[tar], "offset": offset, "size": size})

    def of(self, names: Sequence[str]) -> "Tars":
        """The same, for these members: it can be pickled, and asks no index."""
        part = Tars.__new__(Tars)
        part._remote, part._limits, part._key = self._remote, self._limits, self._key
        part._names, part._states = self._names, self._states
        part._store, part._places = None, self._looked_up(names)
        return part

    def _looked_up(self, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """Number of the tar, offset and size of members, of those that there are."""
        if self._store is None:
            return {name: self._places[name] for name in names if name in self._places}
        keys = {_named(name): name for name in names}
        found = self._store.get_many(self._key, list(keys))
        return {keys[key]: tuple(loads(value)) for key, value in found.items()}

    def _expanded(self, name: str) -> Iterator[str]:
        numbers = _BRACES.search(name)
        if numbers is not None:
            first, last = numbers.groups()
            for number in range(int(first), int(last) + 1):
                yield from self._expanded(name[: numbers.start()] + f"{number:0{len(first)}}" + name[numbers.end() :])
        elif "*" in name:
            wanted = re.compile(".*".join(map(re.escape, name.split("*"))))
            found = [one for one in self._remote.find() if wanted.fullmatch(one)]
            if not found:
                raise UserError(f"data.images: {self._remote.url}/{name}: no such tar")
            yield from found
        else:
            yield name

    def _state(self, name: str) -> tuple[int, str]:
        try:
            return self._remote.state(name)
        except FileNotFoundError:
            raise UserError(f"data.images: {self._remote.url}/{name}: no such tar") from None

    def _build(self, store: Store) -> None:
        """Read each tar's table, where that was not done to its end before."""
        done = _named("\0every tar was read")
        if store.known(self._key, [done]):
            return
        for number, name in enumerate(self._names):
            for members in batched(self._members(name), _ADDED):
                places = {_named(member): (number, offset, size) for member, offset, size in members}
                known = {key: loads(value) for key, value in store.get_many(self._key, list(places)).items()}
                for member, *_ in members:
                    if (other := known.get(_named(member), [number])[0]) != number:
                        raise UserError(
                            f"{self._remote.url}: {member} is in {self._names[other]} and in {name}; expected names "
                            "that are unique among all tars"
                        )
                store.put_many(self._key, {key: dumps(place).encode() for key, place in places.items()})
        store.put_many(self._key, {done: b"[]"})

    def _members(self, name: str) -> Iterator[tuple[str, int, int]]:
        """Name, offset and size of each file in a tar; a warning where it is cut short, or has what is not read."""
        size, _ = self._state(name)
        source, n_sparse = _Blocks(self._remote, name, size), 0
        try:
            with tarfile.open(fileobj=source, mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    tar.members = []  # which would hold all of them
                    if member.size < 0 or tar.offset < member.offset_data:  # it would go back, and round in a circle
                        raise tarfile.ReadError("a size below 0")
                    sparse = member.issparse()  # its size is not that of what stands there
                    n_sparse += sparse
                    if member.isreg() and not sparse:
                        yield member.name.removeprefix("./"), member.offset_data, member.size
                    if (tar.offset if sparse else member.offset_data + member.size) > size:
                        raise tarfile.ReadError("unexpected end of data")
                source.seek(tar.offset)
                if source.read(tarfile.BLOCKSIZE).strip(b"\0"):  # where tarfile ends without a word
                    raise tarfile.ReadError("a header that is none")
        except (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError) as error:  # of odd headers
            print(
                f"warning: {self._remote.url}/{name}: this tar is damaged or cut short ({error}); what stands before "
                "that is read",
                file=sys.stderr,
            )
        if n_sparse:
            print(
                f"warning: {self._remote.url}/{name}: {n_sparse:,} of its files are kept without their holes, and are "
                "not read; write the tar without --sparse",
                file=sys.stderr,
            )


class _Blocks:
    """A file that is read forward block by block, for :mod:`tarfile`: what lies between two headers is not fetched.

    No header is larger than a block.
    """

    def __init__(self, remote: Remote, name: str, size: int) -> None:
        self._remote, self._name, self._size = remote, name, size
        self._at, self._start, self._block = 0, 0, b""

    def read(self, n: int = -1, /) -> bytes:
        if not 0 <= n <= _BLOCK:
            raise tarfile.ReadError(f"a header of {n:,} bytes")
        end = min(self._size, self._at + n)
        found = b""
        while self._at < end:
            if not self._start <= self._at < self._start + len(self._block):
                self._start = self._at
                self._block = self._remote.read(self._name, self._at, min(self._size, self._at + _BLOCK))
                if not self._block:
                    break
            piece = self._block[self._at - self._start : end - self._start]
            found += piece
            self._at += len(piece)
        return found

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at


def _named(name: str) -> str:
    """The key of a member in the index."""
    return digest({"member": name})


def opened(data: DataParams, limits: ImagesParams, store: Store) -> StampedPictures | None:
    """Where the pictures of a data set lie; None where it has none.

    Raises:
        UserError: a tar is missing, or a place cannot be reached.
    """
    elsewhere = data.images_elsewhere
    folder = data.images_folder
    if elsewhere is not None:
        if elsewhere.endswith(".tar"):
            return Tars(elsewhere, limits, store)
        remote = Remote(elsewhere)
        if not remote.local:
            return Objects(elsewhere, limits)
        folder = Path(remote.path(""))  # in which links lead nowhere else, as in any other
    return None if folder is None else Folder(folder, limits, data.linked_folders)
