"""Standard output and error of a command: UTF-8 whatever the locale, and there even where a shell closed them.

They remember whether writing to them has failed, which tells a full disk or a reader that has left from other errors.
What is done about it is :func:`pipeline.core.errors.run_cli`'s.
"""

import io
import os
import sys
from typing import Any, TextIO


class _Output(io.FileIO):
    """A file that remembers that it could not be written."""

    failed = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            self.failed = True
            raise


_outputs: list[_Output] = []


def prepare() -> None:
    """Set up both outputs; those that are closed (``>&-``) are as good as ``/dev/null``.

    The null device also takes the numbers of what is closed, standard input among them: else the next file that is
    opened, a store's say, would get one, and what libraries print would be written into it. A closed standard input
    stays None in `sys`.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest number that is free
        os.set_inheritable(null, True)
    sys.stdout, sys.stderr = (_prepared(stream, null) for stream in (sys.stdout, sys.stderr))


def _prepared(stream: TextIO | None, null: int) -> TextIO:
    if stream is not None and type(stream) is not io.TextIOWrapper:  # something that another library put there
        return stream
    if stream is not None:
        stream.flush()
    output = _Output(null if stream is None else stream.fileno(), "w", closefd=False)
    _outputs.append(output)
    raw: Any = output
    unbuffered = stream is not None and isinstance(stream.buffer, io.RawIOBase)  # PYTHONUNBUFFERED
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(output),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=stream is not None and stream.line_buffering,
        write_through=stream is not None and stream.write_through,
    )


def flush() -> None:
    """Write out what is buffered.

    Raises:
        OSError: it cannot be written.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def silence_failed() -> bool:
    """Send whatever is still written to an output that has failed to the null device; return whether there was one."""
    failed = [output for output in _outputs if output.failed]
    with open(os.devnull, "w", encoding="utf-8") as null:
        for output in failed:
            os.dup2(null.fileno(), output.fileno())
    return bool(failed)
