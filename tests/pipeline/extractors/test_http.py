"""Captions, lines and tags from a served model: how answers are read, what is stored, what a run costs."""

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.checks.identities import identities
from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag
from pipeline.core.store import digest
from pipeline.extractors import _answers, _chat
from pipeline.extractors._chat import Refused
from pipeline.extractors.base import UnavailableError
from pipeline.extractors.http import objects
from pipeline.extractors.registry import choose
from pipeline.settings import params, yaml
from pipeline.settings.params import ExecutionParams, HttpExecution
from tests.conftest import ROOT
from tests.pipeline.engine.bench import Bench, colour, figures
from tests.pipeline.extractors.cases import make, ready
from tests.pipeline.extractors.chat_server import Behaviour, ChatServer, Handler, Question, answer

PICTURE = Image.new("RGB", (200, 100), (200, 30, 30))


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_answers, "FIRST_WAIT", 0.02)


def section(server: ChatServer, **options: Any) -> dict[str, Any]:
    return {"extractor": "http", "http": {"model": "a-model", "url": server.url, "prompt": "What?", **options}}


def execution(requests: int = 16, attempts: int = 3) -> ExecutionParams:
    return ExecutionParams(http=HttpExecution(requests=requests, attempts=attempts, timeout=10))


def say(said: str) -> Behaviour:
    return lambda handler, _question: handler.say(said)


def read(kind: str, said: str, picture: Image.Image = PICTURE, **options: Any) -> list[Any]:
    with ChatServer(say(said)) as server:
        [items] = ready((kind, section(server, **options))).extract([picture])
    return list(items)


@pytest.mark.parametrize(
    ("said", "expected"),
    [("A dog on\n a beach.\n", "A dog on a beach."), ('"A dog."', "A dog."), ('A "dog"', 'A "dog"')],
)
def test_a_caption_is_one_line(said: str, expected: str) -> None:
    assert [caption.text for caption in read("captions", said)] == [expected]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("EXIT  12\n\n\tLAGOS \n", ["EXIT 12", "LAGOS"]),
        ("```text\nEXIT 12\nLAGOS\n```", ["EXIT 12", "LAGOS"]),
        ("NONE", []),
        ("None.\n", []),
        ("NONE\nOF US", ["NONE", "OF US"]),
    ],
)
def test_lines_are_as_the_model_gives_them(said: str, expected: list[str]) -> None:
    assert [line.text for line in read("ocr", said)] == expected


DOG, CAT = {"label": "dog", "attribute": "black"}, {"label": "cat", "attribute": ""}


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        (json.dumps({"objects": [DOG, CAT]}), ["dog", "cat"]),
        (json.dumps([DOG, CAT]), ["dog", "cat"]),
        (json.dumps(DOG), ["dog"]),
        (json.dumps({"objects": ["dog", "cat"]}), ["dog", "cat"]),
        (f"```json\n{json.dumps({'things': [DOG]})}\n```", ["dog"]),
        (f"Here it is: {json.dumps({'objects': [DOG, CAT]})} I hope it helps.", ["dog", "cat"]),
        (f"I see {json.dumps(DOG)} and {json.dumps(CAT)}", ["dog", "cat"]),
        (json.dumps({"objects": [DOG, CAT, DOG]})[:-30], ["dog", "cat"]),
        (json.dumps({"objects": [DOG, {"name": "x"}, {"label": " "}, {"label": 3}, None, 5, [CAT]]}), ["dog"]),
        ('{"objects": []}', []),
        ("[]", []),
    ],
)
def test_objects_are_read_from_what_came(said: str, labels: list[str]) -> None:
    assert [entry["label"] for entry in objects(said)] == labels


@pytest.mark.parametrize("said", ["a dog and a cat", "", "[" * 100_000, '{"a": ' * 50_000])
def test_an_answer_without_json_is_refused(said: str) -> None:
    with pytest.raises(Refused, match="no JSON in the answer"):
        objects(said)


def test_tags_have_attributes_and_are_as_many_as_asked_for() -> None:
    said = json.dumps({"objects": [DOG, CAT, {"label": " old\ntown ", "attribute": 3}, DOG]})
    assert read("objects", said, max_objects=3) == [
        ObjectTag("dog", "black"),
        ObjectTag("cat"),
        ObjectTag("old town"),
    ]


@pytest.mark.parametrize(
    ("boxes", "said", "expected"),
    [
        ("thousandths", [500, 0, 1000, 500], (100.0, 0.0, 200.0, 50.0)),
        ("pixels", [25, 0, 50, 25], (100.0, 0.0, 200.0, 100.0)),  # of the picture as sent, 50 by 25
        ("thousandths", [-5, 0, 2000, 10], (0.0, 0.0, 200.0, 1.0)),
        ("thousandths", [500, 0, 500, 500], None),
        ("thousandths", [1, 2, 3], None),
        ("thousandths", [1, 2, 3, "4"], None),
        ("thousandths", [1, 2, True, 4], None),
        ("thousandths", None, None),
        (None, [500, 0, 1000, 500], None),
    ],
)
def test_boxes_are_in_pixels_of_the_picture(boxes: str | None, said: Any, expected: Any) -> None:
    with ChatServer(say(json.dumps({"objects": [{**DOG, "box": said}]}))) as server:
        [[tag]] = ready(("objects", section(server, boxes=boxes, max_side=50))).extract([PICTURE])
        [question] = server.questions
    assert tag == ObjectTag("dog", "black", None, expected)
    schema = question.body["response_format"]["json_schema"]["schema"]["properties"]["objects"]["items"]
    assert ("box" in schema["required"]) == ("[left, top, right, bottom]" in question.prompt) == (boxes is not None)
    assert ("50 wide and 25 high" in question.prompt) == (boxes == "pixels")


@pytest.mark.parametrize(
    ("response_format", "expected"), [("json_schema", "json_schema"), ("json_object", "json_object"), ("text", None)]
)
def test_the_server_is_told_of_json_as_it_can_be(response_format: str, expected: str | None) -> None:
    with ChatServer(say("[]")) as server:
        ready(("objects", section(server, response_format=response_format))).extract([PICTURE])
    assert server.questions[0].body.get("response_format", {}).get("type") == expected


CHANGES: dict[str, list[dict[str, Any]]] = {
    "captions": [
        {"model": "another"},
        {"prompt": "Who?"},
        {"max_side": 512},
        {"temperature": 0.5},
        {"seed": 1},
        {"max_tokens": 9},
        {"thinking_off": "reasoning_effort"},
        {"extra": {"top_k": 5}},
    ],
    "ocr": [{"max_tokens": 9}],
    "objects": [{"response_format": "text"}, {"boxes": "pixels"}, {"max_objects": 3}],
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_fingerprint_has_what_is_asked_and_not_where(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(**changes: Any) -> str:
        return digest(make((kind, section(ChatServer(port=1), **changes)), execution()).fingerprint())

    first = fingerprint()
    assert len({first, *(fingerprint(**change) for change in CHANGES[kind])}) == 1 + len(CHANGES[kind])
    monkeypatch.setenv(_chat.KEY, "sk-1234567890123")
    monkeypatch.setenv(_chat.URL, "http://elsewhere/v1")
    assert fingerprint(url="http://here/v1") == fingerprint(url=None) == first
    options = set(choose(kind, section(ChatServer(port=1))).cls.Options.model_fields)
    common = {key for change in CHANGES["captions"] for key in change}
    assert options - {"url"} == common | {key for change in CHANGES[kind] for key in change}


def test_where_the_server_is_stays_out_of_what_a_run_records() -> None:
    changed = choose("captions", section(ChatServer(port=1))).changed()
    assert [change.key for change in changed] == ["captions.http.model", "captions.http.prompt"]


def test_a_name_that_only_the_server_knows_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it be the path of a folder here: an inference server on this machine may call a model so."""
    monkeypatch.setenv(_chat.URL, "http://localhost/v1")
    monkeypatch.chdir(ROOT)
    values = yaml.load(ROOT / "params.yaml").values
    values["captions"]["extractor"] = "http"
    values["captions"]["http"] |= {"model": str(tmp_path), "prompt": "a/" * 1000}
    assert identities(params.parse(yaml.dump(values), "params.yaml"))["captions"]["checkpoints"] == {}


def run(bench: Bench, server: ChatServer, batch_size: int = 4, **options: Any) -> Any:
    return bench.run(make(("captions", section(server, **options)), execution()), batch_size=batch_size)


def test_what_is_stored_is_not_asked_again_and_costs_no_server(bench: Bench) -> None:
    with ChatServer() as server:
        summary = run(bench, server)
        assert figures(summary) == (20, 0, 0)
        assert len(server.questions) == 20
        assert re.search(r"; 20 requests, 2,000 tokens read and 140 written, \d+\.\d s$", str(summary))
        rows = bench.rows()
        asked = server.asked_for_models
        again = run(bench, server)
        assert (figures(again), again.used) == ((0, 20, 0), "")
        assert (len(server.questions), server.asked_for_models) == (20, asked)
    assert figures(run(bench, server, url="http://127.0.0.1:9/v1")) == (0, 20, 0), "nor is there a need of one"
    assert bench.rows() == rows


def test_a_picture_that_is_refused_is_a_row_and_asked_again_by_the_next_run(bench: Bench) -> None:
    def prudish(handler: Handler, question: Question) -> None:
        if question.number in (3, 11):
            handler.say(None, refusal="I will not.")
        else:
            answer(handler, question)

    with ChatServer(prudish) as server:
        assert figures(run(bench, server)) == (18, 0, 2)
        errors = [row["error"] for row in bench.rows().values() if row["status"] == "failed"]
        assert errors == ["Refused: the model refuses: I will not."] * 2
        assert len(server.questions) == 20, "halving a batch sends nothing again"
        server.behave = answer
        assert figures(run(bench, server)) == (2, 18, 0)
        assert len(server.questions) == 22


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_server_that_goes_away_loses_no_answer(bench: Bench, batch_size: int) -> None:
    """What it has answered is in the store, whatever batch it was for, and the next run asks for the rest alone."""
    answered: list[str] = []

    def leaves(handler: Handler, question: Question) -> None:
        if question.number == 13:
            server.models = None  # all that comes now is turned away
        if server.models is None:
            handler.abort()
            return
        answer(handler, question)
        answered.append(question.digest)

    with ChatServer(leaves) as server:
        with pytest.raises(UnavailableError, match=r"^captions\.http: http://127\S+ does not answer: .*is stored; run"):
            run(bench, server, batch_size)
        assert not bench.output.exists(), "no rows that say so of pictures"
        before, server.questions[:] = set(answered), []
        server.models, server.behave = ("a-model",), answer
        assert figures(run(bench, server, batch_size)) == (20 - len(before), len(before), 0)
        assert not before & {question.digest for question in server.questions}
    assert len(before) >= 10
    assert {row["status"] for row in bench.rows().values()} == {"ok"}


def test_a_server_that_was_never_there_ends_the_run_with_one_message(bench: Bench) -> None:
    server = ChatServer(port=9)
    with pytest.raises(UserError, match=r"captions\.http: no server answers at http://127\.0\.0\.1:9/v1"):
        run(bench, server)


def test_sixteen_are_asked_at_once_and_no_more(bench: Bench) -> None:
    """The server answers once sixteen questions are there together, so fewer would wait in vain."""
    full = [0]

    def together(handler: Handler, question: Question) -> None:
        with waiting:
            full[0] += 1
            waiting.notify_all()
            assert waiting.wait_for(lambda: full[0] >= min(16 * (question.number // 16 + 1), 20), timeout=8)
        answer(handler, question)

    waiting = threading.Condition()
    with ChatServer(together) as server:
        assert figures(run(bench, server, 16)) == (20, 0, 0)
        assert server.most_at_once == 16


def test_the_answers_stay_with_their_pictures(bench: Bench) -> None:
    """Though they come in another order."""

    def scattered(handler: Handler, question: Question) -> None:
        time.sleep(0.03 * (7 - question.number % 8))
        answer(handler, question)

    with ChatServer(scattered) as server:
        run(bench, server, 8)
    for name, row in bench.rows().items():
        with Image.open(bench.folder / name) as picture:
            expected = colour(picture.convert("RGB"))
        found = [float(word) for word in row["captions"][0]["text"].split()[1:]]
        assert all(abs(one - other) < 3 for one, other in zip(found, expected, strict=True)), name
