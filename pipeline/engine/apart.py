"""Reading batches in a child process, which may die of a picture without harm to the run.

Of use where a run before has died: a crash in native code, or a system out of memory, ends a process with no word on
which picture. What is read is left to :mod:`pipeline.engine.local`.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from pipeline.core.errors import UserError

A = TypeVar("A")
B = TypeVar("B")


class Died(NamedTuple):
    """In place of an answer: the process that read a picture has ended."""

    how: str


class NotStartedError(Exception):
    """The child process could not be made ready to read."""


def apart(
    load: Callable[[], None], read: Callable[[list[A]], B], batches: Iterable[list[A]]
) -> Iterator[tuple[list[A], B | Died]]:
    """Read batches in turn, in a child process that is forked from this one.

    One that the child dies of is read again picture by picture, and another child goes on.

    Args:
        load: makes the child ready.
        read: gives the answer to a batch, in the child; any that can be pickled.
        batches: of pictures.

    Yields:
        Batches, and the answer to each. :class:`Died` is the answer to a single picture only.

    Raises:
        NotStartedError: `load` fails, or the child dies of it.
        UserError: as `read` raises it.
    """
    waiting, child = deque(batches), None
    try:
        while waiting:
            batch = waiting.popleft()
            child = child or _Child(load, read)
            answer = child.answer(batch)
            if isinstance(answer, Died):
                child = None
                if len(batch) > 1:
                    waiting.extendleft([one] for one in reversed(batch))
                    continue
            yield batch, answer
    finally:
        if child is not None:
            child.close()


class _Child(Generic[A, B]):
    """A forked process: batches go in and answers come out by a pipe."""

    def __init__(self, load: Callable[[], None], read: Callable[[list[A]], B]) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else the child would write the same once more
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = os.fork()
        if not self._process:
            self._pipe.close()
            _serve(theirs, load, read)
        theirs.close()
        try:
            if self._pipe.recv():
                return
        except EOFError:
            pass
        except BaseException:
            self.close()
            raise
        self._end()
        raise NotStartedError

    def answer(self, batch: list[A]) -> B | Died:
        """The answer to a batch, or how the process ended that was to give it; raises a UserError of the child."""
        try:
            self._pipe.send(batch)
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            return Died(self._end())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, at once."""
        with suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        self._end()

    def _end(self) -> str:
        """Wait for its end, and say how it came."""
        self._pipe.close()
        code = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        if code == -signal.SIGKILL:
            return "SIGKILL, as the system ends one that takes too much memory"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _serve(pipe: Any, load: Callable[[], None], read: Callable[[list[A]], B]) -> NoReturn:
    """The child: nothing in it may go on with what its parent was about."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        load()
        pipe.send(True)
        while True:
            batch = pipe.recv()
            try:
                answer: Any = read(batch)
            except UserError as error:
                answer = error
            pipe.send(answer)
    except (EOFError, ConnectionError):
        status = 0  # the parent has ended
    except UserError:
        pass  # of load(): the parent will meet it too, and say so
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)
