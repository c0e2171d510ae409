"""Very long posts in training: pieces that lose nothing, cut no entity, and take the memory of ordinary posts."""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ner.bioes import to_scheme
from ner.models.folder import load_tokenizer
from ner.training.pieces import MOST_WINDOWS, in_pieces, taken
from ner.training.run import train
from ner.views import ViewEncoder, WindowLimits
from pipeline.core.errors import UserError
from pipeline.core.records import View
from tests.conftest import ROOT
from tests.ner.conftest import ambiguous_views, small_params

WORDS = ["love", "Jordan", "Paris", "in", "the", "\u200b", "bookbinding", "</s>"]


def long_post(n_tokens: int, seed: int = 0, identifier: str = "long") -> View:
    """Tokens of all lengths; entities of up to five tokens, side by side and orphans among them."""
    rng = random.Random(seed)
    labels: list[str] = []
    while len(labels) < n_tokens:
        kind = rng.choice(["PER", "LOC"])
        first = rng.choice("BBI")
        labels += rng.choice([["O"], ["O"] * 3, [f"{first}-{kind}", *[f"I-{kind}"] * rng.randrange(5)]])
    return View(
        identifier, [rng.choice(WORDS) for _ in range(n_tokens)], labels[:n_tokens], "photo of court", ["a.jpg"]
    )


@pytest.fixture(scope="module")
def tokenizer(xlm_r_folder: Path) -> object:
    return load_tokenizer(xlm_r_folder, local_files_only=True)


@pytest.mark.parametrize("limits", [(32, 12, 8), (64, 0, 30), (64, 40, 0), (16, 256, 128), (64, 256, 128)])
@pytest.mark.parametrize("n_tokens", [1, 30, 200, 2000])
def test_pieces_lose_nothing_cut_no_entity_and_take_one_window(
    tokenizer: object, limits: tuple[int, int, int], n_tokens: int
) -> None:
    views = ViewEncoder(tokenizer, WindowLimits(*limits))
    posts = [long_post(n_tokens), View("short", ["in", "Paris"], ["O", "B-LOC"], "")]
    pieces, [short] = in_pieces(posts, views)
    assert short is posts[1]
    assert list(itertools.chain.from_iterable(piece.tokens for piece in pieces)) == posts[0].tokens
    labels = [to_scheme(piece.labels or []) for piece in pieces]
    assert list(itertools.chain.from_iterable(labels)) == to_scheme(posts[0].labels or []), "an entity was cut"
    assert {(piece.id, piece.context, *piece.images) for piece in pieces} == {("long", "photo of court", "a.jpg")}
    if len(pieces) == 1:
        assert pieces[0] is posts[0]
    for encoded in (views.encode(pieces, with_context=with_context) for with_context in (False, True)):
        n_windows = [len(view.windows) for view in encoded]
        if len(pieces) == 1:
            assert n_windows[0] <= MOST_WINDOWS
        elif limits[0] > 16:  # of which a single entity takes several
            assert n_windows.count(1) > 0.9 * len(pieces)
            assert max(n_windows) <= MOST_WINDOWS


def test_where_a_post_is_cut_follows_from_windows_alone(tokenizer: object) -> None:
    views = ViewEncoder(tokenizer, WindowLimits(32, 12, 8))
    n_pieces = len(views.words(["love"])["love"])
    most = taken(MOST_WINDOWS, views.limits) // n_pieces
    for n_tokens, expected in ((most, 1), (most + 1, -(-(most + 1) // (taken(1, views.limits) // n_pieces)))):
        post = View("p", ["love"] * n_tokens, ["O"] * n_tokens, "x" * 100)
        assert len(in_pieces([post], views)[0]) == expected
        [encoded] = views.encode([post], with_context=True)
        assert (len(encoded.windows) <= MOST_WINDOWS) == (expected == 1)


def test_an_entity_that_no_piece_could_hold_is_named(tokenizer: object) -> None:
    views = ViewEncoder(tokenizer, WindowLimits(32, 12, 8))
    labels = ["O", "O", "B-LOC", *["I-LOC"] * 999, "O"]
    with pytest.raises(UserError, match=r"post odd has an entity of 1000 tokens \(LOC, from token 3\).*at most 44"):
        in_pieces([View("odd", ["love"] * len(labels), labels, "")], views)


def test_a_long_post_is_counted_and_told_again_by_whoever_takes_the_tagger(
    xlm_r_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posts = [*ambiguous_views(20, seed=0), long_post(300)]
    results = []
    for name in ("one", "two"):
        results.append(
            train(
                small_params(xlm_r_folder, epochs=1),
                encoder=xlm_r_folder,
                train=posts,
                dev=ambiguous_views(8, seed=1),
                output=tmp_path / name,
                work=tmp_path / "work",
                curves=None,
                device="cpu",
            )
        )
    said = capsys.readouterr().err
    cut = results[0]["cut"]
    assert f"train: 1 of 21 posts, longer than 4 encoder windows, are trained as {cut['pieces']} pieces" in said
    assert "the longest is post long, 300 tokens" in said
    assert cut["posts"] == 1
    assert cut["pieces"] > 20
    assert results[1] == results[0]
    assert "its tagger is taken from" in said


MEMORY = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from ner.training.run import train
from pipeline.core.records import View
from tests.ner.conftest import ambiguous_views, small_params
from tests.ner.training.test_pieces import long_post
encoder, folder = sys.argv[1], Path(sys.argv[2])
params = small_params(Path(encoder), epochs=1, max_length=64, views="text_only")
giant = View("giant", ["love", "giant" * 20_000, "Paris"], ["O", "O", "B-LOC"], "")
for name, long in (("ordinary", [long_post(24, seed) for seed in range(8)]), ("giant", [giant]),
                   ("long", [long_post(10_000)])):
    train(params, encoder=encoder, train=[*ambiguous_views(16, 0), *long], dev=ambiguous_views(4, 1),
          output=folder / name / "tagger", work=folder / name / "work", curves=None, device="cpu")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow  # three starts of torch
def test_a_giant_token_or_10_000_tokens_take_the_memory_of_ordinary_ones(xlm_r_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(xlm_r_folder), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=True,
    )
    ordinary, giant, long = (int(line) // 1024 for line in done.stdout.split())
    assert giant < ordinary + 80, f"{giant} MB, {ordinary} MB without the token"
    assert long < ordinary + 80, f"{long} MB, {ordinary} MB without the line"
