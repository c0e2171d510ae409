"""Files of weights are read for their tensors alone, and converted to safetensors, whatever a pickle would run."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.checkpoints import resolve
from pipeline.core.errors import UserError
from pipeline.core.weights import convert, load_weights, weights_file
from tests.conftest import ROOT


def test_pickles_are_refused_and_converted(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    torch.save({"a": tensor, "tied": tensor}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle .*python -m pipeline\.checkpoints convert"):
        resolve(str(tmp_path))
    convert(tmp_path)
    assert resolve(str(tmp_path)).folder == tmp_path
    assert torch.equal(load_file(tmp_path / "model.safetensors")["tied"], tensor)


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"a": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="contains more than tensors"):
        convert(tmp_path)
    assert not (tmp_path / "ran").exists()


ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "steps": np.array(7),
    "scalar": np.float32(2.5),
    "big_endian": np.arange(3, dtype=">f4"),
    "mask": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_arrays_is_converted(tmp_path: Path, protocol: int) -> None:
    """As detectron2's model zoo has them."""
    file = tmp_path / "model_final.pkl"
    file.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "Detectron2 Model Zoo"}, protocol=protocol))
    with pytest.raises(UserError, match=rf"convert {file}; then name .*model_final.safetensors"):
        weights_file(str(file), "detectron2.weights", "")
    [converted] = convert(file)
    found = load_weights(weights_file(str(converted), "detectron2.weights", ""))
    assert {name: tensor.numpy().tolist() for name, tensor in found.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    assert found["weight"].dtype == torch.float32


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": {"weight": RunsCode()}}, r"it names posix\.mkdir"),
        ({"model": {"weight": np.array([RunsCode()], dtype=object)}}, "array of object"),
        ({"weight": 3}, "'weight' is a int"),
        ({"blobs": {"weight": ARRAYS["weight"]}}, "'blobs' is a dict"),
        ([1], "expected tensors by name, found list"),
        ({"weight": np.array(["a"])}, "array of <U1"),
    ],
)
def test_a_pickle_of_anything_else_is_not(
    tmp_path: Path, content: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=reason):
        convert(tmp_path / "weights.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pkl"]


def test_a_file_that_torch_saved_is_read_for_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "captioner.pth"
    torch.save({"model": {"weight": torch.ones(2)}, "optimizer": {"lr": 0.1}, "epoch": 3}, file)
    assert list(load_weights(weights_file(str(file), "lavis.weights", ""))) == ["weight"]
    [converted] = convert(file)
    assert torch.equal(load_weights(converted)["weight"], torch.ones(2))
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"weight": RunsCode()}}, file)
    with pytest.raises(UserError, match="contains more than tensors"):
        load_weights(file)
    file.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"captioner\.pth"):
        load_weights(file)
    converted.write_text("<html>404</html>")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_weights(converted)
    assert not (tmp_path / "made-by-a-pickle").exists()
    with pytest.raises(UserError, match=r"lavis\.weights: nowhere\.pth: no such file; fetch it"):
        weights_file("nowhere.pth", "lavis.weights", "fetch it")


CONVERT_ON_A_SMALL_DISK = """
import resource, sys
from pathlib import Path
from pipeline.core.errors import UserError
from pipeline.core.weights import convert
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    convert(Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def test_a_conversion_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    """As on a full disk: no file may grow beyond 100 kB."""
    torch.save({"weight": torch.ones(100_000)}, tmp_path / "weights.pth")
    target = tmp_path / "weights.safetensors"
    target.write_bytes(b"an earlier conversion")
    done = subprocess.run(
        [sys.executable, "-c", CONVERT_ON_A_SMALL_DISK, tmp_path / "weights.pth"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{target}: cannot be written" in done.stdout
    assert target.read_bytes() == b"an earlier conversion"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pth", "weights.safetensors"]
