"""Requests to one HTTP server from several threads, each over a connection that it uses again.

Python's own client, as a request has to end when its time is up, however slowly the server drips, and at once when the
stage is left: for both the socket is shut down under it. Redirects are not followed, no proxy is used, answers are
bounded. What a request says, and whether it is sent again, is left to :mod:`pipeline.extractors._chat`.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

MOST_BYTES = 4_000_000
"""Of an answer."""

_CONNECT_SECONDS = 10.0


class TooLong(Exception):
    """An answer of more than MOST_BYTES, of which no more was read."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server's API begins: ``scheme://host:port/path``, its path without a / at the end."""

    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, url: str) -> "Address":
        """The parts of a URL.

        Raises:
            ValueError: it is no http or https URL, or holds a user, a password, a query or a fragment. The message
                does not repeat it, as there may be a secret in it.
        """
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("expected a URL of printable ASCII characters without spaces")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL that begins http:// or https://, such as http://localhost:8000/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("expected a URL without user, password, ? and #; a key goes into SIGHTREAD_HTTP_KEY")
        return cls(parts.scheme, parts.hostname, parts.port, parts.path.rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{'' if self.port is None else f':{self.port}'}{self.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """Connections to one server, one a thread.

    Args:
        address: the server's.
        headers: of every request.
        timeout: seconds that a request may take, from its first byte to the last one of the answer.
    """

    def __init__(self, address: Address, headers: Mapping[str, str], timeout: float) -> None:
        self._address, self._headers, self._timeout = address, dict(headers), timeout
        self._own = threading.local()
        self._guard = threading.Lock()
        self._busy: dict[socket.socket, float] = {}  # until when
        self._late: set[socket.socket] = set()
        self._watch: threading.Thread | None = None
        self._closed = threading.Event()
        self._tls = ssl.create_default_context() if address.scheme == "https" else None

    def send(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Send one request, and read all of the answer.

        Raises:
            TooLong: it has more than MOST_BYTES.
            OSError, http.client.HTTPException: there was none, or only a part; TimeoutError where time was up.
        """
        connection = self._connection()
        while True:
            used = connection.sock is not None
            try:
                return self._exchange(connection, method, path, body)
            except (BrokenPipeError, ConnectionResetError):  # RemoteDisconnected is one
                if not used:  # a server closes what was idle for a while: that says nothing of this request
                    raise

    def close(self) -> None:
        """End all requests at once; later ones fail."""
        with self._guard:
            self._closed.set()
            for busy in self._busy:
                _shut_down(busy)

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's connection."""
        found: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if found is None:
            host, port, seconds = self._address.host, self._address.port, min(_CONNECT_SECONDS, self._timeout)
            if self._tls is not None:
                found = http.client.HTTPSConnection(host, port, timeout=seconds, context=self._tls)
            else:
                found = http.client.HTTPConnection(host, port, timeout=seconds)
            self._own.connection = found
        return found

    def _exchange(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None) -> Reply:
        whole = False
        try:
            if connection.sock is None:
                connection.connect()
            line: socket.socket = connection.sock
            line.settimeout(None)  # _ending sees to it
            with self._ending(line):
                # A server may answer, and close, before it has read all: too large, say.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, f"{self._address.path}{path}", body, self._headers)
                reply, whole = _read(connection.getresponse())
            return reply
        finally:
            if not whole:
                connection.close()

    @contextmanager
    def _ending(self, line: socket.socket) -> Iterator[None]:
        """Shut a socket down when time is up, or when all is closed."""
        with self._guard:
            if self._closed.is_set():
                raise ConnectionAbortedError("the connection was closed here")
            self._busy[line] = time.monotonic() + self._timeout
            if self._watch is None:  # one for all requests: a timer for each would cost a millisecond
                self._watch = threading.Thread(target=self._watch_busy, name="time-outs", daemon=True)
                self._watch.start()
        failure = None
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            failure = error
        finally:
            with self._guard:
                del self._busy[line]
                late = line in self._late
                self._late.discard(line)
        if late:
            raise TimeoutError(f"no whole answer within {self._timeout:g} s")
        if failure is not None:
            raise failure

    def _watch_busy(self) -> None:
        while not self._closed.wait(min(0.5, self._timeout / 10)):
            now = time.monotonic()
            with self._guard:
                for line, until in self._busy.items():
                    if until < now:
                        self._late.add(line)
                        _shut_down(line)


def _read(response: http.client.HTTPResponse) -> tuple[Reply, bool]:
    """The answer, and whether the connection is good for another.

    Raises:
        TooLong: it is larger than MOST_BYTES.
        http.client.IncompleteRead: the connection ended before it did.
    """
    expected = response.length
    body = b"" if expected is not None and expected > MOST_BYTES else response.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES or (expected or 0) > MOST_BYTES:
        raise TooLong(f"an answer of more than {MOST_BYTES:,} bytes")
    if expected is not None and len(body) < expected:
        raise http.client.IncompleteRead(body, expected - len(body))
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, body), response.isclosed()


def _shut_down(line: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(line, socket.SHUT_RDWR)  # not SSLSocket's own, which breaks it under its reader
