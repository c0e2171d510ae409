"""Asking a model behind a server: what is sent, what is sent again, and what each kind of bad answer becomes."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from io import BytesIO
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.extractors import _answers, _chat, _connections
from pipeline.extractors._chat import Chat, ChatOptions, Refused
from pipeline.extractors._prompts import filled
from pipeline.extractors.base import UnavailableError
from pipeline.settings.params import HttpExecution
from tests.pipeline.extractors.chat_server import Behaviour, ChatServer, Handler, Question

PICTURE = Image.new("RGB", (40, 20), (200, 30, 30))
KEY = "sk-of-the-tests-1234567890"


def options(server: ChatServer, **changes: Any) -> ChatOptions:
    return ChatOptions.model_validate({"model": "a-model", "url": server.url, "prompt": "What?", **changes})


def connected(server: ChatServer, attempts: int = 3, timeout: float = 5.0, **changes: Any) -> Chat:
    chat = Chat("captions.http", options(server, **changes), HttpExecution(attempts=attempts, timeout=timeout))
    chat.connect()
    return chat


def ask(behave: Behaviour, **changes: Any) -> str:
    with ChatServer(behave) as server:
        return connected(server, **changes).ask("What?", [PICTURE])


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_answers, "FIRST_WAIT", 0.02)
    monkeypatch.delenv(_chat.KEY, raising=False)
    monkeypatch.delenv(_chat.URL, raising=False)


def first(*behaviours: Behaviour) -> Behaviour:
    """The first questions as told, later ones as the last of them."""
    return lambda handler, question: behaviours[min(question.number, len(behaviours) - 1)](handler, question)


def fine(handler: Handler, _question: Question) -> None:
    handler.say("a red dog")


def status(code: int, body: Any = b"", **headers: str) -> Behaviour:
    return lambda handler, _question: handler.reply(code, body, **headers)


def text(said: str | None, finish_reason: str = "stop", **message: Any) -> Behaviour:
    return lambda handler, _question: handler.say(said, finish_reason, **message)


def cut_off(handler: Handler, _question: Question) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.abort()


def cut_off_in_chunks(handler: Handler, _question: Question) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'd\r\n{"choices": [\r\n')
    handler.abort()


def silent(handler: Handler, _question: Question) -> None:
    handler.abort()


def babble(handler: Handler, _question: Question) -> None:
    handler.wfile.write(b"hello\r\n")
    handler.abort()


def test_a_question_says_all_that_params_say() -> None:
    with ChatServer(fine) as server:
        chat = connected(
            server, temperature=0.5, seed=3, max_tokens=9, max_side=16, extra={"top_k": 5, "seed": None, "stop": ["\n"]}
        )
        schema = {"type": "json_object"}
        assert chat.ask("What is {that}?", [PICTURE, Image.new("RGB", (8, 4))], schema) == "a red dog"
        [question] = server.questions
    assert {key: value for key, value in question.body.items() if key != "messages"} == {
        "model": "a-model",
        "temperature": 0.5,
        "max_tokens": 9,
        "response_format": schema,
        "top_k": 5,
        "stop": ["\n"],
    }
    assert question.prompt == "What is {that}?"
    assert len(question.jpegs) == 2
    assert "Authorization" not in question.headers
    sizes = []
    for jpeg in question.jpegs:
        with Image.open(BytesIO(jpeg)) as sent:
            sizes.append((sent.format, sent.size))
    assert sizes == [("JPEG", (16, 8)), ("JPEG", (8, 4))]


def test_a_post_may_be_asked_about_without_a_picture() -> None:
    with ChatServer(fine) as server:
        connected(server).ask("Who is Brooklyn?")
    assert server.questions[0].body["messages"] == [{"role": "user", "content": "Who is Brooklyn?"}]


def test_a_template_is_filled_once() -> None:
    values = {"text": "I {objects} you", "objects": "a dog"}
    assert filled('{text}: {objects}{ocr} {"a": 1} {other}', values) == 'I {objects} you: a dog {"a": 1} {other}'


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (None, {}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
        ("reasoning_effort", {"reasoning_effort": "none"}),
    ],
)
def test_thinking_is_switched_off_as_the_server_wants_it(how: str | None, expected: dict[str, Any]) -> None:
    with ChatServer(fine) as server:
        connected(server, thinking_off=how).ask("What?")
    body = server.questions[0].body
    assert {key: body[key] for key in ("chat_template_kwargs", "reasoning_effort") if key in body} == expected


def test_what_was_thought_is_no_part_of_the_answer() -> None:
    assert ask(text("<think>Perhaps a cat?</think>\n\na dog")) == "a dog"
    assert ask(text("Perhaps a cat?</think>a dog")) == "a dog"
    with pytest.raises(Refused, match=r"an empty answer .*length.*; see thinking_off and max_tokens"):
        ask(text("<think>Perhaps a cat? Or", "length"))


PASSING: dict[str, Behaviour] = {
    "500": status(500, {"error": {"message": "CUDA error"}}),
    "503": status(503, {"error": {"message": "Loading model"}}),
    "429": status(429, {"error": {"message": "slow down"}}),
    "408": status(408),
    "closed without a word": silent,
    "cut off": cut_off,
    "cut off in chunks": cut_off_in_chunks,
    "no HTTP": babble,
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again(name: str) -> None:
    with ChatServer(first(PASSING[name], PASSING[name], fine)) as server:
        chat = connected(server)
        assert chat.ask("What?", [PICTURE]) == "a red dog"
        assert len(server.questions) == 3
        # A connection that was open already and is closed without a word says nothing of a request.
        count = 2 if name == "closed without a word" else 3
        assert chat.used().startswith(f"{count} requests, 100 tokens read and 7 written, ")


@pytest.mark.parametrize("date", [False, True])
def test_the_server_says_when_to_come_again(date: bool) -> None:
    times: list[float] = []

    def busy(handler: Handler, question: Question) -> None:
        times.append(time.time())
        asked = formatdate(time.time() + 2, usegmt=True) if date else "1"
        status(429, b"", Retry_After=asked)(handler, question) if question.number == 0 else fine(handler, question)

    assert ask(busy) == "a red dog"
    assert times[1] - times[0] >= 0.99


def test_requests_wait_longer_each_time_and_not_all_alike() -> None:
    waits = [[_answers.pause(attempt, None) for attempt in range(12)] for _ in range(20)]
    assert all(0.5 <= longer / shorter <= 8 for row in waits for shorter, longer in pairwise(row))
    assert len({row[0] for row in waits}) > 10
    assert max(map(max, waits)) <= _answers.LONGEST_WAIT
    assert _answers.pause(0, 10_000.0) <= _answers.LONGEST_ASKED + 1


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        (status(400, {"error": {"message": "image too small"}}), "^400: image too small$"),
        (status(422, {"detail": "no seed, please"}), "^422: no seed, please$"),
        (status(413, b"<html>too large</html>"), "^413: <html>too large</html>$"),
        (status(200, b"<html>hello</html>"), "malformed answer: <html>hello</html> .*JSON"),
        (
            status(200, {"error": {"message": "no more credits"}}),
            r"malformed answer: no more credits \(choices: missing\)",
        ),
        (status(200, {"choices": []}), "malformed answer"),
        (status(200, b"[" * 100_000), "malformed answer"),
        (text(None, refusal="I will not."), "the model refuses: I will not"),
        (text("a", "content_filter"), "the model refuses: content filter"),
        (text(None), "an empty answer"),
        (text(" \n"), "an empty answer"),
    ],
)
def test_a_refused_or_malformed_answer_is_of_this_question_alone(behave: Behaviour, message: str) -> None:
    with ChatServer(first(behave, fine)) as server:
        chat = connected(server)
        with pytest.raises(Refused, match=message):
            chat.ask("What?", [PICTURE])
        assert len(server.questions) == 1, "it is not sent again"
        assert chat.ask("What?", [PICTURE]) == "a red dog"


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    sent = [0]

    def endless(handler: Handler, _question: Question) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        while True:  # until the reader goes
            handler.wfile.write(b" " * 100_000)
            sent[0] += 100_000

    for behave in (endless, status(200, b" " * (_connections.MOST_BYTES + 1))):
        with pytest.raises(Refused, match="more than 4,000,000 bytes"):
            ask(behave)
    assert sent[0] < 20 * _connections.MOST_BYTES


def drip(handler: Handler, _question: Question) -> None:
    """A byte now and then, which would keep any time-out between two bytes from passing."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\nX-Long: " + b"x" * 900:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.02)


def hang(handler: Handler, _question: Question) -> None:
    time.sleep(0.8)
    handler.abort()


@pytest.mark.parametrize("behave", [drip, hang])
def test_a_request_ends_when_its_time_is_up(behave: Behaviour) -> None:
    """As this is not the server's state, which lists its models, the question is given up, not the run."""
    with ChatServer(behave) as server:
        chat = connected(server, attempts=2, timeout=0.3)
        begin = time.monotonic()
        with pytest.raises(Refused, match=r"TimeoutError: no whole answer within 0\.3 s \(2 attempts\)"):
            chat.ask("What?", [PICTURE])
        assert time.monotonic() - begin < 2.5


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_chat.KEY, KEY)
    with ChatServer() as elsewhere, ChatServer(status(307, b"", Location=f"{elsewhere.url}/{KEY}")) as server:
        chat = connected(server)
        with pytest.raises(UnavailableError, match=r"redirects to http://127.*/…, which is not followed"):
            chat.ask("What?", [PICTURE])
    assert not elsewhere.questions


def test_a_model_that_the_server_has_not_ends_the_run_and_those_it_has_are_named() -> None:
    missing = status(404, {"object": "error", "message": "The model `a-model` does not exist.", "code": 404})
    with ChatServer(missing, models=("one", "two")) as server:
        chat = connected(server)
        for _ in range(2):
            with pytest.raises(
                UnavailableError,
                match=r"which serves one, two, answered 404: The model `a-model` does not exist\.; check captions\.http"
                r"\.model \(a-model\)",
            ):
                chat.ask("What?", [PICTURE])
        assert len(server.questions) == 1, "nothing is asked once that is known"


def test_fields_of_the_extractors_own_are_not_overwritten() -> None:
    for name in ("model", "messages", "stream", "n", "response_format"):
        with pytest.raises(ValueError, match=f"{name}: set by the extractor"):
            ChatOptions(model="m", prompt="p", extra={name: "x"})


def test_a_server_that_is_not_there_is_seen_before_the_first_question() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ChatServer() as server:
        other = options(server, url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(UserError, match=rf"no server answers at http://127\.0\.0\.1:{port}/v1: ConnectionRefused"):
        Chat("ocr.http", other, HttpExecution()).connect()


def test_a_server_that_lists_no_models_will_do() -> None:
    with ChatServer(fine, models=()) as server:
        assert connected(server).ask("What?") == "a red dog"


def test_when_the_server_is_gone_all_questions_end_at_once() -> None:
    """And none of them is anybody's fault."""
    with ChatServer(silent) as server:
        chat = connected(server, attempts=4)
        server.models = None
        with ThreadPoolExecutor(8) as pool:
            errors = [pool.submit(chat.ask, "What?").exception() for _ in range(40)]
        assert {type(error) for error in errors} == {UnavailableError}
        assert len({str(error) for error in errors}) == 1
        assert len(server.questions) <= 8 * 4, "those that waited are not sent"


def test_too_many_requests_for_too_long_are_not_the_pictures_fault() -> None:
    with ChatServer(status(429, {"error": {"message": "quota exceeded"}})) as server:
        chat = connected(server)
        with pytest.raises(UnavailableError, match=r"does not answer: 429: quota exceeded \(3 attempts\)"):
            chat.ask("What?")


def test_a_picture_that_breaks_the_server_each_time_costs_itself() -> None:
    """While the server is there for others, or at least lists its models, the run goes on."""

    def allergic(handler: Handler, question: Question) -> None:
        (silent if question.prompt == "bad" else fine)(handler, question)

    with ChatServer(allergic) as server:
        chat = connected(server)
        with pytest.raises(Refused, match=r"RemoteDisconnected.*\(3 attempts\)"):
            chat.ask("bad")
        assert chat.ask("good") == "a red dog"


def test_a_connection_is_used_again_and_one_that_was_closed_costs_no_attempt() -> None:
    ports: list[int] = []

    def once(handler: Handler, question: Question) -> None:
        ports.append(handler.client_address[1])
        fine(handler, question)
        if question.number == 2:
            handler.close_connection = True

    with ChatServer(once) as server:
        chat = connected(server, attempts=1)
        for _ in range(5):
            assert chat.ask("What?") == "a red dog"
    assert ports[0] == ports[1] == ports[2]
    assert ports[3] == ports[4] != ports[0]


def test_closing_ends_what_is_being_asked() -> None:
    asked = threading.Event()

    def never(_handler: Handler, _question: Question) -> None:
        asked.set()
        time.sleep(1.5)

    with ChatServer(never) as server:
        chat = connected(server, timeout=60)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(chat.ask, "What?")
            assert asked.wait(10)
            begin = time.monotonic()
            chat.close()
            with pytest.raises(UnavailableError, match="closed"):
                future.result(10)
            assert time.monotonic() - begin < 1
        server.behave = fine
        chat.connect()
        assert chat.ask("What?") == "a red dog", "and connecting begins anew"


def test_tokens_that_are_not_reported_are_not_counted() -> None:
    reply = {"choices": [{"message": {"content": "a dog"}}]}
    with ChatServer(status(200, reply)) as server:
        chat = connected(server)
        assert chat.used() == ""
        chat.ask("What?")
        assert chat.used().startswith("1 request, tokens not reported, 0.")
