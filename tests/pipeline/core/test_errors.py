"""Every command writes UTF-8 whatever the locale, and ends quietly when nobody reads on."""

import os
import subprocess
import sys

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
    assert done.returncode in {"x": (2,), "--help": (0, 141)}.get(arguments[-1], (141,))  # argparse may see it first
    assert not done.stderr
    assert not done.stdout


def test_a_broken_pipe_of_something_else_keeps_its_traceback() -> None:
    code = "from pipeline.core.errors import run_cli\ndef main():\n    raise BrokenPipeError('a socket')\nrun_cli(main)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert b"BrokenPipeError: a socket" in done.stderr
