"""What servers of chat models answer: a completion, why there is none, which models there are, when to ask again.

Asking is left to :mod:`pipeline.extractors._chat`.
"""

import json
import random
import time
from email.utils import parsedate_to_datetime
from typing import Annotated

from pydantic import BaseModel, Field

from pipeline.extractors._connections import Reply

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.5, 30.0, 300.0  # seconds before a request is sent again


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def message(body: bytes) -> str:
    """The message in the body of an error, in the several ways that servers write it; else the body."""
    text = body[:100_000].decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text or "no text"
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return found if isinstance(found, str) else text


def model_names(body: bytes) -> list[str]:
    """The models that a server lists, where it lists any."""
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, RecursionError, LookupError, TypeError):
        return []


def pause(attempt: int, asked: float | None) -> float:
    """Seconds before a request is sent again: what the server asks for, else longer each time; at random, so that
    requests that failed together do not come again together."""
    if asked is not None:
        return min(asked, LONGEST_ASKED) + random.uniform(0, 0.1)
    return min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)


def retry_after(reply: Reply) -> float | None:
    """Seconds of the header Retry-After, which holds them or a date."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
