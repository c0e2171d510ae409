"""docs/reliability.md names tests that exist, and marks the slow ones."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`( \*\(slow\)\*)?", TEXT)


def functions(path: Path) -> dict[str, bool]:
    """Name → whether it is marked slow, of a module's tests."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: any("mark.slow" in ast.unparse(decorator) for decorator in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def test_promises_are_found() -> None:
    assert len(NAMED) > 40
    promises = TEXT[: TEXT.index("## Limits")].splitlines()
    rows = [line for line in promises if line.startswith("| ") and not line.startswith("| guarantee")]
    assert all("::" in row for row in rows), "a promise without a test"


@pytest.mark.parametrize(("file", "name", "slow"), NAMED, ids=[f"{file}::{name}" for file, name, _ in NAMED])
def test_a_promises_test_exists(file: str, name: str, slow: str) -> None:
    found = functions(ROOT / "tests" / file)
    assert name in found
    assert found[name] == bool(slow), "slow, and not said so, or the other way round"


def test_every_robustness_test_of_a_promise_is_named() -> None:
    """Tests here that the page does not name are about the tests themselves, or say the same on other input."""
    named = {name for _, name, _ in NAMED}
    missing = {
        name
        for path in Path(__file__).parent.glob("test_*.py")
        if path.name != "test_promises.py"
        for name in functions(path)
        if name.startswith("test_")
    } - named
    assert missing <= {
        "test_there_are_enough",
        "test_an_error_of_the_body_is_not_taken_for_the_disks",
        "test_what_is_left_to_transformers_is_refused_without_a_question",
        "test_sigterm_and_a_second_run_of_a_training",
    }
