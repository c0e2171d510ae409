"""Knowledge about posts from a served model: what it is shown, what is asked again, what a run costs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.checks.slips import slips
from pipeline.core.errors import UserError
from pipeline.core.records import Post
from pipeline.core.store import Store, digest
from pipeline.engine.inputs import PostInputs
from pipeline.engine.run import Summary, run
from pipeline.extractors import _answers
from pipeline.extractors.base import WantingExtractor, Wants
from pipeline.extractors.registry import choose
from pipeline.images.pictures import Folder
from pipeline.settings import params, yaml
from pipeline.settings.params import ExecutionParams, HttpExecution, ImagesParams
from tests.conftest import ROOT
from tests.pipeline.engine.bench import figures, make_pictures, rows_of
from tests.pipeline.engine.test_posts import post
from tests.pipeline.extractors.chat_server import ChatServer, Handler, Question

PROMPT = 'Tweet: {text}. Seen: {captions}. Written: {ocr}. As JSON: {"names": []}'
EXECUTION = ExecutionParams(http=HttpExecution(requests=16, attempts=2, timeout=10))


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_answers, "FIRST_WAIT", 0.02)


def echo(handler: Handler, question: Question) -> None:
    """Behave: say what was asked, and how many pictures came with it."""
    handler.say(f" {question.prompt}\n({len(question.jpegs) if isinstance(content(question), list) else 0} pictures)")


def content(question: Question) -> Any:
    return question.body["messages"][0]["content"]


def made(server: ChatServer, **options: Any) -> Any:
    given = {"model": "a-model", "url": server.url, "prompt": PROMPT, **options}
    return choose("knowledge", {"extractor": "http", "http": given}).create(EXECUTION)


class Bench:
    """Posts with pictures and contexts, a store and an output."""

    def __init__(self, place: Path) -> None:
        self.folder, self.output, self.store = place / "images", place / "out.jsonl", Store.open(place / "store")
        self.names = make_pictures(self.folder, 3)
        self.posts: list[tuple[str | None, Post]] = [
            ("train", post("a", "see {ocr} Rome", *self.names)),
            ("test", post("b", "see Paris", self.names[0])),
            ("test", post("c", "no picture")),
            ("dev", post("c", "no picture")),
        ]
        self.words = [{"captions": "a {text}", "ocr": "STOP"}, {"captions": "a dog"}, {}, {}]

    def run(self, extractor: Any) -> Summary:
        limits = ImagesParams()
        folder, rows = Folder(self.folder, limits), rows_of(self.folder)
        inputs = PostInputs(self.posts, extractor.wants(), self.words, rows, folder, limits)
        return run("knowledge", extractor, inputs, self.output, self.store, batch_size=2)

    def said(self) -> list[tuple[str, str, str | None]]:
        rows = map(row_of, self.output.read_text(encoding="utf-8").splitlines())
        return [(row["id"], row["split"], row["knowledge"][0]["text"] if row["knowledge"] else None) for row in rows]


def row_of(line: str) -> Any:
    return json.loads(line)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_post_is_asked_about_with_what_the_prompt_names_and_once(bench: Bench) -> None:
    with ChatServer(echo) as server:
        summary = bench.run(made(server, pictures=2))
        assert figures(summary) == (3, 1, 0)
        assert len(server.questions) == 3
        assert re.search(r"; 3 requests, 300 tokens read and 21 written, \d+\.\d s$", str(summary))
        form = 'As JSON: {"names": []}'
        assert bench.said() == [
            ("a", "train", f"Tweet: see {{ocr}} Rome. Seen: a {{text}}. Written: STOP. {form} (2 pictures)"),
            ("b", "test", f"Tweet: see Paris. Seen: a dog. Written: . {form} (1 pictures)"),
            ("c", "dev", f"Tweet: no picture. Seen: . Written: . {form} (0 pictures)"),
            ("c", "test", f"Tweet: no picture. Seen: . Written: . {form} (0 pictures)"),
        ]
        again = bench.run(made(server, pictures=2))
        assert (figures(again), again.used, len(server.questions)) == ((0, 4, 0), "", 3)
    away = ChatServer(port=9)
    assert figures(bench.run(made(away, pictures=2))) == (0, 4, 0), "nor is there a need of a server"


def test_what_is_shown_anew_is_asked_anew_and_nothing_else(bench: Bench) -> None:
    with ChatServer(echo) as server:
        bench.run(made(server, pictures=1))
        bench.words[1] = {"captions": "a cat", "ocr": "", "objects": "cat"}
        assert figures(bench.run(made(server, pictures=1))) == (1, 3, 0)
        bench.words[1]["objects"] = "dog"
        assert figures(bench.run(made(server, pictures=1))) == (0, 4, 0), "which the prompt does not name"
        assert figures(bench.run(made(server, pictures=0))) == (3, 1, 0), "another question"
        assert [content(question) for question in server.questions[-1:]] == [server.questions[-1].prompt]
        bench.posts[0] = ("train", post("a", "see {ocr} Rome"))
        assert figures(bench.run(made(server, pictures=0))) == (0, 4, 0), "pictures that are not sent do not count"


def test_a_refused_or_malformed_answer_is_a_row_and_asked_again(bench: Bench) -> None:
    def odd(handler: Handler, question: Question) -> None:
        if "Rome" in question.prompt:
            handler.say(None, refusal="I will not.")
        elif "Paris" in question.prompt:
            handler.reply(200, b"{cut")
        else:
            echo(handler, question)

    with ChatServer(odd) as server:
        assert figures(bench.run(made(server))) == (1, 1, 2)
        rows = [row_of(line) for line in bench.output.read_text(encoding="utf-8").splitlines()]
        assert [row["status"] for row in rows] == ["failed", "failed", "ok", "ok"]
        assert rows[0]["error"] == "Refused: the model refuses: I will not."
        assert rows[1]["error"].startswith("Refused: malformed answer")
        server.behave = echo
        assert figures(bench.run(made(server))) == (2, 2, 0)


def test_a_post_that_shows_nothing_is_not_asked_about(bench: Bench) -> None:
    bench.posts, bench.words = [("test", Post("a", [], None, [])), ("test", post("b", "x"))], [{}, {}]
    with ChatServer(echo) as server:
        assert figures(bench.run(made(server))) == (2, 0, 0)
        assert len(server.questions) == 1
    assert bench.said()[0] == ("a", "test", None)


def test_the_prompt_says_what_is_wanted(bench: Bench) -> None:
    extractor = made(ChatServer(port=9), prompt="{text} {objects}", pictures=0)
    asks: object = extractor
    assert isinstance(asks, WantingExtractor)
    assert extractor.wants() == Wants(frozenset({"objects"}), 0)
    other = made(ChatServer(port=8), prompt="{text} {objects}", pictures=0)
    assert digest(extractor.fingerprint()) == digest(other.fingerprint()), "wherever the server is"
    more = made(ChatServer(port=9), prompt="{text} {objects}", pictures=1)
    assert digest(extractor.fingerprint()) != digest(more.fingerprint())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prompt": "{text} {caption}"},
            r"params\.yaml:7: knowledge\.http\.prompt: found .*, \{caption\} has no meaning; ",
        ),
        (
            {"prompt": "What?", "pictures": 0},
            r"knowledge\.http\.prompt: .*shows the same for every post; expected one of",
        ),
        ({"pictures": -1}, r"knowledge\.http\.pictures: found -1"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_named_with_its_line(change: dict[str, Any], message: str) -> None:
    section = {"extractor": "http", "http": {"model": "m", "prompt": "{text}", **change}}
    with pytest.raises(UserError, match=message):
        choose("knowledge", section, "params.yaml", {"knowledge.http.prompt": 7})
    assert choose("knowledge", {**section, "http": {"model": "m", "prompt": "What?"}}).options.pictures == 4


def test_a_place_that_nothing_fills_is_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = yaml.load(ROOT / "params.yaml").values
    values["knowledge"]["extractor"] = "http"
    values["knowledge"]["http"]["prompt"] = "{text} {captions} {ocr}"
    values["captions"]["extractor"], values["views"]["kinds"][:] = None, ["ocr"]
    values["data"]["images"] = None
    assert [key for key, _ in slips(params.parse(yaml.dump(values), "params.yaml"))] == [
        "knowledge.http.prompt",
        "knowledge.http.pictures",
        "knowledge.extractor",
    ]
