"""The files that an ONNX model consists of: onnxruntime loads those that it names beside it, so they are its content.

Read from the file's protobuf by hand, as the package that would is needed for exports alone: a message is a run of
(field number, value), and the numbers are those of onnx.proto.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import trust
from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
# Message → its fields that lead to tensors, as field number → message.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},  # external_data
}
_KEY, _VALUE = 1, 2  # of an entry


def digest(file: Path) -> str:
    """SHA-256 of a model: of its file, and where it names others, of their names and contents as well.

    Raises:
        UserError: as :func:`external_files`.
    """
    others = external_files(file)
    if not others:
        return file_digest(file)
    total = hashlib.sha256(file_digest(file).encode())
    for other in others:
        total.update(f"{other.name}\0{file_digest(other)}\n".encode())
    return total.hexdigest()


def external_files(file: Path) -> list[Path]:
    """The files of weights that a model names, beside it.

    Raises:
        UserError: one is missing or is not a file beside the model; the file is no ONNX model or cannot be read.
    """
    try:
        names = sorted(set(_locations(memoryview(file.read_bytes()), "model")))
    except (ValueError, IndexError, RecursionError):
        raise UserError(f"{file}: not an ONNX model, or cut short; fetch or export it again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    found = []
    for name in names:
        path = file.parent / name
        if not trust.is_plain(name) or trust.leads_out(path, file.parent):
            raise UserError(f"{file}: names {name!r} for its weights, which is not a file beside it; export it again")
        if not path.is_file():
            raise UserError(f"{path}: no such file; {file.name} has its weights there: fetch or export both again")
        found.append(path)
    return found


def _locations(content: memoryview, message: str) -> Iterator[str]:
    """The `location` of every tensor in a message whose data are in another file."""
    for number, value in _values(content):
        inner = _FIELDS[message].get(number)
        if inner is None or isinstance(value, int):
            continue
        if inner == "entry":
            entry = {key: bytes(text) for key, text in _values(value) if not isinstance(text, int)}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode("utf-8")
        else:
            yield from _locations(value, inner)


def _values(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a message.

    Raises:
        ValueError, IndexError: it is not one, or cut short.
    """
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(content, place)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if length < 0 or number == 0 or place + length > len(content):
            raise ValueError(f"no protobuf message at byte {place}")
        yield number, content[place : place + length]
        place += length


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
        if shift > 63:
            raise ValueError(f"no number at byte {place}")
