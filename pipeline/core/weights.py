"""Weights read from a file without running code: safetensors, files that torch saved, pickles of NumPy arrays.

Which files a model needs, and where they are, is decided in pipeline/core/checkpoints.py.
"""

import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.core.files import follow_umask

if TYPE_CHECKING:
    import torch


def weights_file(path: str, where: str, source: str) -> Path:
    """The path of a file of weights that :func:`load_weights` can read.

    Args:
        path: the file, as params name it.
        where: the key in params, for messages.
        source: how to get the file, for the message if it is missing.

    Raises:
        UserError: it is missing, or a pickle of NumPy arrays, which must be converted.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{where}: {path}: no such file; {source}")
    if file.suffix == ".pkl":
        raise UserError(
            f"{where}: {path}: a pickle, which can run code when it is loaded; convert it: "
            f"python -m pipeline.checkpoints convert {path}; then name {file.with_suffix('.safetensors')}"
        )
    return file


def load_weights(file: Path) -> "dict[str, torch.Tensor]":
    """The tensors, by name, of a safetensors file or of a file that torch saved; anything beside them is ignored.

    Raises:
        UserError: the file contains something else or numbers that are not, or cannot be loaded without running code.
    """
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _finite(load_file(file), file)
        except SafetensorError as error:
            raise UserError(f"{file}: not a safetensors file: {error}") from None
    import torch

    with _explained(file):
        return _finite(_tensors(torch.load(file, map_location="cpu", weights_only=True), file), file)


def save_weights(tensors: "Mapping[str, torch.Tensor]", file: Path) -> None:
    """Write tensors by name as a safetensors file, with the rights that any new file has."""
    from safetensors.torch import save_file

    save_file(dict(tensors), file, metadata={"format": "pt"})
    follow_umask(file)


def convert(path: Path) -> list[Path]:
    """Write pickled weights as safetensors beside them, running none of their code. The file appears complete or not.

    Args:
        path: a folder with ``pytorch_model*.bin``; or a file: what torch saved, or a ``.pkl`` of NumPy's arrays, as
            detectron2's model zoo has them.

    Raises:
        UserError: there are none, they hold anything but tensors, or the result cannot be written.
    """
    from safetensors import SafetensorError

    if path.is_dir():
        sources = sorted(path.glob("pytorch_model*.bin"))
        if not sources:
            raise UserError(f"{path}: no pytorch_model*.bin to convert")
        if len(sources) > 1:
            raise UserError(
                f"{path}: weights in {len(sources)} shards; load and save them with "
                "transformers' save_pretrained in a sandbox, since pickles can run code"
            )
        source, target = sources[0], path / "model.safetensors"
    else:
        source, target = path, path.with_suffix(".safetensors")
        if not source.is_file() or source == target:
            raise UserError(f"{path}: expected a folder, or a file of pickled weights (.pth, .pt, .bin, .pkl)")
    weights = _unpickled_arrays(source) if source.suffix == ".pkl" else load_weights(source)
    seen: set[int] = set()
    tensors = {}
    for name, tensor in weights.items():  # shared tensors are written twice: safetensors has no aliases
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
        seen.add(tensor.data_ptr())
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            written = Path(folder) / target.name
            save_weights(tensors, written)
            written.replace(target)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{target}: cannot be written: {error}; check the free space and the folder's rights") from None
    return [target]


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError) as error:
        raise UserError(f"{file}: contains more than tensors, so it was not loaded: {error}") from None
    except RuntimeError as error:
        raise UserError(f"{file}: not a file that torch saved: {(str(error).splitlines() or [''])[0]}") from None


def _tensors(found: Any, file: Path) -> "dict[str, torch.Tensor]":
    """The tensors by name, which training scripts often store below `model` or `state_dict`.

    Raises:
        UserError: there are none, or there are other values.
    """
    import torch

    for key in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{file}: expected tensors by name, found {type(found).__name__}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(f"{file}: {name!r} is a {type(value).__name__}; expected tensors by name")
    return dict(found)


def _finite(tensors: "dict[str, torch.Tensor]", file: Path) -> "dict[str, torch.Tensor]":
    """The tensors as they are; minus infinity is allowed, which masks are made of.

    Raises:
        UserError: one holds NaN or infinity.
    """
    for name, values in tensors.items():
        if values.is_floating_point() and not bool((values < float("inf")).all()):
            raise UserError(f"{file}: {name} holds NaN or infinity: the file is damaged; fetch it again")
    return tensors


def _unpickled_arrays(file: Path) -> "dict[str, torch.Tensor]":
    """The arrays of a pickle that contains only NumPy arrays, dictionaries, lists, strings and numbers.

    Raises:
        UserError: it contains anything else.
    """
    import torch

    with _explained(file), file.open("rb") as stream:
        found = _ArrayUnpickler(stream, encoding="latin1").load()  # as detectron2 reads what Python 2 wrote
        if isinstance(found, dict) and isinstance(found.get("model"), dict):
            found = found["model"]
        if isinstance(found, dict):
            found = {
                name: torch.from_numpy(value.array()) if isinstance(value, _Array) else value
                for name, value in found.items()
            }
    return _tensors(found, file)


class _Dtype:
    """A numeric dtype, as NumPy pickles it."""

    def __init__(self, code: str, *_: object) -> None:
        import numpy as np

        self.value = np.dtype(code)
        if self.value.kind not in "fiub":
            raise pickle.UnpicklingError(f"it contains an array of {self.value}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """An array's bytes, type and shape. NumPy, which a pickle could make build other things, gets only these."""

    def __init__(self, data: Any = b"", dtype: _Dtype | None = None, shape: Any = (), order: str = "C") -> None:
        self._parts = data, dtype, shape, order

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self._parts = data, dtype, shape, "F" if fortran else "C"

    def array(self) -> Any:
        """The NumPy array, in the machine's byte order."""
        import numpy as np

        data, dtype, shape, order = self._parts
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("it contains an array without a type")
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)  # a text, where Python 2 wrote it
        values = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if order == "F" else "C")
        return values.astype(dtype.value.newbyteorder("="), order="C")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}; expected latin1")
    return text.encode("latin1")


_FOUND = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _latin1,
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.multiarray.scalar": lambda dtype, data: _Array(data, dtype),
    "numpy.core.numeric._frombuffer": _Array,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Accepts only the names that pickles of NumPy arrays use, and replaces each by a harmless class or function."""

    def find_class(self, module: str, name: str) -> Any:
        """The replacement for a name that a pickle uses."""
        full = f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"
        if full not in _FOUND:
            raise pickle.UnpicklingError(f"it names {full}, which is not part of a NumPy array")
        return _FOUND[full]
