"""Views as tensors: separators, windows, hostile text, and tokens that stay aligned whatever happens."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ner.models.folder import load_tokenizer
from ner.views import ViewEncoder, WindowLimits, best_window, collate, length_sorted_batches, window_starts
from pipeline.core.records import View


def encoder(folder: Path, max_length: int = 32, max_context: int = 12, stride: int = 8) -> ViewEncoder:
    return ViewEncoder(load_tokenizer(folder, local_files_only=True), WindowLimits(max_length, max_context, stride))


def view(text: str, context: str = "") -> View:
    return View("1", text.split(" "), None, context)


def test_cross_modal_view_is_tweet_separator_context(xlm_r_folder: Path) -> None:
    views = encoder(xlm_r_folder)
    tokenizer = views.tokenizer
    [encoded] = views.encode([view("love Jordan", "photo of the court")], with_context=True)
    assert tokenizer.convert_ids_to_tokens(encoded.windows[0]) == [
        "<s>",
        "▁love",
        "▁Jordan",
        "</s>",
        "▁photo",
        "▁of",
        "▁the",
        "▁court",
        "</s>",
    ]
    assert encoded.positions == [1, 2]
    assert encoded.context_used == "photo of the court"
    assert encoded.windows[0][:4] == tokenizer(["love", "Jordan"], is_split_into_words=True)["input_ids"]


def test_text_only_view_equals_the_view_with_an_empty_context(xlm_r_folder: Path) -> None:
    views = encoder(xlm_r_folder)
    post, bare = view("love Jordan", "photo of the court"), view("love Jordan")
    assert views.encode([post], with_context=False) == views.encode([bare], with_context=True)
    assert views.encode([bare], with_context=True)[0].windows[0][-1] == views.tokenizer.sep_token_id


def test_bert_gets_its_own_separator(bert_folder: Path) -> None:
    views = encoder(bert_folder)
    [encoded] = views.encode([view("love Jordan", "court")], with_context=True)
    assert views.tokenizer.convert_ids_to_tokens(encoded.windows[0]) == [
        "[CLS]",
        "love",
        "jordan",
        "[SEP]",
        "court",
        "[SEP]",
    ]


def test_positions_point_at_first_subtokens(xlm_r_folder: Path) -> None:
    views = encoder(xlm_r_folder)
    [encoded] = views.encode([view("xyz Jordan ab")], with_context=False)
    pieces = views.tokenizer.convert_ids_to_tokens(encoded.windows[0])
    assert [pieces[position] for position in encoded.positions] == ["▁", "▁Jordan", "▁"]


@pytest.mark.parametrize("folder", ["xlm_r_folder", "bert_folder"])
@pytest.mark.parametrize("token", ["</s>", "<s>", "<mask>", "a</s>b", "[SEP]", "[MASK]", "<pad>", "[PAD]", "x<mask>"])
def test_text_that_spells_a_special_token_is_none(folder: str, token: str, request: pytest.FixtureRequest) -> None:
    views = encoder(request.getfixturevalue(folder), max_length=64, max_context=30)
    tokenizer = views.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    [encoded] = views.encode([view(f"love {token} Jordan", f"photo {token} of")], with_context=True)
    body = [piece for piece in encoded.windows[0] if piece in special]
    assert len(body) == 3  # the frame's own, and no more
    assert len(encoded) == 3
    assert encoded.context_used == f"photo {token} of"


@pytest.mark.parametrize("folder", ["xlm_r_folder", "bert_folder"])
@pytest.mark.parametrize("token", ["\u200b", "\ufeff", "\u00a0", "\ufe0f", "\ufffd", "\u200d", "😀", "\u2028"])
def test_a_token_of_no_subtoken_does_not_shift_the_others(
    folder: str, token: str, request: pytest.FixtureRequest
) -> None:
    views = encoder(request.getfixturevalue(folder))
    post = View("1", ["love", token, "Jordan"], None, "")
    [encoded] = views.encode([post], with_context=False)
    [without] = views.encode([view("love Jordan")], with_context=False)
    window = encoded.windows[0]
    assert window[encoded.positions[0]] == without.windows[0][without.positions[0]]
    assert window[encoded.positions[2]] == without.windows[0][without.positions[1]]
    assert len(set(encoded.positions)) == 3


def test_context_is_cut_to_its_budget_and_the_tweet_is_not(xlm_r_folder: Path) -> None:
    views = encoder(xlm_r_folder, max_length=16, max_context=5)
    [encoded] = views.encode([view("love the Jordan", "photo of the court in desert")], with_context=True)
    assert encoded.context_used == "photo of the court in"
    assert len(encoded.windows) == 1
    # 13 sub-tokens of tweet and context fit; the tweet takes 10, the context may keep half of the window (6) at most.
    [crowded] = views.encode([view(" ".join(["Jordan"] * 10), "photo of the court in desert")], with_context=True)
    assert crowded.context_used == "photo of the court in"
    assert len(crowded.windows) == 2


def test_of_web_addresses_the_first_subtoken_alone_is_read(xlm_r_folder: Path) -> None:
    views = encoder(xlm_r_folder, max_length=64, max_context=30)
    views.limits = replace(views.limits, short_addresses=True)
    tokens = ["love", "http://t.co/Jordan", "HTTPS://Paris", "https:", "httpd", "Jordan"]
    whole = encoder(xlm_r_folder).words(tokens)
    assert views.words(tokens) == {token: ids[:1] if ":/" in token else ids for token, ids in whole.items()}
    [encoded] = views.encode([View("1", tokens[:2], None, "at http://t.co/Jordan")], with_context=True)
    assert encoded.windows[0][encoded.positions[1]] == whole[tokens[1]][0]
    assert encoded.context_used == "at http://t.co/Jordan"  # the context is read as it is


@pytest.mark.parametrize("n_tokens", [1, 7, 8, 9, 30, 200])
def test_every_token_of_a_long_tweet_is_scored_once_and_in_place(xlm_r_folder: Path, n_tokens: int) -> None:
    views = encoder(xlm_r_folder, max_length=16, max_context=5, stride=4)
    tokens = [("Jordan", "Paris", "love", "ab")[index % 4] for index in range(n_tokens)]
    [encoded] = views.encode([View("1", tokens, None, "photo of the court")], with_context=True)
    words = views.words([*tokens, "photo", "of", "the", "court"])
    assert len(encoded.rows) == len(encoded.positions) == n_tokens
    for token, row, position in zip(tokens, encoded.rows, encoded.positions, strict=True):
        assert encoded.windows[row][position] == words[token][0]
    for window in encoded.windows:
        assert len(window) <= 16
        assert window[-5:-1] == [words[word][0] for word in ("photo", "of", "the", "court")]
    scored = list(zip(encoded.rows, encoded.positions, strict=True))
    assert len(set(scored)) == n_tokens
    assert scored == sorted(scored)


@pytest.mark.parametrize("text", ["", "Jordan love ", "love " * 40])
def test_a_giant_token_takes_no_windows_but_those_that_score_tokens(xlm_r_folder: Path, text: str) -> None:
    views = ViewEncoder(
        load_tokenizer(xlm_r_folder, local_files_only=True), WindowLimits(16, 5, 4), {"giant": 2, "Jordan": 3}
    )
    giant = "giant" * 20_000
    tokens = f"{text}{giant} {text}Paris".split(" ")
    [encoded] = views.encode([View("1", tokens, None, "photo of the court")], with_context=True)
    words = views.words([*tokens, "photo", "of", "the", "court"])
    assert len(words[giant]) > 10_000
    assert sorted(set(encoded.rows)) == list(range(len(encoded.windows)))
    assert len(encoded.windows) == len(encoded.closings) == len(encoded.words or []) <= len(tokens)
    assert encoded.rows == sorted(encoded.rows)
    body = [piece for token in tokens for piece in words[token]]
    starts, share = window_starts(len(body), 16 - 2 - 5, 4)
    firsts = [sum(len(words[token]) for token in tokens[:number]) for number in range(len(tokens))]
    for token, first, row, position in zip(tokens, firsts, encoded.rows, encoded.positions, strict=True):
        start = starts[best_window(first, starts, share, len(body))]
        assert encoded.windows[row][1 : encoded.closings[row]] == body[start : start + share]
        assert encoded.windows[row][position] == words[token][0]
        assert (encoded.words or [])[row][position] == {"Jordan": 3}.get(token, 1)


def test_a_token_is_scored_where_most_text_surrounds_it() -> None:
    starts, share = window_starts(20, 10, 4)
    assert (starts, share) == ([0, 6, 10], 10)
    for position in range(20):

        def margin(start: int, position: int = position) -> int:
            if not start <= position < start + share:
                return -1
            left = position - start if start else 99
            right = start + share - 1 - position if start + share < 20 else 99
            return min(left, right)

        best = best_window(position, starts, share, 20)
        assert margin(starts[best]) == max(map(margin, starts))


def test_collate_pads_and_locates(xlm_r_folder: Path) -> None:
    views = encoder(xlm_r_folder, max_length=16, stride=4)
    long, short = view(" ".join(["Jordan", "love"] * 10)), view("Paris")
    encoded = views.encode([long, short], with_context=False)
    batch = collate(encoded, views.pad_id)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(encoded[0].windows) + 1, 16)
    assert batch["mask"].sum(1).tolist() == [20, 1]
    words = views.words(["Jordan", "love", "Paris"])
    found = batch["input_ids"][batch["rows"], batch["positions"]][batch["mask"]].tolist()
    assert found == [*[words["Jordan"][0], words["love"][0]] * 10, words["Paris"][0]]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == views.pad_id).all()
    assert batch["input_ids"].flatten()[batch["places"]].tolist() == [
        piece for row in encoded for window in row.windows for piece in window
    ]
    assert batch["tokens"].tolist() == [*range(20), 20]


def test_batches_hold_every_view_once_and_count_windows(xlm_r_folder: Path) -> None:
    views = encoder(xlm_r_folder, max_length=16, stride=4)
    posts = [view(" ".join(["Jordan"] * n)) for n in (1, 40, 3, 2, 5, 9)] + [View("e", [], None, "")]
    encoded = views.encode(posts, with_context=False)
    batches = list(length_sorted_batches(encoded, 3))
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3, 4, 5]
    for batch in batches:
        assert len(batch) == 1 or sum(len(encoded[index].windows) for index in batch) <= 3
    assert torch.tensor([encoded[batch[0]].width for batch in batches]).diff().le(0).all()


def test_context_used_is_a_prefix_by_characters(xlm_r_folder: Path) -> None:
    views = encoder(xlm_r_folder, max_context=6)
    context = "photo  of 😀 Ünïcode"
    [encoded] = views.encode([view("love", context)], with_context=True)
    assert context.startswith(encoded.context_used)
    assert 0 < len(encoded.context_used) < len(context)
