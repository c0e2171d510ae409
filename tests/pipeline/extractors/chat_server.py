"""An OpenAI-compatible server on loopback that answers with a picture's mean colour, and misbehaves as it is told.

In a thread of the test (:class:`ChatServer`), or as a process that can be killed: ``python -m
tests.pipeline.extractors.chat_server PORT LOG [SECONDS]``.
"""

import base64
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

MODELS = ("a-model", "another")


@dataclass
class Question:
    """A request for a completion, as it came."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    number: int
    """Of all questions, from 0."""

    @property
    def prompt(self) -> str:
        content = self.body["messages"][0]["content"]
        return str(content if isinstance(content, str) else content[-1]["text"])

    @property
    def jpegs(self) -> list[bytes]:
        content = self.body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
        return [base64.b64decode(url.partition(",")[2], validate=True) for url in urls]

    @property
    def picture(self) -> Image.Image:
        [jpeg] = self.jpegs
        return Image.open(BytesIO(jpeg)).convert("RGB")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.jpegs[0]).hexdigest()


Behaviour = Callable[["Handler", Question], None]


class Handler(BaseHTTPRequestHandler):
    """Answers a question as the server's behaviour says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        self.server.owner.asked_for_models += 1
        if self.server.owner.models is None:
            self.abort()
        else:
            self.reply(200, {"data": [{"id": name} for name in self.server.owner.models]})

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        with owner.guard:
            question = Question(body, dict(self.headers), len(owner.questions))
            owner.questions.append(question)
            owner.at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner.at_once)
        try:
            owner.behave(self, question)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with owner.guard:
                owner.at_once -= 1

    def say(self, text: str | None, finish_reason: str = "stop", **message: Any) -> None:
        """Answer with a text."""
        choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}}
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        self.reply(200, {"choices": [{**choice, "finish_reason": finish_reason}], "usage": usage})

    def reply(self, status: int, body: Any, **headers: str) -> None:
        """Answer with a status and a body: bytes, or what is written as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def abort(self) -> None:
        """Close the connection without a word."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass


def colour(image: Image.Image) -> str:
    """What the server answers: the mean colour, coarse enough that JPEG does not change it often."""
    red, green, blue = (round(float(value)) for value in np.asarray(image.convert("RGB")).mean((0, 1)))
    return f"mostly {red} {green} {blue}"


def answer(handler: Handler, question: Question) -> None:
    """Behave: one line of text, or JSON where a schema asks for it."""
    text = colour(question.picture)
    if "response_format" in question.body:
        text = json.dumps({"objects": [{"label": text, "attribute": "red"}, {"label": "thing", "attribute": ""}]})
    handler.say(text)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    owner: "ChatServer"


@dataclass
class ChatServer:
    """The server, in threads, from the beginning of a `with` to its end."""

    behave: Behaviour = answer
    models: tuple[str, ...] | None = MODELS
    """What it lists; None: it closes the connection when asked."""
    port: int = 0
    questions: list[Question] = field(default_factory=list)
    asked_for_models: int = 0
    at_once: int = 0
    most_at_once: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._server.owner = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no more connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def main() -> None:
    """Serve until killed; the log gets a line for each question that was answered: its picture's digest."""
    port, log, seconds = int(sys.argv[1]), Path(sys.argv[2]), float((sys.argv[3:] or ["0"])[0])
    guard = threading.Lock()

    def slow(handler: Handler, question: Question) -> None:
        time.sleep(seconds)
        answer(handler, question)
        with guard, log.open("a", encoding="utf-8") as file:
            file.write(f"{question.digest}\n")

    with ChatServer(slow, port=port) as server:
        print(server.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
