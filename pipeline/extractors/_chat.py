"""A model behind an OpenAI-compatible server (``/chat/completions``): asking it, and asking again.

Used by the extractors named `http`. What it is asked and how its answer is read is theirs; connections are left to
:mod:`pipeline.extractors._connections`. The key comes from the environment alone, and is taken out of all that a server
says before it can get into a row, a message or the store.
"""

import base64
import http.client
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Annotated, Any, ClassVar, Literal

from PIL import Image
from pydantic import AfterValidator, Field, JsonValue, NonNegativeFloat, PositiveInt, ValidationError

from pipeline.core.errors import UserError
from pipeline.core.records import mistakes
from pipeline.core.version import __version__
from pipeline.extractors._answers import Completion, message, model_names, pause, retry_after
from pipeline.extractors._connections import Address, Connections, Reply, TooLong
from pipeline.extractors._said import concluded
from pipeline.extractors.base import Options, UnavailableError
from pipeline.settings.params import HttpExecution
from pipeline.settings.training import MOST_SEED

URL, KEY = "SIGHTREAD_HTTP_URL", "SIGHTREAD_HTTP_KEY"
"""Environment variables: the server's address, where params name none, and its key."""

_JPEG_QUALITY = 90
_TELLING_KEY = 12  # characters; a shorter key is a placeholder such as EMPTY, which an answer may hold by chance
_OWN = {"model", "messages", "stream", "n", "response_format"}
_THINKING_OFF: dict[str | None, dict[str, Any]] = {
    None: {},
    "chat_template_kwargs": {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
    "reasoning_effort": {"reasoning_effort": "none"},
}


class Refused(Exception):
    """The server or its model gave no answer that can be used: of this request, so it becomes a row."""


class _Again(Exception):
    """A request that may go well when it is sent again.

    Attributes:
        wait: seconds that the server asks for, or None.
        elsewhere: whether the reason can only be the server's state, never what was sent.
    """

    def __init__(self, message: str, wait: float | None = None, elsewhere: bool = False) -> None:
        super().__init__(message)
        self.wait, self.elsewhere = wait, elsewhere


def _url(value: str) -> str:
    Address.parse(value)
    return value


def _extra(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if taken := sorted(_OWN & value.keys()):
        raise ValueError(f"{', '.join(taken)}: set by the extractor; expected other fields of the request")
    return value


class ChatOptions(Options):
    """What is said of every model behind a server."""

    NO_FILES: ClassVar[frozenset[str]] = frozenset({"model", "url", "prompt", "extra"})

    model: Annotated[str, Field(min_length=1)]
    url: Annotated[str, AfterValidator(_url)] | None = Field(default=None, exclude=True)
    prompt: Annotated[str, Field(min_length=1)]
    max_side: Annotated[int, Field(ge=16, le=8192)] = 1024
    temperature: NonNegativeFloat = 0.0
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    max_tokens: PositiveInt = 64
    thinking_off: Literal["chat_template_kwargs", "reasoning_effort"] | None = None
    extra: Annotated[dict[str, JsonValue], AfterValidator(_extra)] = Field(default={})

    def require(self) -> None:
        """Check that an address is known and the key can be sent; the server is not asked."""
        self.address()
        _key()

    def address(self) -> Address:
        """Where the server is.

        Raises:
            UserError: neither params nor the environment say so, or the environment's is no URL.
        """
        url = self.url or os.environ.get(URL, "")
        if not url:
            raise UserError(
                f"http.url: null, and {URL} is not set; expected the address that /chat/completions stands behind, "
                "such as http://localhost:8000/v1"
            )
        try:
            return Address.parse(url)
        except ValueError as error:
            raise UserError(f"{URL}: {error}") from None


def _key() -> str:
    """The key, or "" where there is none.

    Raises:
        UserError: it cannot stand in a header; the message does not repeat it.
    """
    key = os.environ.get(KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{KEY}: holds characters that no key has; expected printable ASCII")
    return key


def scaled(image: Image.Image, most: int) -> Image.Image:
    """The picture as it is sent: its longer side at most `most` pixels."""
    factor = most / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


class Chat:
    """Asks the model, from as many threads as call it.

    A request that fails for a passing reason (no connection, no whole answer in time, status 408, 425, 429 or 5xx) is
    sent again after a while, `attempts` times in all. One that fails even so breaks the circuit where the server does
    not answer to anything simple either, or has turned away all others meanwhile (429, 503): then all requests end with
    :class:`UnavailableError` at once. Else it is refused, and the others go on.

    Args:
        section: of params, for messages.
        options: the model's.
        execution: how the server is asked.
    """

    def __init__(self, section: str, options: ChatOptions, execution: HttpExecution) -> None:
        self._section, self._options, self._execution = section, options, execution
        self._guard = threading.Lock()
        self._broken = threading.Event()  # the circuit
        self._reason = ""
        self._answers = self._requests = self._prompt_tokens = self._completion_tokens = 0
        self._begin = self._end = 0.0
        self._key = ""
        self._served: list[str] = []

    def connect(self) -> None:
        """Look whether the server is there. Called once, before the first question.

        Raises:
            UserError: nothing answers at its address, or it wants another key.
        """
        self._key = _key()
        self._address = self._options.address()
        headers = {"Content-Type": "application/json", "User-Agent": f"sightread/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._connections = Connections(self._address, headers, self._execution.timeout)
        self._broken, self._reason = threading.Event(), ""
        try:
            reply = self._connections.send("GET", "/models")
        except TooLong:
            return
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"{self._section}: no server answers at {self._address}: {self._quoted(_named(error))}; start it, or "
                f"give its address as {self._section}.url or {URL}"
            ) from None
        if reply.status in (401, 403):
            raise UserError(self._unauthorized(reply))
        self._served = model_names(reply.body)

    def ask(
        self, prompt: str, pictures: Sequence[Image.Image] = (), response_format: Mapping[str, Any] | None = None
    ) -> str:
        """What the model says, without what it thought before.

        Args:
            prompt: the user's message.
            pictures: upright RGB; sent before the prompt, scaled to `max_side`.
            response_format: the field of that name, or None.

        Raises:
            Refused: there is no answer to this question.
            UnavailableError: the server is gone, or takes no question at all.
        """
        options = self._options
        content: Any = prompt
        if pictures:
            content = [{"type": "image_url", "image_url": {"url": self._data_url(picture)}} for picture in pictures]
            content.append({"type": "text", "text": prompt})
        fields = {
            "model": options.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "seed": options.seed,
            "response_format": response_format,
            **_THINKING_OFF[options.thinking_off],
            **options.extra,
        }
        body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        return self._persist(body)

    def used(self) -> str:
        """Requests, tokens and seconds so far; empty where nothing was sent."""
        if not self._requests:
            return ""
        tokens = (
            f"{self._prompt_tokens:,} tokens read and {self._completion_tokens:,} written"
            if self._prompt_tokens or self._completion_tokens
            else "tokens not reported"
        )
        requests = f"{self._requests:,} request{'s' if self._requests != 1 else ''}"
        return f"{requests}, {tokens}, {self._end - self._begin:.1f} s"

    def close(self) -> None:
        """End what is being asked, at once; :meth:`connect` begins anew."""
        self._break("the extractor was closed")
        if hasattr(self, "_connections"):
            self._connections.close()

    def _data_url(self, picture: Image.Image) -> str:
        file = BytesIO()
        scaled(picture, self._options.max_side).save(file, "JPEG", quality=_JPEG_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

    def _persist(self, body: bytes) -> str:
        """Send a question until it is answered, or too often."""
        answers = self._answers
        for attempt in range(self._execution.attempts):
            try:
                return self._text(self._send(body))
            except _Again as error:
                last = error
            if attempt + 1 < self._execution.attempts:
                answers = self._answers
                self._broken.wait(pause(attempt, last.wait))
        times = f"{self._execution.attempts} attempt{'s' if self._execution.attempts != 1 else ''}"
        if (last.elsewhere and self._answers == answers) or not self._is_there():
            self._break(
                f"{self._address} does not answer: {last} ({times}). What was read before is stored; run the stage "
                "again when the server is back"
            )
            self._check()
        raise Refused(f"{last} ({times})")

    def _send(self, body: bytes) -> bytes:
        """Send a question once.

        Returns:
            The body of an answer with status 200.

        Raises:
            _Again, Refused, UnavailableError: there is none.
        """
        self._check()
        with self._guard:
            self._requests += 1
            self._begin = self._begin or time.monotonic()
        try:
            reply = self._connections.send("POST", "/chat/completions", body)
        except TooLong as error:
            raise Refused(str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            self._check()
            raise _Again(self._quoted(_named(error)), elsewhere=isinstance(error, ConnectionRefusedError)) from None
        finally:
            self._end = time.monotonic()
        status, said = reply.status, f"{reply.status}: {self._quoted(message(reply.body))}"
        if status in (408, 425, 429) or status >= 500:
            raise _Again(said, retry_after(reply), elsewhere=status in (429, 503))
        if 300 <= status < 400:
            self._break(
                f"{self._address} redirects to {self._quoted(reply.headers.get('location', 'nowhere'))}, which is not "
                f"followed; give the server's own address as {self._section}.url or {URL}"
            )
        elif status == 401 or (status == 403 and not self._answers):
            self._break(self._unauthorized(reply).removeprefix(f"{self._section}: "))
        elif status in (404, 405):
            served = f", which serves {', '.join(self._served[:5])}" if self._served else ""
            self._break(
                f"{self._address}{served}, answered {said}; check {self._section}.model ({self._options.model}), and "
                "that the address ends where /chat/completions begins, mostly in /v1"
            )
        self._check()
        with self._guard:
            self._answers += 1
        if status != 200:
            raise Refused(said)
        self._keep_secret(reply.body.decode(errors="replace"))
        return reply.body

    def _text(self, body: bytes) -> str:
        """The text of an answer.

        Raises:
            Refused: it is malformed, or holds none.
        """
        try:
            found = Completion.model_validate_json(body)
        except ValidationError as error:
            said = f"{self._quoted(message(body))[:150]} ({mistakes(error)})"
            raise Refused(f"malformed answer: {self._quoted(said)}") from None
        if found.usage is not None:
            with self._guard:
                self._prompt_tokens += found.usage.prompt_tokens
                self._completion_tokens += found.usage.completion_tokens
        choice = found.choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter":
            raise Refused(f"the model refuses: {self._quoted(choice.message.refusal or 'content filter')}")
        text = concluded(choice.message.content or "")
        if not text:
            hint = "; see thinking_off and max_tokens" if choice.finish_reason == "length" else ""
            raise Refused(f"an empty answer (finish_reason {self._quoted(str(choice.finish_reason))}){hint}")
        self._keep_secret(text)
        return text

    def _keep_secret(self, text: str) -> None:
        if len(self._key) >= _TELLING_KEY and self._key in text:
            raise Refused("the answer repeats the key that it was asked with")

    def _is_there(self) -> bool:
        """Whether the server answers to something that is no question."""
        try:
            reply = self._connections.send("GET", "/models")
        except TooLong:
            return True
        except (OSError, http.client.HTTPException):
            return False
        return reply.status < 500 and reply.status != 429

    def _break(self, reason: str) -> None:
        """Break the circuit; the first reason is what all requests end with."""
        with self._guard:
            if not self._broken.is_set():
                self._reason = reason
                self._broken.set()

    def _check(self) -> None:
        if self._broken.is_set():
            raise UnavailableError(f"{self._section}: {self._reason}")

    def _unauthorized(self, reply: Reply) -> str:
        sent = f"it does not accept the key in {KEY}" if self._key else f"it wants a key; put it into {KEY}"
        return f"{self._section}: {self._address} answered {reply.status}: {self._quoted(message(reply.body))}; {sent}"

    def _quoted(self, text: str) -> str:
        """What a server said, on one line, cut, and without the key."""
        text = " ".join(text.replace(self._key, "…").split()) if self._key else " ".join(text.split())
        return text if len(text) <= 300 else f"{text[:300]}…"


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
