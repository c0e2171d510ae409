"""Writes small ONNX files, since the package that would is not needed otherwise: just so much of the format, by hand.

ONNX is protobuf; a message is a run of (field number, value), and the numbers stand in onnx.proto.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

Field = int | str | bytes | Sequence["Field"]
FLOAT, INT64 = 1, 7


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def message(fields: Mapping[int, Field]) -> bytes:
    """A message; a list repeats its field."""

    def encoded() -> Iterator[bytes]:
        for number, value in fields.items():
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, int):
                    yield _varint(number << 3) + _varint(one)
                else:
                    raw = one.encode() if isinstance(one, str) else bytes(one)  # type: ignore[arg-type]
                    yield _varint(number << 3 | 2) + _varint(len(raw)) + raw

    return b"".join(encoded())


def tensor(name: str, values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    kind = INT64 if values.dtype == np.int64 else FLOAT
    return message({1: list(values.shape), 2: kind, 8: name, 9: values.tobytes()})


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: int | list[int]) -> bytes:
    given = [
        message({1: name, **({3: value, 20: 2} if isinstance(value, int) else {8: value, 20: 7})})
        for name, value in attributes.items()
    ]
    return message({1: inputs, 2: outputs, 4: operator, 5: given})


def value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = [message({1: side} if isinstance(side, int) else {2: side}) for side in shape]
    return message({1: name, 2: message({1: message({1: FLOAT, 2: message({1: dims})})})})


def write_yolox(path: Path, size: int = 64, classes: int = 3, seed: int = 0, loudness: float = 0.006) -> Path:
    """A detector with YOLOX's input and output: one untrained convolution a stride instead of the network."""
    rng = np.random.default_rng(seed)
    numbers = 5 + classes
    nodes, weights = [], [tensor("flat", np.array([1, numbers, -1], np.int64))]
    for stride in (8, 16, 32):
        kernel = rng.normal(0, loudness / stride, (numbers, 3, stride, stride)).astype(np.float32)
        kernel -= kernel.mean(axis=(2, 3), keepdims=True)  # a plain picture gives the biases
        kernel[:5] *= 3
        weights += [
            tensor(f"w{stride}", kernel),
            tensor(f"b{stride}", np.array([0.5, 0.5, 0.5, 0.5] + [0.0] * (1 + classes), np.float32)),
        ]
        nodes += [
            node(
                "Conv",
                ["images", f"w{stride}", f"b{stride}"],
                [f"c{stride}"],
                strides=[stride, stride],
                kernel_shape=[stride, stride],
            ),
            node("Reshape", [f"c{stride}", "flat"], [f"r{stride}"]),
        ]
    weights += [tensor("parts", np.array([4, 1 + classes], np.int64))]
    nodes += [
        node("Concat", ["r8", "r16", "r32"], ["all"], axis=2),
        node("Split", ["all", "parts"], ["box", "raw"], axis=1),
        node("Sigmoid", ["raw"], ["scores"]),
        node("Concat", ["box", "scores"], ["both"], axis=1),
        node("Transpose", ["both"], ["output"], perm=[0, 2, 1]),
    ]
    places = sum((size // stride) ** 2 for stride in (8, 16, 32))
    graph = message(
        {
            1: nodes,
            2: "yolox",
            5: weights,
            11: value("images", [1, 3, size, size]),
            12: value("output", [1, places, numbers]),
        }
    )
    path.write_bytes(message({1: 8, 7: graph, 8: message({1: "", 2: 13})}))
    return path
