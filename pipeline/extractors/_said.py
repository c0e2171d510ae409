"""What a vision-language model has answered, as captions and lines of text; behind a server or in this process.

Asking is left to :mod:`pipeline.extractors._chat` and :mod:`pipeline.extractors._asking`.
"""

import re

from pipeline.core.records import Caption, TextLine

_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)
_NONE = {"none", "none."}

THOUGHT = "</think>"
"""Where a model that thinks aloud begins its answer."""


def concluded(answer: str) -> str:
    """An answer without what the model thought before it; empty where it was still thinking."""
    text = answer.rpartition(THOUGHT)[2].strip()
    return "" if text.startswith("<think>") else text


def unfenced(answer: str) -> str:
    """An answer without the Markdown fence around it."""
    fenced = _FENCE.match(answer.strip())
    return fenced[1] if fenced else answer.strip()


def caption(answer: str, score: float | None = None) -> Caption:
    """The answer on one line, without quotation marks around it."""
    text = " ".join(answer.split())
    return Caption(text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text, score)


def lines(answer: str) -> list[TextLine]:
    """The answer's lines, without scores and places; none where it is "none"."""
    texts = [text for line in unfenced(answer).splitlines() if (text := " ".join(line.split()))]
    return [] if len(texts) == 1 and texts[0].lower() in _NONE else [TextLine(text) for text in texts]
