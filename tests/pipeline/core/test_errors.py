"""Every command writes UTF-8 whatever the locale, and ends quietly when nobody reads on."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOCALES = [
    {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin1"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=["latin1", "C", "PYTHONIOENCODING"])
def test_output_is_utf8_whatever_the_locale(locale: dict[str, str]) -> None:
    code = (
        "from pipeline.core.errors import UserError, run_cli\n"
        "def main():\n    print('a \\u2192 \\xe9 \\udcff')\n    raise UserError('\\xfc \\u2713')\nrun_cli(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=os.environ | locale, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "a → é \\udcff\n".encode(),
        "error: ü ✓\n".encode(),
    )


@pytest.mark.parametrize("arguments", [["pipeline.preset"], ["pipeline.preset", "--help"], ["pipeline.params", "x"]])
def test_a_reader_that_leaves_ends_a_command_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stdout, stderr = writer, subprocess.PIPE
    if arguments[-1] == "x":  # a message about the arguments that nobody reads
        stdout, stderr = stderr, stdout
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=False, stdout=stdout, stderr=stderr)
    os.close(writer)
    # argparse may see it first
    assert done.returncode in {"x": (2, 141), "--help": (0, 141)}.get(arguments[-1], (141,))
    assert not done.stderr
    assert not done.stdout


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirections", "status", "said"),
    [
        ("<&-", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 2, "error: the output cannot be written: No space left on device\n"),
        ("2>/dev/full", 2, ""),
    ],
)
def test_closed_and_full_outputs(redirections: str, status: int, said: str, buffered: str, tmp_path: Path) -> None:
    """No traceback; and no file that is opened takes the number of an output that is closed."""
    code = (
        "import os, sys\nfrom pipeline.core.errors import run_cli\n"
        "def main():\n"
        "    with open(sys.argv[1], 'w') as file:\n"
        "        os.write(1, b'1'), file.write('whole')\n"
        "        assert file.fileno() > 2\n"
        "    print('out')\n    print('err' * (sys.argv[2] == '2'), end='', file=sys.stderr, flush=True)\n"
        "run_cli(main)"
    )
    if ">/dev/full" in redirections:
        code = code.replace("os.write(1, b'1'), ", "")
    arguments = [sys.executable, "-c", code, str(tmp_path / "file"), redirections[0]]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *arguments],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": buffered},
        check=False,
    )
    assert (done.returncode, done.stderr.decode()) == (status, said)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "whole"


def test_a_broken_pipe_of_something_else_keeps_its_traceback() -> None:
    code = "from pipeline.core.errors import run_cli\ndef main():\n    raise BrokenPipeError('a socket')\nrun_cli(main)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert b"BrokenPipeError: a socket" in done.stderr


@pytest.mark.parametrize("room", ["pipeline", "ner", "reporting", "sightread", "stages"])
def test_no_programs_output_is_decoded_by_the_locale(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("subprocess."):
                names = {each.arg for each in node.keywords}
                assert not names & {"text", "universal_newlines"} or "encoding" in names, f"{path}:{node.lineno}"
