"""Where the texts to tag come from: files, pipes of a shell, stdin by its name; other things are named."""

import subprocess
import sys
from pathlib import Path

import pytest

from ner.formats import read_input
from pipeline.core.errors import UserError
from tests.conftest import ROOT

READ = """
import sys
from ner.formats import read_input
print([view.tokens for view, _ in read_input(sys.argv[1], "text")])
"""


@pytest.mark.parametrize(
    "shell",
    ['"$0" -c "$1" <(echo Hi there)', 'echo Hi there | "$0" -c "$1" /dev/stdin', '"$0" -c "$1" - <<< "Hi there"'],
)
def test_a_pipe_is_read_as_a_file_is(shell: str) -> None:
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, READ], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[['Hi', 'there']]\n", "")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none", "no such file; expected a file to tag"),
        (tmp_path, "a folder; expected a file"),
        (Path("/dev/zero"), "a device; expected a file"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long; expected a file to tag"),
    ):
        with pytest.raises(UserError, match=f"{path}: {message}"):
            next(read_input(str(path), "text"))
