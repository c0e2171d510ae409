"""Imports run downwards only, between the rooms and inside pipeline/; deferred ones and `__main__` blocks count."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("pipeline", "ner", "reporting", "stages", "sightread", "sample")
BELOW = {
    "sightread": {"sightread", "stages", "reporting", "ner", "pipeline"},
    "stages": {"stages", "reporting", "ner", "pipeline"},
    "sample": {"sample", "stages", "reporting", "ner", "pipeline"},
    "reporting": {"reporting", "ner", "pipeline"},
    "ner": {"ner", "pipeline.core", "pipeline.settings", "pipeline.corpus"},  # people's files have one reader
    "pipeline.checks": {"pipeline.extractors", "pipeline.contexts", "pipeline.images", "pipeline.corpus"},
    "pipeline.engine": {"pipeline.extractors", "pipeline.contexts", "pipeline.images", "pipeline.corpus"},
    "pipeline.extractors": {"pipeline.contexts", "pipeline.images", "pipeline.corpus"},
    "pipeline.contexts": {"pipeline.corpus"},
    "pipeline.images": {"pipeline.corpus"},
    "pipeline.corpus": set[str](),
    "pipeline.settings": set[str](),
    "pipeline.core": set[str](),
}
"""Room → the rooms that it may import; itself, pipeline.core and (but for core) pipeline.settings go without saying."""
COMMANDS = {
    *(f"pipeline.{name}" for name in ("params", "preset", "checkpoints", "environments", "listing")),
    *(f"ner.{name}" for name in ("predict", "onnx", "publish", "flair_bridge", "scoring.__main__")),
    "reporting.ablation",
    "reporting.search",
    "stages.tag",
    "stages.serve",
}
"""Command lines: they may import any room of their package, and nothing imports them."""
ABOVE = {"pipeline.params": {"ner.dry_pass"}, "stages.tag": {"sightread"}, "stages.serve": {"sightread"}}
"""Command line → what else it may import; since nothing imports it, there is no circle."""
HEAVY = {
    *("torch", "transformers", "onnxruntime", "rapidocr", "cv2", "matplotlib", "dvclive", "scipy"),
    *("ray", "pyarrow", "fsspec", "s3fs"),
}
MODULES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def is_main_block(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def imported(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; `from a import b` gives a.b where that is a module of ours, else a."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    if top_level_only:
        tree.body = [node for node in tree.body if not is_main_block(node)]
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in NAMES else str(node.module)


NAMES = {name_of(path) for path in MODULES}


def room_of(name: str) -> str:
    """The room of a module: pipeline's are its folders, any other is a package."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "pipeline" else parts[0]


def may_import(module: str, name: str) -> bool:
    room = room_of(module)
    if module in COMMANDS:
        allowed = BELOW.get(room, {room.split(".")[0]}) | {room.split(".")[0]} | ABOVE.get(module, set())
    else:
        allowed = BELOW.get(room, set())
        if room.startswith("pipeline."):
            allowed = allowed | {room, "pipeline.core"} | ({"pipeline.settings"} if room != "pipeline.core" else set())
    return any(name == below or name.startswith(f"{below}.") for below in allowed)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_room_imports_only_from_rooms_below(path: Path) -> None:
    module = name_of(path)
    ours = {name for name in imported(path) if name.split(".")[0] in {*ROOMS, "tests", "benchmarks"}}
    assert {name for name in ours if not may_import(module, name)} == set()


def test_nothing_imports_a_command_line() -> None:
    found = {(name_of(path), name) for path in MODULES for name in imported(path) if name in COMMANDS}
    assert found == set()
    assert COMMANDS <= NAMES


def test_there_is_no_import_circle() -> None:
    graph = {name_of(path): {name for name in imported(path) if name in NAMES} - {name_of(path)} for path in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "pipeline"], ids=str)
def test_the_pipeline_imports_nothing_heavy_before_it_must(path: Path) -> None:
    assert {name.split(".")[0] for name in imported(path, top_level_only=True)} & HEAVY == set()


def test_the_report_needs_no_torch() -> None:
    script = "import sys, stages.report; print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
