"""Imports run downwards only: stages → reporting → ner → pipeline's records; pipeline → nothing of ours."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("pipeline", "ner", "reporting", "stages", "sample")
RECORDS = ("pipeline.core", "pipeline.settings", "pipeline.corpus")
HEAVY = {"torch", "transformers", "onnxruntime", "rapidocr", "cv2", "matplotlib", "dvclive", "scipy"}
MODULES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def is_main_block(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def imported(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; `from a import b` gives a.b where that is a module of ours, else a."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not is_main_block(node)]  # what only `python -m` runs is no one's import
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in NAMES else str(node.module)


NAMES = {name_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_room_imports_only_from_rooms_below(path: Path) -> None:
    room = path.parts[0]
    allowed = {
        "pipeline": lambda name: name.startswith("pipeline"),
        "ner": lambda name: name.startswith(("ner", *RECORDS)),
        "reporting": lambda name: name.split(".")[0] in {"reporting", "pipeline", "ner"},
        "stages": lambda name: name.split(".")[0] in {"stages", "reporting", "pipeline", "ner"},
        "sample": lambda name: True,
    }[room]
    ours = {name for name in imported(path) if name.split(".")[0] in {*ROOMS, "tests"}}
    assert {name for name in ours if not allowed(name)} == set()


def test_there_is_no_import_circle() -> None:
    graph = {name_of(path): {name for name in imported(path, top_level_only=True) if name in NAMES} for path in MODULES}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "pipeline"], ids=str)
def test_the_pipeline_imports_nothing_heavy_before_it_must(path: Path) -> None:
    assert {name.split(".")[0] for name in imported(path, top_level_only=True)} & HEAVY == set()


def test_the_report_needs_no_torch() -> None:
    script = "import sys, stages.report; print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
