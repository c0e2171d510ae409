"""The windows of a view for an encoder pass: all of them, some of them, or so many at a time that they fit memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ner.views import ViewBatch

# Encoder passes without gradients take at most so many sub-tokens at once, so that a tweet of many windows fits memory.
MAX_SUBTOKENS_AT_ONCE = 32_768


class Windows(NamedTuple):
    """W windows of at most S sub-tokens, T in all, and the N tokens that are scored in them, in order."""

    input_ids: Tensor
    """sub-tokens, *Shape:* (W, S)."""
    attention_mask: Tensor
    """1 on sub-tokens, 0 on padding, *Shape:* (W, S)."""
    places: Tensor
    """positions of the sub-tokens in the flattened windows, *Shape:* (T,)."""
    closings: Tensor
    """the position of the special token behind each window's part of the tweet, *Shape:* (W,)."""
    tweets: Tensor
    """the tweet that each window is of, *Shape:* (W,)."""
    firsts: Tensor
    """each token's first sub-token, of the T, *Shape:* (N,)."""
    ends: Tensor
    """one behind each token's last sub-token, of the T, *Shape:* (N,)."""
    one_each: bool = False
    """whether they are those of all tweets of a batch, in order, one of each."""

    @property
    def starts(self) -> Tensor:
        """Each window's first sub-token, of the T, *Shape:* (W,)."""
        lengths = self.attention_mask.sum(1)
        return lengths.cumsum(0) - lengths


def windows_of(view: ViewBatch) -> Windows:
    """All windows of a view, and all its tokens."""
    tokens = view["tokens"]
    rows, positions, ends = (view[name].flatten()[tokens] for name in ("rows", "positions", "ends"))
    every = _without_tokens(view)
    starts = every.starts[rows]
    return every._replace(firsts=starts + positions, ends=starts + ends)


def first_windows(view: ViewBatch, tweets: Tensor) -> Windows:
    """The first window of each of some tweets, without tokens.

    Args:
        view: B tweets.
        tweets: some of them, in order, *Shape:* (P,).
    """
    every = _without_tokens(view)
    if every.one_each and len(tweets) == len(every.tweets):
        return every
    return _some(every, torch.searchsorted(every.tweets, tweets))


def token_vectors(
    view: ViewBatch, encode: Callable[[Windows], Tensor], extra: int = 0, most: int | None = None
) -> Tensor:
    """A vector for each token; without gradients, from as many passes as memory asks for.

    Args:
        view: B tweets of at most L tokens.
        encode: gives windows' N tokens their vectors, *Shape:* (N, width).
        extra: what a window may have beside its sub-tokens.
        most: sub-tokens of one pass; None: MAX_SUBTOKENS_AT_ONCE.

    Returns:
        vectors, zeros on padding, *Shape:* (B, L, width).
    """
    windows, tokens = windows_of(view), view["tokens"]
    if in_one_go(view, extra, most):
        return _laid_out(encode(windows), tokens, view["mask"])
    at_once = max(1, (most or MAX_SUBTOKENS_AT_ONCE) // (view["input_ids"].shape[1] + extra))
    rows = view["rows"].flatten()[tokens]
    vectors, order = [], []
    for begin in range(0, len(windows.tweets), at_once):
        here = torch.arange(begin, min(begin + at_once, len(windows.tweets)), device=tokens.device)
        scored = ((rows >= begin) & (rows < begin + at_once)).nonzero().squeeze(1)
        if len(scored):
            vectors.append(encode(_some(windows, here, scored)))
            order.append(tokens[scored])
    return _laid_out(torch.cat(vectors), torch.cat(order), view["mask"])


def in_one_go(view: ViewBatch, extra: int = 0, most: int | None = None) -> bool:
    """Whether one pass is to read all windows of a view; `extra` and `most` as of :func:`token_vectors`."""
    n_windows, width = view["input_ids"].shape
    return torch.is_grad_enabled() or n_windows * (width + extra) <= (most or MAX_SUBTOKENS_AT_ONCE)


def mean_over_tokens(hidden: Tensor, windows: Windows) -> Tensor:
    """The mean of each token's sub-tokens.

    Args:
        hidden: of the windows' sub-tokens, *Shape:* (T, width).
        windows: of which tokens come in order.

    Returns:
        means, *Shape:* (N, width).
    """
    n_tokens, sub_tokens = len(windows.firsts), torch.arange(len(hidden), device=hidden.device)
    token = torch.searchsorted(windows.firsts, sub_tokens, right=True) - 1
    inside = (token >= 0) & (sub_tokens < windows.ends[token])
    sums = hidden.new_zeros(n_tokens + 1, hidden.shape[1])
    sums = sums.index_add(0, torch.where(inside, token, n_tokens), hidden)[:n_tokens]
    return sums / (windows.ends - windows.firsts).unsqueeze(1).to(hidden.dtype)


def _without_tokens(view: ViewBatch) -> Windows:
    nothing = view["tokens"][:0]
    one_each = len(view["tweets"]) == len(view["mask"])
    parts = (view["input_ids"], view["attention_mask"], view["places"], view["closings"], view["tweets"])
    return Windows(*parts, nothing, nothing, one_each)


def _some(windows: Windows, wanted: Tensor, tokens: Tensor | None = None) -> Windows:
    """Some windows, in order, with those of the tokens that are scored in them (None: without tokens)."""
    mask = windows.attention_mask[wanted]
    some = Windows(
        windows.input_ids[wanted],
        mask,
        mask.flatten().nonzero().squeeze(1),
        windows.closings[wanted],
        windows.tweets[wanted],
        wanted[:0],
        wanted[:0],
    )
    if tokens is None:
        return some
    before = windows.starts[wanted[0]]
    return some._replace(firsts=windows.firsts[tokens] - before, ends=windows.ends[tokens] - before)


def _laid_out(vectors: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    laid = vectors.new_zeros(mask.numel(), vectors.shape[-1])
    return laid.index_copy(0, tokens, vectors).view(*mask.shape, -1)
