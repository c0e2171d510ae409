"""Pages of zeros in a file of weights: what a lost page, or a download into a file of full size, leaves behind.

A tensor may well hold zeros: rows of padding, biases, matrices that are untrained or pruned. Those begin or end where a
row does. What a disk or a download has lost begins and ends where pages of the file do, amid rows.
"""

import json
import mmap
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.core.errors import UserError

_PAGE = 4096
_ZEROS = bytes(_PAGE)
_LONGEST_HEADER = 100_000_000  # bytes, as the library has it
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of an element


class _Tensor(NamedTuple):
    """A tensor of floats in a file: its name, its first byte, the one after its last, bytes of a row and an element."""

    name: str
    begin: int
    end: int
    row: int
    element: int


def refuse_lost_pages(folder: Path, name: str) -> None:
    """Refuse a folder one of whose safetensors files has lost pages.

    Args:
        folder: a checkpoint's.
        name: what params or the command line call it.

    Raises:
        UserError: the first such file, with the place and the tensor.
    """
    for file in sorted(folder.glob("*.safetensors")):
        if found := lost_pages(file):
            begin, end, tensor = found
            raise UserError(
                f"checkpoint {name}: {file.name} has nothing but zeros from byte {begin:,} to {end:,}, amid a row of "
                f"{tensor}: a part that was lost, or never written; copy or download the checkpoint again"
            )


def lost_pages(file: Path) -> tuple[int, int, str] | None:
    """Where a safetensors file first has pages of zeros that begin and end amid rows of tensors; None: nowhere.

    Returns:
        the first byte, the one after the last, and the tensor that they begin in.
    """
    with open(file, "rb") as stream:
        tensors = _tensors(stream)
        if not tensors:
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for begin, end in _runs(data):
                first = _cut(tensors, begin)
                if first is None or not any(data[begin - first.element : begin]):
                    continue  # where a row begins, or amid zeros
                last = _cut(tensors, end)
                if end == len(data) or (last is not None and any(data[end : end + last.element])):
                    return begin, end, first.name
    return None


def _tensors(stream: IO[bytes]) -> list[_Tensor]:
    """The tensors of floats that a header names; none where it is damaged, which whoever loads the file will say."""
    try:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length)) if length < _LONGEST_HEADER else {}
        found = []
        for name, entry in header.items():
            if (element := _FLOATS.get(entry.get("dtype"))) is not None:
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                found.append(_Tensor(name, begin, end, element * prod(entry["shape"][1:] or entry["shape"]), element))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
    return found


def _runs(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """First byte and the one after the last of every run of whole pages of zeros; the file's last may be shorter."""
    begin: int | None = None
    for place in range(0, len(data), _PAGE):
        if data[place : place + 8] == _ZEROS[:8] and data[place : place + _PAGE] == _ZEROS[: len(data) - place]:
            begin = place if begin is None else begin
        elif begin is not None:
            yield begin, place
            begin = None
    if begin is not None:
        yield begin, len(data)


def _cut(tensors: Sequence[_Tensor], place: int) -> _Tensor | None:
    """The tensor one of whose rows is cut in two at a place in the file, if one is."""
    inside = (tensor for tensor in tensors if tensor.begin < place < tensor.end)
    return next((tensor for tensor in inside if (place - tensor.begin) % tensor.row), None)
