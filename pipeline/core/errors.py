"""The error that a user can fix, and how a command shows it. Every other error is a bug and keeps its traceback."""

import argparse
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TextIO


class UserError(Exception):
    """A mistake in params, data or setup. The message says what was found, where, what was expected and what to do."""


def run_cli(main: Callable[[], int | None], about: str | None = None) -> NoReturn:
    """Run `main` and exit with its status: 2 and the message for a :class:`UserError`, 130 for Ctrl-C, 143 for SIGTERM.

    None of these prints a traceback. Output is UTF-8 whatever the locale. A reader that leaves early (``| head``) ends
    the command with 141, as a shell reports SIGPIPE, and without a word. SIGTERM unwinds the stack as Ctrl-C does, so
    that open files are closed.

    Args:
        main: the command.
        about: the text of ``--help``, for a `main` without arguments: any argument is then an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            status = _status(main, about)
        finally:  # here, not as Python ends, when nothing can be said of an error any more
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
    except BrokenPipeError:
        left = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _has_no_reader(stream)]
        if not left:  # some other pipe or connection
            raise
        for stream in left:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        status = 141
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


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose other end is closed, as `| head` leaves it."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)
