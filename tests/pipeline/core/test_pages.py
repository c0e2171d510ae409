"""Weights that a disk or a download has lost in part are refused; zeros that belong to a checkpoint are not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.pages import lost_pages

ROWS, WIDTH = 400, 300
PAGE = 4096


def file(folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(0)
    whole = {"a.weight": torch.randn(ROWS, WIDTH), "b.weight": torch.randn(ROWS, WIDTH)} | tensors
    path = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in whole.items()}, path)
    return path


def zero(path: Path, begin: int, end: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    end = len(data) if end is None else end
    data[begin:end] = bytes(end - begin)
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("first", "last"), [(3, 4), (5, 9), (20, None), (30, 60)])
def test_lost_pages_are_found(tmp_path: Path, dtype: torch.dtype, first: int, last: int | None) -> None:
    path = file(tmp_path, {}, dtype)
    assert lost_pages(path) is None
    zero(path, first * PAGE, None if last is None else last * PAGE)
    found = lost_pages(path)
    assert found is not None
    assert found[:2] == (first * PAGE, path.stat().st_size if last is None else last * PAGE)
    assert found[2] in ("a.weight", "b.weight")


def test_a_float32_of_what_was_half_as_long_is_read_by_elements(tmp_path: Path) -> None:
    """Its numbers begin with zeros, so that more bytes are zeros than were lost."""
    path = file(tmp_path, {"a.weight": torch.randn(ROWS, WIDTH).bfloat16().float()})
    zero(path, 3 * PAGE, 5 * PAGE)
    assert lost_pages(path) == (3 * PAGE, 5 * PAGE, "a.weight")


def pruned(columns: slice, rows: slice) -> Tensor:
    weight = torch.randn(ROWS, WIDTH)
    weight[rows, columns] = 0
    return weight


SOUND = {
    "a row of padding": pruned(slice(None), slice(1, 2)),
    "many unused rows": pruned(slice(None), slice(100, 390)),
    "pruned columns": pruned(slice(64, 290), slice(None)),
    "an untrained matrix": torch.zeros(ROWS, WIDTH),
    "biases": torch.zeros(50_000),
    "a sparse matrix": torch.randn(ROWS, WIDTH) * (torch.rand(ROWS, WIDTH) > 0.9),
    "a triangle": torch.ones(2048, 2048).tril(),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("shift", range(0, 4096, 512))
def test_zeros_of_a_sound_checkpoint_are_left_alone(tmp_path: Path, name: str, shift: int) -> None:
    """Wherever they come to lie in the file, also where a tensor begins with a page."""
    path = file(tmp_path, {"a": torch.randn(1024 + shift // 4), "b.zeros": SOUND[name]})
    header = int.from_bytes(path.read_bytes()[:8], "little")
    padding = -(8 + header) % PAGE  # so that the data begin with a page
    data = path.read_bytes()
    path.write_bytes(
        (header + padding).to_bytes(8, "little") + data[8 : 8 + header] + b" " * padding + data[8 + header :]
    )
    assert lost_pages(path) is None


def test_a_checkpoint_without_checksums_is_refused_by_name(tmp_path: Path) -> None:
    path = file(tmp_path, {})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    checkpoints.require(str(tmp_path))
    zero(path, 3 * PAGE, 5 * PAGE)
    for find in (checkpoints.require, checkpoints.resolve):
        with pytest.raises(
            UserError, match=r"model\.safetensors has nothing but zeros from byte 12,288 to 20,480, amid a"
        ):
            find(str(tmp_path))


@pytest.mark.parametrize(
    "data", [b"", b"short", b"\xff" * 20, bytes(9000), (2).to_bytes(8, "little") + b"[]" + bytes(9000)]
)
def test_what_is_no_file_of_weights_is_left_to_its_reader(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    assert lost_pages(tmp_path / "x") is None
