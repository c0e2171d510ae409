"""Splitting the text of a tweet into tokens that keep their character offsets.

Used wherever a tweet comes as text: in a data set, and on the command line of the prediction. What an encoder makes of
a token is left to the encoder's own tokenizer.
"""

import re

# In this order: URLs, user names and hashtags, numbers and words with inner marks, emoticons, a run of the same mark,
# any other character (with the joiners, modifiers and selectors that make it one emoji).
_TOKEN = re.compile(
    r"""https?://\S+ | www\.\S+ | [@#]\w+ | \w+(?:[.,:'’\-_/&@]\w+)*
      | [:;=8xX][\-o*']?[()\[\]dDpP/\\|]+ | <3+ | ([^\w\s])\1+
      | \S(?:[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]|\u200d\S)*""",
    re.VERBOSE,
)


def tokenize(text: str) -> list[tuple[str, int]]:
    """A tweet's tokens and where each starts: whitespace split, then marks apart from words.

    URLs, user names, hashtags, emoticons and emoji stay whole. Offsets count characters (code points) of `text`.
    """
    return [(match.group(), match.start()) for match in _TOKEN.finditer(text)]
