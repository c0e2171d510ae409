"""Text that strangers wrote, made fit to be looked at: what is invisible or turns the line round is shown by its code.

Escaping is not done here: Jinja does it for the page, and the gallery's script sets text, never HTML.
"""

import re

# Controls, zero-width characters, line and paragraph separators, the marks that change the direction of writing, tags,
# halves of surrogate pairs. Joiners and variation selectors stay: emoji and many scripts are written with them.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e001f\ud800-\udfff]"
)
_ANY = re.compile(r"[\s\S]")
LONGEST = 4000
"""Characters of one text that are shown; a token may have a million."""


def visible(text: str, longest: int = LONGEST) -> str:
    """The text with every hidden character as ``⟨U+202E⟩``, on one line, cut after `longest` characters."""
    shown = _HIDDEN.sub(_code, text[:longest])
    rest = len(text) - longest
    return shown if rest <= 0 else f"{shown} … ({rest:,} more characters)"


def visible_token(token: str, invisible: bool) -> str:
    """As :func:`visible`; a token that shows nothing at all is given by the codes of its characters."""
    return visible(_ANY.sub(_code, token[:16])) if invisible else visible(token, 200)


def _code(match: "re.Match[str]") -> str:
    return f"⟨U+{ord(match[0]):04X}⟩"
