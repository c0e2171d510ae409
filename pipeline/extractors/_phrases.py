"""Phrases of a tweet that may be seen in its picture: what open-vocabulary detectors are asked for.

Candidates are found as RAKE finds them (Rose, Engel, Cramer, Cowley 2010, "Automatic keyword extraction from individual
documents"): the longest runs of words without a stop word or punctuation between them. That takes no tagger of parts of
speech, and verbs stay in. Stop words are English words of closed classes, and what is said on Twitter without meaning.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

MOST_WORDS = 4
"""Of a phrase; a longer run is cut behind every fourth."""

_STOPPING = """
a an the this that these those some any no every each either neither another such both all half enough several many
much more most few less least other others own same
i me my mine myself we us our ours ourselves you your yours yourself yourselves u ur he him his himself she her hers
herself it its itself they them their theirs themselves one ones someone somebody something anyone anybody anything
everyone everybody everything nobody nothing none who whom whose which what whatever whoever
about above across after against along among around as at before behind below beneath beside besides between beyond
but by despite down during except for from in inside into like near of off on onto out outside over past per since
than through throughout till to toward towards under until up upon via with within without w
and or nor so yet if because although though while whereas unless whether when whenever where wherever how why
am is are was were be been being have has had having do does did doing done can could may might must shall should
will would ought cannot get gets got getting gotten go goes going gonna wanna gotta let lets
not never ever also too very really just only even still already again now then here there today tonight tomorrow
yesterday soon later always often once almost quite rather pretty maybe perhaps well back away else yes yeah oh ok
okay please thanks thank hey hi hello
s t d m o y re ve ll im ive ill id dont doesnt didnt isnt arent wasnt werent hasnt havent hadnt cant couldnt wont
wouldnt shouldnt aint youre youve hes shes its theyre theyve weve thats theres heres whats whos lets
i'm i've i'll i'd don't doesn't didn't isn't aren't wasn't weren't hasn't haven't hadn't can't couldn't won't
wouldn't shouldn't ain't you're you've you'll he's she's it's they're they've we're we've we'll that's there's
here's what's who's let's n't 's 't 're 've 'll 'd 'm
rt mt ht cc amp lt gt lol lmao omg tbt fb ff http https
"""
STOP_WORDS = frozenset(_STOPPING.split())

_URL = re.compile(r"(?i)(https?:|www\.|pic\.twitter\.com|t\.co/)")
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)")  # between words written as one
_INSIDE = "'’&-."  # of a word


def phrases(posts: Iterable[Sequence[str]], most: int) -> tuple[str, ...]:
    """The phrases of the posts that show a picture.

    Links and what has no letter end a phrase, and so does a hashtag or mention, which is a phrase itself: without its
    sign, its words told apart by their capitals (``#GameOfThrones``: Game Of Thrones).

    Args:
        posts: the tokens of each.
        most: phrases at most.

    Returns:
        each once, whatever its capitals, in the order of the text.
    """
    distinct: dict[str, str] = {}
    for tokens in posts:
        for phrase in _runs(tokens):
            distinct.setdefault(phrase.casefold(), phrase)
    return tuple(islice(distinct.values(), most))


def _runs(tokens: Sequence[str]) -> Iterator[str]:
    run: list[str] = []
    for token in tokens:
        words = _words(token)
        if words and unicodedata.normalize("NFKC", token)[:1] not in "#@":
            run += words
            continue
        yield from _cut(run)
        run = []
        if len(words) > 1 or not set(map(str.casefold, words)) <= STOP_WORDS:
            yield from _cut(words)
    yield from _cut(run)


def _words(token: str) -> list[str]:
    """The words of a token; none where it is a stop word, or is not one word, which ends a phrase."""
    token = unicodedata.normalize("NFKC", token)
    if _URL.match(token):
        return []
    if token[:1] in "#@":
        spread = "".join(each if _belongs(each) else " " for each in _HUMPS.sub(" ", token))
        return [word for word in spread.split() if _has_letter(word)]
    word = token
    while word and not _belongs(word[0]):
        word = word[1:]
    while word and not _belongs(word[-1]):
        word = word[:-1]
    plain = {each.casefold().replace("’", "'") for each in (token, word)}
    if plain & STOP_WORDS or not _has_letter(word) or not all(_belongs(each) or each in _INSIDE for each in word):
        return []
    return [word.replace(".", "")]


def _belongs(character: str) -> bool:
    """Whether it is a letter, a mark upon one or a digit, of any script."""
    return unicodedata.category(character)[0] in "LMN"


def _has_letter(word: str) -> bool:
    return any(map(str.isalpha, word))


def _cut(run: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(run), MOST_WORDS):
        yield " ".join(run[start : start + MOST_WORDS])
