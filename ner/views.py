"""A tweet's text-only and cross-modal views as tensors: sub-tokens, the context behind them, windows, batches.

The text-only view is ``<s> tweet </s>``, the cross-modal one ``<s> tweet </s> context </s>``, with the tokenizer's own
special tokens. The tweet is never cut: what does not fit one window is read in several, each with the (cut) context,
and each token is scored in one of them; a window that scores none is left out. What an encoder makes of the tensors is
left to :mod:`ner.models`.
"""

from __future__ import annotations  # torch is for batches alone: ner.light has none

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypeAlias, TypedDict, TypeVar, cast

from ner.encoder.casing import casing_of
from pipeline.core.errors import UserError
from pipeline.core.records import View

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ner.visual import PostVisual, VisualBatch, Visuals

ViewName = Literal["text_only", "cross_modal"]
UNKNOWN_WORD = 1  # the row of a table of word vectors for tokens that it does not have; row 0 is no token's
FurtherWords: TypeAlias = Callable[[Iterable[str]], dict[str, int]]
"""Takes in vectors of words behind a tagger's table (:meth:`ner.models.base.TaggerModel.further_words`)."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How much of a view one encoder pass takes, all in sub-tokens.

    Args:
        max_length: length of a window, special tokens and context included.
        max_context: at most so much of it is context, and at most half where the tweet needs the room.
        stride: how far the windows of a long tweet overlap (at most half a window's share of the tweet).
        short_addresses: whether of a web address its first sub-token alone is read.
    """

    max_length: int
    max_context: int
    stride: int
    short_addresses: bool = False


@dataclass(frozen=True, slots=True)
class EncodedView:
    """A view as an encoder's input.

    Attributes:
        windows: sub-token ids with special tokens; more than one only for a long tweet. Each scores a token, so that
            one word of thousands of sub-tokens, of which the first is read, takes few.
        rows: for each token, the window in which it is scored.
        positions: for each token, its first sub-token in that window.
        ends: for each token, one behind its last sub-token in that window.
        closings: for each window, the position of the special token behind its part of the tweet.
        context_used: as much of the context as the windows carry, a prefix of the string.
        words: for each window, what stands at each position in the table of word vectors: a token's row at its first
            sub-token, 0 elsewhere; None where the system has no such table.
        visual: what the post's pictures give as tensors; None without a picture, and in the text-only view.
        casing: for each token, how it is written (:mod:`ner.encoder.casing`); None where the tagger is blind to that.
    """

    windows: list[list[int]]
    rows: list[int]
    positions: list[int]
    ends: list[int]
    closings: list[int]
    context_used: str
    words: list[list[int]] | None = None
    visual: PostVisual | None = None
    casing: list[list[float]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """Sub-tokens of the longest window."""
        return max(map(len, self.windows), default=0)


class ViewBatch(TypedDict):
    """One view of B tweets of at most L tokens, in W encoder windows of at most S sub-tokens, padded.

    T is the number of sub-tokens and N that of tokens, padding left out.
    """

    input_ids: Tensor
    """sub-tokens, *Shape:* (W, S)."""
    attention_mask: Tensor
    """1 on sub-tokens, 0 on padding, *Shape:* (W, S)."""
    places: Tensor
    """positions of the sub-tokens in the flattened windows, *Shape:* (T,)."""
    rows: Tensor
    """the window of each token's first sub-token, 0 on padding, *Shape:* (B, L)."""
    positions: Tensor
    """the position of each token's first sub-token in that window, 0 on padding, *Shape:* (B, L)."""
    mask: Tensor
    """True on tokens, False on padding, *Shape:* (B, L)."""
    tokens: Tensor
    """positions of the tokens in the flattened tweets, *Shape:* (N,)."""
    ends: Tensor
    """one behind the position of each token's last sub-token in its window, 1 on padding, *Shape:* (B, L)."""
    closings: Tensor
    """the position of the special token behind each window's part of the tweet, *Shape:* (W,)."""
    tweets: Tensor
    """the tweet that each window is of, *Shape:* (W,)."""
    words: NotRequired[Tensor]
    """rows of the table of word vectors at tokens' first sub-tokens, 0 elsewhere, *Shape:* (W, S)."""
    casing: NotRequired[Tensor]
    """how tokens are written, 0 on padding, *Shape:* (B, L, features)."""


_ADDRESS = re.compile("https?:/", re.IGNORECASE)

M = TypeVar("M", ViewBatch, "VisualBatch")


def moved(batch: M, device: torch.device) -> M:
    """A batch on another device."""
    tensors = cast("dict[str, Tensor]", batch)
    return cast("M", {name: tensor.to(device) for name, tensor in tensors.items()})


class ViewEncoder:
    """Turns views into sub-token windows with one tokenizer call for many of them.

    Args:
        tokenizer: a fast one.
        limits: of the windows.
        table: rows of the tagger's table of word vectors by token, from UNKNOWN_WORD + 1, for systems that have one.
        casing: whether the tagger looks at how tokens are written.

    Attributes:
        visuals: where posts' pictures are as tensors, for systems that read them; None: nowhere.
        further: rows of words that `table` does not have, from a file at hand.

    Raises:
        UserError: the tokenizer cannot tell words apart or has no special tokens to frame a sentence with.
    """

    def __init__(
        self,
        tokenizer: Any,
        limits: WindowLimits,
        table: Mapping[str, int] | None = None,
        *,
        casing: bool = False,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"{tokenizer.name_or_path}: expected a fast tokenizer (tokenizer.json), which maps "
                f"sub-tokens to tokens; found {type(tokenizer).__name__}"
            )
        first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        last = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if first is None or last is None or tokenizer.unk_token_id is None or tokenizer.pad_token_id is None:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer lacks one of the special tokens cls, sep, unk "
                "and pad; choose an encoder of the BERT or RoBERTa kind"
            )
        room = limits.max_length - 3
        if room < 4:
            raise UserError(f"train.max_length: {limits.max_length} sub-tokens leave no room for a tweet; at least 16")
        self.tokenizer, self.limits, self.table, self.casing = tokenizer, limits, table, casing
        self.visuals: Visuals | None = None
        self.further: Mapping[str, int] = {}
        self.pad_id: int = tokenizer.pad_token_id
        self._first, self._last, self._unknown = int(first), int(last), int(tokenizer.unk_token_id)
        self._special = set(tokenizer.all_special_ids) - {self._unknown}

    def show(self, visuals: Visuals, facts: Mapping[str, Any]) -> None:
        """Look up what the pictures of cross-modal views give as tensors.

        Args:
            visuals: where they are.
            facts: those of the tagger that is to read them (:meth:`ner.visual.Visuals.facts`).

        Raises:
            UserError: the features are not of the kind that the tagger was trained with.
        """
        visuals.fit(facts)
        self.visuals = visuals

    def words(self, tokens: Iterable[str]) -> dict[str, list[int]]:
        """Sub-tokens of each distinct token, never none and never a special token, whatever the token spells.

        A token of which the tokenizer leaves nothing (U+200B, say) becomes the unknown sub-token.
        """
        distinct = list(dict.fromkeys(tokens))
        if not distinct:
            return {}
        # One pre-tokenised sentence: the tokenizer treats its words one by one, without a call for each.
        encoded = self.tokenizer(
            distinct,
            is_split_into_words=True,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        pieces: dict[str, list[int]] = {token: [] for token in distinct}
        for word, piece in zip(encoded.word_ids(), encoded["input_ids"], strict=True):
            pieces[distinct[word]].append(self._harmless(piece))
        if self.limits.short_addresses:
            pieces |= {token: pieces[token][:1] for token in filter(_ADDRESS.match, pieces)}
        return {token: ids or [self._unknown] for token, ids in pieces.items()}

    def encode(self, views: Sequence[View], *, with_context: bool) -> list[EncodedView]:
        """Encode views, `with_context` as cross-modal, else as text-only (as an empty context does either way)."""
        words = self.words(token for view in views for token in view.tokens)
        contexts = self._contexts([view.context if with_context else "" for view in views])
        encoded = [self._encode(view, words, *context) for view, context in zip(views, contexts, strict=True)]
        if not with_context or self.visuals is None:
            return encoded
        visuals = map(self.visuals.of, views)
        return [replace(each, visual=visual) for each, visual in zip(encoded, visuals, strict=True)]

    def _harmless(self, piece: int) -> int:
        """A SentencePiece vocabulary has `</s>` as an ordinary piece, too: text that spells it becomes unknown."""
        return self._unknown if piece in self._special else piece

    def _contexts(self, texts: list[str]) -> list[tuple[str, list[int], list[int]]]:
        """(text, sub-tokens, end of each in the text), cut to max_context."""
        wanted = [index for index, text in enumerate(texts) if text]
        result: list[tuple[str, list[int], list[int]]] = [(text, [], []) for text in texts]
        if not wanted or not self.limits.max_context:
            return result
        encoded = self.tokenizer(
            [texts[index] for index in wanted],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        limit = self.limits.max_context
        for index, ids, offsets in zip(wanted, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            result[index] = (
                texts[index],
                [self._harmless(piece) for piece in ids[:limit]],
                [end for _, end in offsets[:limit]],
            )
        return result

    def _encode(
        self, view: View, words: dict[str, list[int]], text: str, context: list[int], ends: list[int]
    ) -> EncodedView:
        tweet: list[int] = []
        firsts: list[int] = []
        for token in view.tokens:
            firsts.append(len(tweet))
            tweet += words[token]
        room = self.limits.max_length - 3  # <s>, </s> and the context's </s>
        context = context[: max(room - len(tweet), room // 2)]
        tail = [*context, self._last] if context else []
        starts, share = window_starts(len(tweet), self.limits.max_length - 2 - len(tail), self.limits.stride)
        best = [best_window(first, starts, share, len(tweet)) for first in firsts]
        scoring = {window: row for row, window in enumerate(sorted(set(best)) or [0])}
        starts, rows = [starts[window] for window in scoring], [scoring[window] for window in best]
        windows = [[self._first, *tweet[start : start + share], self._last, *tail] for start in starts]
        closings = [len(window) - 1 - len(tail) for window in windows]
        positions = [1 + first - starts[row] for first, row in zip(firsts, rows, strict=True)]
        behind = [
            min(1 + next_first - starts[row], closings[row])
            for next_first, row in zip([*firsts, len(tweet)][1:], rows, strict=True)
        ]
        used = text[: max(ends[: len(context)], default=0)]
        in_table = self._words(view, firsts, starts, windows, share)
        casing = [casing_of(token) for token in view.tokens] if self.casing else None
        return EncodedView(windows, rows, positions, behind, closings, used, in_table, casing=casing)

    def _words(
        self, view: View, firsts: Sequence[int], starts: Sequence[int], windows: Sequence[Sequence[int]], share: int
    ) -> list[list[int]] | None:
        """What stands in the table of word vectors, for each position of each window."""
        if self.table is None:
            return None
        found = [[0] * len(window) for window in windows]
        for token, first in zip(view.tokens, firsts, strict=True):
            for window, start in zip(found, starts, strict=True):
                if start <= first < start + share:
                    window[1 + first - start] = self.table.get(token) or self.further.get(token, UNKNOWN_WORD)
        return found


def window_starts(length: int, share: int, stride: int) -> tuple[list[int], int]:
    """Where the windows over `length` sub-tokens start, each taking `share` of them, `stride` shared with the next.

    Returns:
        the starts (the last window ends with the text) and the share.
    """
    if length <= share:
        return [0], share
    step = share - min(stride, share // 2)
    starts = list(range(0, length - share, step))
    return [*starts, length - share], share


def best_window(position: int, starts: Sequence[int], share: int, length: int) -> int:
    """The window in which `position` has most text around it; a window's end that is the text's own end costs none."""
    if len(starts) == 1:
        return 0

    def surroundings(window: int) -> int:
        start = starts[window]
        end = start + share
        if not start <= position < end:
            return -1
        left = length if start == 0 else position - start
        right = length if end >= length else end - 1 - position
        return min(left, right)

    return max(range(len(starts)), key=surroundings)


def collate(encoded: Sequence[EncodedView], pad_id: int) -> ViewBatch:
    """Pad encoded views to the longest of the batch."""
    import torch

    width = max(view.width for view in encoded)
    windows = [window for view in encoded for window in view.windows]
    input_ids = torch.tensor([[*window, *[pad_id] * (width - len(window))] for window in windows])
    lengths = torch.tensor([len(window) for window in windows])
    n_tokens = torch.tensor([len(view) for view in encoded])
    longest = int(n_tokens.max())
    rows: list[list[int]] = []
    positions: list[list[int]] = []
    ends: list[list[int]] = []
    tweets: list[int] = []
    for number, view in enumerate(encoded):
        n_padding = longest - len(view)
        rows.append([*(len(tweets) + row for row in view.rows), *[0] * n_padding])
        positions.append([*view.positions, *[0] * n_padding])
        ends.append([*view.ends, *[1] * n_padding])
        tweets += [number] * len(view.windows)
    attention_mask = torch.arange(width) < lengths[:, None]
    mask = torch.arange(longest) < n_tokens[:, None]
    batch = ViewBatch(
        input_ids=input_ids,
        attention_mask=attention_mask.long(),
        places=attention_mask.flatten().nonzero().squeeze(1),
        rows=torch.tensor(rows, dtype=torch.long),
        positions=torch.tensor(positions, dtype=torch.long),
        mask=mask,
        tokens=mask.flatten().nonzero().squeeze(1),
        ends=torch.tensor(ends, dtype=torch.long),
        closings=torch.tensor([closing for view in encoded for closing in view.closings]),
        tweets=torch.tensor(tweets),
    )
    words = [each for view in encoded for each in view.words or []]
    if words:
        batch["words"] = torch.tensor([[*each, *[0] * (width - len(each))] for each in words])
    casing = [torch.tensor(view.casing) for view in encoded if view.casing is not None]
    if casing:
        batch["casing"] = torch.nn.utils.rnn.pad_sequence(casing, batch_first=True)
    return batch


def length_sorted_batches(encoded: Sequence[EncodedView], batch_size: int) -> Iterator[list[int]]:
    """Indices of the views in batches of similar length, the longest first, so that little is padded.

    A view of several windows counts once for each; a view without tokens is left out.
    """
    order = sorted(
        (index for index, view in enumerate(encoded) if len(view)), key=lambda index: encoded[index].width, reverse=True
    )
    batch: list[int] = []
    n_windows = 0
    for index in order:
        more = len(encoded[index].windows)
        if batch and n_windows + more > batch_size:
            yield batch
            batch, n_windows = [], 0
        batch.append(index)
        n_windows += more
    if batch:
        yield batch
