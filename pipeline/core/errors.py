"""The error that a user can fix, and how a command shows it. Every other error is a bug and keeps its traceback."""

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from pipeline.core import streams


class UserError(Exception):
    """A mistake in params, data or setup. The message says what was found, where, what was expected and what to do."""


def damaged(place: object, trouble: object, stage: str) -> UserError:
    """The error of a file that a stage has written and that is not as it was written.

    Args:
        place: the file, with the line where there is one.
        trouble: what is wrong with it.
        stage: which writes it.
    """
    return UserError(f"{place}: {trouble}; to write the file again: dvc repro --force --single-item {stage}")


def absent(path: object, stage: str) -> UserError:
    """The error of a file that is not there, as the stage that writes it has not run."""
    return UserError(f"{path}: no such file; run the stage that writes it: dvc repro {stage}")


def run_cli(main: Callable[[], int | None], about: str | None = None) -> NoReturn:
    """Run `main` and exit with its status: 2 and the message for a :class:`UserError`, 130 for Ctrl-C, 143 for SIGTERM.

    None of these prints a traceback. Output is UTF-8 whatever the locale. A reader that leaves early (``| head``) ends
    the command with 141, as a shell reports SIGPIPE, and without a word; an output that cannot be written (a full
    disk) ends it with 2 and a message; one that is closed (``>&-``) is as good as ``/dev/null``. SIGTERM unwinds the
    stack as Ctrl-C does, so that open files are closed.

    Args:
        main: the command.
        about: the text of ``--help``, for a `main` without arguments: any argument is then an error.
    """
    streams.prepare()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            status = _status(main, about)
        finally:  # here, not as Python ends, when nothing can be said of an error any more
            streams.flush()
    except OSError as error:
        if not streams.silence_failed():  # some other pipe, connection or file
            raise
        status = 141 if isinstance(error, BrokenPipeError) else 2
        if status == 2:
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
    sys.exit(status)


def _status(main: Callable[[], int | None], about: str | None) -> int:
    if about is not None:
        module = sys.modules["__main__"].__spec__
        argparse.ArgumentParser(
            prog=None if module is None else f"python -m {module.name}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        ).parse_args()
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)
