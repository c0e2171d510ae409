"""An exported tagger with weights of 8 bits: a quarter of the size, faster on a CPU, nearly the same scores.

onnxruntime's dynamic quantization: weights of linear layers are int8 with a scale for each output, those of embeddings
with one for all; what goes into a layer is rounded as it comes, so that no data are needed for it. Weights keep to 7 of
the 8 bits: processors without VNNI add products of 8 bits in 16, which overflow, and tags would depend on the machine
(onnxruntime, "Quantize ONNX models"). What rounding costs is measured by ``python -m ner.onnx compare``.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ner.interop import onnx as exported
from ner.models.folder import ONNX_GRAPH
from pipeline.core import checksums
from pipeline.core.errors import UserError

_QUANTISED = ["MatMul", "Gemm", "Gather"]
_ONE_FILE = 1_000_000_000  # bytes of a float32 graph up to which the quantised one is one file


def export(tagger: str | Path, folder: str | Path, *, with_pictures: bool = False) -> Path:
    """Export a tagger as :func:`ner.interop.onnx.export` does, and quantise its weights.

    Args:
        tagger: a tagger's folder.
        folder: a folder to be made.
        with_pictures: whether the graph reads what pictures give as tensors.

    Raises:
        UserError: as there, or onnxruntime cannot run the quantised graph.
    """
    target = Path(folder)
    if target.exists():
        raise UserError(f"{target}: exists already; name a new folder, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        return quantise(exported.export(tagger, Path(temporary, "float32"), with_pictures=with_pictures), target)


def quantise(source: Path, target: Path) -> Path:
    """Quantise the weights of an exported tagger.

    Args:
        source: its folder.
        target: a folder to be made, beside which there is room for another.

    Raises:
        UserError: onnxruntime cannot run the quantised graph.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        written = Path(temporary, target.name)
        written.mkdir()
        _quantise(source / ONNX_GRAPH, written / ONNX_GRAPH)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            if (source / name).exists():
                shutil.copyfile(source / name, written / name)
        checksums.seal(written)
        exported.load(written)  # which runs it
        os.rename(written, target)
    return target


def _quantise(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    del graph.graph.value_info[:]  # torch's notes of shapes name dimensions that are not the same twice
    n_bytes = sum(file.stat().st_size for file in source.parent.glob(f"{source.name}*"))
    with _quiet():
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            use_external_data_format=n_bytes > _ONE_FILE,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Mutes the advice to optimise the graph first, which would make it one for this machine."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
