"""The files of weights that an ONNX model names are part of it, and lie beside it."""

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from pipeline.core.errors import UserError
from pipeline.core.onnx_files import digest, external_files
from tests.pipeline.extractors.onnx_file import write_yolox


def model(folder: Path, location: str = "weights.bin", *, nested: bool = False) -> Path:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    if nested:
        inner = helper.make_graph([], "inner", [], [output], [tensor])
        nodes = [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
        graph = helper.make_graph(nodes, "outer", [], [output])
    else:
        graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "graph", [], [output], [tensor])
    file = folder / "model.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    (folder / "weights.bin").write_bytes(b"1234")
    return file


@pytest.mark.parametrize("nested", [False, True])
def test_weights_beside_a_model_are_in_its_digest(nested: bool, tmp_path: Path) -> None:
    file = model(tmp_path, nested=nested)
    assert external_files(file) == [tmp_path / "weights.bin"]
    before = digest(file)
    (tmp_path / "weights.bin").write_bytes(b"12345")
    assert digest(file) != before


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", ".weights.bin", "a/weights.bin"])
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which is not a file beside it"):
        external_files(model(tmp_path, location))


def test_weights_that_are_missing_or_linked_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    file = model(tmp_path / "model")
    (tmp_path / "model/weights.bin").rename(tmp_path / "outside.bin")
    with pytest.raises(UserError, match=r"weights\.bin: no such file"):
        external_files(file)
    (tmp_path / "model/weights.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(UserError, match="which is not a file beside it"):
        external_files(file)


def test_a_model_of_one_file_and_what_is_none(tmp_path: Path) -> None:
    file = write_yolox(tmp_path / "yolox.onnx")
    assert external_files(file) == []
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match="not an ONNX model, or cut short"):
        external_files(file)
