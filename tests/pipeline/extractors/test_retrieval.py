"""Passages and training posts that are like a post: BM25 against its formula, and what must never be retrieved."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.core.records import Note, Post
from pipeline.core.store import digest
from pipeline.extractors.base import PostInput, TaughtExtractor
from pipeline.extractors.registry import choose
from pipeline.extractors.retrieval import Retrieval, best, cited, terms
from tests.conftest import ROOT

TRAIN = [
    Post("1", ["Finally", "Jordan", "!", "http://t.co/a"], ["O", "B-PER", "O", "O"]),
    Post("2", ["Jordan", "is", "a", "country"], ["B-LOC", "O", "O", "O"]),
    Post("3", ["New", "York", "is", "a", "city"], ["B-LOC", "I-LOC", "O", "O", "O"]),
    Post("4", ["nothing", "of", "it"], None),
]


def made(train: Iterable[Post] = TRAIN, **options: Any) -> Retrieval:
    extractor = choose("knowledge", {"extractor": "retrieval", "retrieval": options}).create()
    assert isinstance(extractor, Retrieval)
    assert isinstance(extractor, TaughtExtractor)
    extractor.teach(train)
    return extractor


def found(extractor: Retrieval, *texts: str) -> list[list[str]]:
    posts = [PostInput(str(number), "test", text.split(), {}) for number, text in enumerate(texts)]
    return [[note.text for note in notes] for notes in extractor.extract(posts)]


def ready(train: Sequence[Post] = TRAIN, **options: Any) -> Retrieval:
    extractor = made(train, **options)
    extractor.load()
    return extractor


def test_a_training_post_is_cited_with_its_entities() -> None:
    assert found(ready(), "#JORDAN again", "york", "unheard") == [
        ["Finally Jordan (person) ! http://t.co/a", "Jordan (place) is a country"],
        ["New York (place) is a city"],
        [],
    ]
    assert ready().extract([PostInput("x", None, ["york"], {})]) == [
        [Note("New York (place) is a city", None, "train:3")]
    ]
    post = Post("1", ["A", "B", "C", "D"], ["I-OTHER", "B-PER", "I-PER", "B-MISC"])
    assert cited(post, {"PER": "person"}) == "A (other) B C (person) D (misc)"


def test_no_post_gets_itself_or_another_of_the_same_words() -> None:
    texts = ("Finally Jordan ! http://t.co/a", "finally #jordan http://t.co/of_another", "Finally Jordan says it")
    country, itself = "Jordan (place) is a country", "Finally Jordan (person) ! http://t.co/a"
    assert found(ready(), *texts) == [[country], [country], [itself, country]]
    again = [*TRAIN, Post("5", ["FINALLY", "Jordan"], ["O", "B-LOC"])]
    assert found(ready(again), texts[0]) == [[country]]


def test_labels_of_other_splits_are_no_part_of_it() -> None:
    """Which posts are searched is the stage's to say: those of train; unlabelled ones are not."""
    assert found(ready(), "nothing of it all") == [[]]
    assert digest(made().fingerprint()) == digest(made(TRAIN[:3]).fingerprint())
    changed = [Post("1", TRAIN[0].tokens, ["O", "B-LOC", "O", "O"]), *TRAIN[1:]]
    assert digest(made().fingerprint()) != digest(made(changed).fingerprint())
    assert digest(made(training_posts=False).fingerprint()) == digest(made(changed, training_posts=False).fingerprint())


def test_passages_of_a_file(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("Jordan borders Iraq.\n\nThe River Jordan\n", encoding="utf-8")
    extractor = ready(passages=str(text), training_posts=False)
    assert extractor.extract([PostInput("x", None, ["iraq", "Jordan"], {})]) == [
        [Note("Jordan borders Iraq.", None, "a.txt:1"), Note("The River Jordan", None, "a.txt:3")]
    ]
    lines = tmp_path / "a.jsonl"
    rows = [{"text": "Jordan borders Iraq.", "source": "a book", "more": 1}, {"id": 7, "text": "ヨルダンは中東の国"}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    extractor = ready(passages=str(lines))
    notes = extractor.extract(
        [PostInput("x", None, ["Jordan", "in", "Iraq"], {}), PostInput("y", None, list("中東"), {})]
    )
    assert [note.source for note in notes[0]] == ["a book", "train:1", "train:2"]
    assert notes[1] == [Note("ヨルダンは中東の国", None, "7")]
    before = digest(extractor.fingerprint())
    lines.write_text(json.dumps({"text": "another"}) + "\n", encoding="utf-8")
    assert digest(made(passages=str(lines)).fingerprint()) != before


def test_ranks_are_bm25s_and_ties_the_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(30)]
    texts = [" ".join(rng.choice(words, int(rng.integers(1, 12)))) for _ in range(60)]
    texts += texts[:5]  # of equal scores
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf-8")
    extractor = ready(passages=str(tmp_path / "a.txt"), training_posts=False, max_notes=10, k1=1.2, b=0.6)
    for query in ("w1 w2 w3", "w4", "w5 w5 w6 unknown"):
        expected = [texts[place] for _, place in ranked(query.split(), [text.split() for text in texts], 1.2, 0.6)]
        assert found(extractor, query) == [expected[:10]]
    scores = [score for score, _ in ranked(["w1", "w2"], [text.split() for text in texts], 1.5, 0.75)]
    least = sum(sorted(set(scores), reverse=True)[3:5]) / 2
    few = ready(passages=str(tmp_path / "a.txt"), training_posts=False, max_notes=99, min_score=least)
    assert len(found(few, "w1 w2")[0]) == sum(score > least for score in scores)


def ranked(query: list[str], texts: list[list[str]], k1: float, b: float) -> list[tuple[float, int]]:
    """Scores and places of the texts that share a word with the query, by Lucene's BM25, best first."""
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        total = 0.0
        for word in dict.fromkeys(query):
            n = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
            count = text.count(word)
            total += idf * count / (count + k1 * (1 - b + b * len(text) / mean))
        scores.append(float(np.float32(total)))
    found = [(score, place) for place, score in enumerate(scores) if score > 0]
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def test_the_best_of_equals_are_the_first() -> None:
    scores = np.array([0, 1, 3, 1, 1, 2], dtype=np.float32)
    assert best(scores, 3, 0.0) == [2, 5, 1]
    assert best(scores, 9, 0.0) == [2, 5, 1, 3, 4]
    assert best(scores, 3, 1.5) == [2, 5]
    assert best(scores, 3, 9.0) == []


def test_terms_are_words_without_marks() -> None:
    tokens = ["#TBT", "@Air_Jordan", "can't", "http://t.co/x", "WWW.a.com", "!", "Ünder", "中", "23"]
    assert terms(tokens) == ("tbt", "air", "jordan", "can", "t", "ünder", "中", "23")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"title": "x"}', r'a:1: expected \{"text": text\} and perhaps "source", found the keys title'),
        ('{"text": "x", "source": []}', "a:1: expected"),
        ('{"text": "\\ud83d"}', "a:1: an unpaired surrogate"),
        ("! ?\n", "knowledge.retrieval: .*a: no words in there to search for"),
        ("", "no words in there"),
    ],
)
def test_a_file_that_cannot_be_searched_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        ready(passages=str(tmp_path / "a"), training_posts=False)


def test_training_posts_are_not_read_where_they_are_not_searched() -> None:
    def unread() -> Iterator[Post]:
        raise UserError("data/posts/train.jsonl: no such file")
        yield

    made(unread(), training_posts=False)
    with pytest.raises(UserError, match="no such file"):
        made(unread())


def test_nothing_to_search_is_said_before_or_at_loading() -> None:
    for options, message in (
        ({"training_posts": False}, "nothing to search; expected a file as `passages`, or training_posts: true"),
        ({"passages": "none.txt"}, r"retrieval\.passages: none\.txt: no such file"),
    ):
        with pytest.raises(UserError, match=message):
            choose("knowledge", {"extractor": "retrieval", "retrieval": options}).require()
    with pytest.raises(UserError, match="0 labelled training posts: no words in there"):
        ready(TRAIN[3:])


def test_notes_do_not_depend_on_the_batch_or_the_process() -> None:
    texts = ["Jordan is a city", "york york Jordan", "a", "Finally !"]
    extractor = ready()
    together = found(extractor, *texts)
    assert together == [found(extractor, text)[0] for text in texts]
    script = (
        "from tests.pipeline.extractors.test_retrieval import *\n"
        f"print(json.dumps(found(ready(), *{texts!r})), sorted({{'numba', 'jax', 'torch'}} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{json.dumps(together)} []\n"
