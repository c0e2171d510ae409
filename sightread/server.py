"""Tagging over HTTP: posts and pictures in, entities with and without the pictures out, and a page to try it on.

Whatever comes in is bounded: the body, the posts, their text and pictures, the requests that wait, the time. The
command is :mod:`sightread.serve`; fastapi is an extra (requirements-serve.lock).
"""

import asyncio
import base64
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from pipeline.core.errors import UserError
from pipeline.core.version import __version__
from sightread.metrics import CONTENT_TYPE, Metrics
from sightread.tagging import Sightread

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
"""The page: its paths and their files. It loads nothing else."""
PATHS = {*FILES, "/tag", "/tag/form", "/health", "/metrics", "/openapi.json"}

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LOCAL = {"127.0.0.1", "localhost", "::1"}

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Asked = tuple[str | list[str], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for, and how many may wait.

    Attributes:
        body: bytes of a request.
        posts: of a request.
        characters: of a post's text.
        pictures: of a post. Of each, params limit bytes and pixels (`images`).
        seconds: from a request's first byte to its answer.
        waiting: requests that are answered or wait for it at once.
    """

    body: int = 20_000_000
    posts: int = 32
    characters: int = 10_000
    pictures: int = 4
    seconds: float = 60.0
    waiting: int = 16


def _decoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("expected the file of a picture, base64")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("not base64") from None


Picture = Annotated[bytes, BeforeValidator(_decoded, json_schema_input_type=str)]


class Asking(BaseModel):
    """What a request holds. Only its first mistake is looked for: a list of all takes a thousand times its bytes."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        other = next((key for key in value if key not in cls.model_fields), None) if isinstance(value, dict) else None
        if other is not None:
            raise ValueError(f"{other!r:.50}: no such key; expected {', '.join(cls.model_fields)}")
        return value


class PostIn(Asking):
    """A post: a text or its tokens, and its pictures as base64."""

    text: str | None = None
    tokens: list[str] | None = Field(default=None, fail_fast=True)
    images: list[Picture] = Field(default=[], description="files of pictures, base64", fail_fast=True)

    @model_validator(mode="after")
    def _one_of_both(self) -> "PostIn":
        if (self.text is None) == (self.tokens is None):
            raise ValueError("expected either text or tokens")
        return self


class PostsOut(BaseModel):
    """What was found in each post, in order: rows as `python -m stages.tag` writes them."""

    posts: list[dict[str, Any]]


def create_app(tagger: Sightread, limits: Limits, host: str = "127.0.0.1") -> Any:
    """The application, as an ASGI server takes it.

    Args:
        tagger: with what reads pictures, or without.
        limits: on requests.
        host: what it is bound to; on a loopback address, it answers to no other name.
    """
    metrics, worker = Metrics(), ThreadPoolExecutor(1, thread_name_prefix="tag")
    app = FastAPI(title="Sightread", version=__version__, docs_url=None, redoc_url=None)  # those pages load others'

    def few(posts: Any) -> Any:
        if isinstance(posts, list) and len(posts) > limits.posts:
            raise HTTPException(413, f"{len(posts)} posts; at most {limits.posts} in a request")
        return posts

    class PostsIn(Asking):
        """Posts to tag."""

        posts: Annotated[list[PostIn], BeforeValidator(few)] = Field(fail_fast=True)

    async def answer(posts: Sequence[Asked]) -> Any:
        _require_within(posts, limits)
        if any(images for _, images in posts) and tagger.reader is None:
            raise HTTPException(422, "this server reads no pictures; it was started without --params")
        try:
            found = await asyncio.get_running_loop().run_in_executor(worker, tagger.tag_many, posts)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise HTTPException(500, "the pictures could not be read; the server's log says why") from None
        metrics.tagged(len(found), Counter(picture.row.status for each in found for picture in each.pictures))
        return JSONResponse({"posts": [each.as_row() for each in found]})

    @app.post("/tag", response_model=PostsOut)
    async def tag(posts: PostsIn) -> Any:
        """Tag posts, their pictures as base64."""
        return await answer([(_content(post), post.images) for post in posts.posts])

    @app.post("/tag/form", response_model=PostsOut)
    async def tag_form(text: Annotated[str, Form()], images: list[UploadFile] | None = None) -> Any:
        """Tag one post of a form, its pictures as files."""
        return await answer([(text, [await image.read() for image in images or ()])])

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server is there, and what it reads."""
        kinds = [] if tagger.reader is None else list(tagger.reader.choices)
        return {"status": "ok", "version": __version__, "reads": kinds}

    @app.get("/metrics")
    async def counted() -> Response:
        """What was asked and found, as Prometheus reads it."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    for path, name in FILES.items():
        app.add_api_route(path, _file(name), include_in_schema=False)

    @app.exception_handler(RequestValidationError)
    async def refuse(_request: Request, error: RequestValidationError) -> Response:
        """Say what is wrong, and where; not what was sent."""
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}"[:300] for each in error.errors()[:5]]
        return JSONResponse({"detail": "; ".join(found)}, 422)

    return Guard(app, limits, metrics, _LOCAL if host in _LOCAL else None)


def _content(post: PostIn) -> str | list[str]:
    return post.text if post.text is not None else post.tokens or []


def _require_within(posts: Sequence[Asked], limits: Limits) -> None:
    """Raises HTTPException where a request asks for more than the limits allow."""
    for number, (text, images) in enumerate(posts, start=1):
        length = len(text) if isinstance(text, str) else sum(len(token) + 1 for token in text)
        if length > limits.characters:
            raise HTTPException(413, f"post {number}: {length} characters; at most {limits.characters}")
        if len(images) > limits.pictures:
            raise HTTPException(413, f"post {number}: {len(images)} pictures; at most {limits.pictures}")


def _file(name: str) -> Callable[[], Awaitable[Response]]:
    async def show() -> Response:
        return FileResponse(PAGE / name)

    return show


class Guard:
    """Around the application: limits on body, time and waiting requests, headers of every answer, and its metrics.

    Args:
        app: the application.
        limits: on requests.
        metrics: where they are counted.
        names: the hosts that it answers to; None: any. Else a page of elsewhere could ask a server of this machine by
            a name of its own.
    """

    def __init__(self, app: Any, limits: Limits, metrics: Metrics, names: set[str] | None) -> None:
        self._app, self._limits, self._metrics, self._names = app, limits, metrics, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def sending(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        self._metrics.in_flight += 1
        try:
            async with asyncio.timeout(self._limits.seconds):
                if (refused := self._refused(scope)) is not None:
                    await refused(scope, receive, sending)
                else:
                    await self._app(scope, self._bounded(receive), sending)
        except TimeoutError:
            if status == 0:
                await _error(503, f"not done within {self._limits.seconds:g} seconds")(scope, receive, sending)
        finally:
            self._metrics.in_flight -= 1
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.request(path, status, time.monotonic() - started)

    def _refused(self, scope: Scope) -> Response | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").rsplit(":", 1)[0].strip("[]") if "host" in headers else ""
        if self._names is not None and host not in self._names:
            return _error(400, "unknown host")
        if headers.get("sec-fetch-site") == "cross-site":
            return _error(403, "asked from another site's page")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limits.body:
            return _error(413, f"{length} bytes; at most {self._limits.body}")
        if self._metrics.in_flight > self._limits.waiting and scope["method"] == "POST":
            return _error(503, "too many requests are waiting", {"Retry-After": "2"})
        return None

    def _bounded(self, receive: Receive) -> Receive:
        n_bytes = 0

        async def receiving() -> dict[str, Any]:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._limits.body:  # of one that states no length
                raise HTTPException(413, f"at most {self._limits.body} bytes")
            return message

        return receiving


def _error(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status, headers)
