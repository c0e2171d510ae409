"""The error that a user can fix, and how a command shows it. Every other error is a bug and keeps its traceback."""

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


class UserError(Exception):
    """A mistake in params, data or setup. The message says what was found, where, what was expected and what to do."""


def run_cli(main: Callable[[], int | None], about: str | None = None) -> NoReturn:
    """Run `main` and exit with its status: 2 and the message for a :class:`UserError`, 130 for Ctrl-C, 143 for SIGTERM.

    None of these prints a traceback. SIGTERM unwinds the stack as Ctrl-C does, so that open files are closed.

    Args:
        main: the command.
        about: the text of ``--help``, for a `main` without arguments: any argument is then an error.
    """
    if about is not None:
        module = sys.modules["__main__"].__spec__
        argparse.ArgumentParser(
            prog=None if module is None else f"python -m {module.name}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        ).parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)
