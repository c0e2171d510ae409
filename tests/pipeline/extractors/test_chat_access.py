"""Where the server of a model is, and with which key it is asked: both told in time, and the key never shown."""

import pytest

from pipeline.core.errors import UserError
from pipeline.extractors import _chat
from pipeline.extractors._chat import ChatOptions, Refused
from pipeline.extractors.base import UnavailableError
from tests.pipeline.extractors.chat_server import ChatServer, Handler, Question
from tests.pipeline.extractors.test_chat import KEY, PICTURE, _no_long_waits, ask, connected, options  # noqa: F401


@pytest.mark.parametrize(("key", "remedy"), [("", "wants a key; put it into"), (KEY, "does not accept the key in")])
def test_a_key_that_is_missing_or_wrong_ends_the_run(key: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_chat.KEY, key)

    def forbid(handler: Handler, question: Question) -> None:
        handler.reply(401, {"error": {"message": f"no: {question.headers.get('Authorization')}"}})

    with ChatServer(forbid) as server:
        with pytest.raises(UnavailableError, match=f"answered 401: no: .*{remedy} {_chat.KEY}") as caught:
            connected(server).ask("What?")
        assert KEY not in str(caught.value)


def test_the_key_is_sent_and_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_chat.KEY, f" {KEY}\n")

    def echo(handler: Handler, question: Question) -> None:
        said = question.headers["Authorization"]
        assert said == f"Bearer {KEY}"
        [
            lambda: handler.say(f"a sign that says {said}"),
            lambda: handler.say(None, refusal=said),
            lambda: handler.reply(400, {"error": said}),
            lambda: handler.reply(400, said.encode()),
            lambda: handler.reply(200, {"choices": said}),
            lambda: handler.reply(200, {"choices": "x" * 60 + said}),  # which a message would cut in the middle
            lambda: handler.say("dog", said),
            lambda: handler.say("", said),
        ][question.number]()

    with ChatServer(echo) as server:
        chat = connected(server)
        said = []
        for _ in range(8):
            try:
                said.append(chat.ask("What?"))
            except Refused as error:
                said.append(str(error))
    assert len(said) == 8
    assert not [message for message in said if KEY[:9] in message]


@pytest.mark.parametrize("key", ["a\nb", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_named_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_chat.KEY, key)
    with pytest.raises(UserError, match=f"^{_chat.KEY}: holds characters") as caught:
        ChatOptions(model="m", prompt="p", url="http://localhost/v1").require()
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/v1",
        "file:///etc/passwd",
        "localhost:8000",
        "http://",
        f"http://me:{KEY}@example.org/v1",
        f"https://example.org/v1?key={KEY}",
        "http://example.org/v1#x",
        "http://example.org/a b",
        "http://example.org:99999/v1",
        "http://exämple.org/",
    ],
)
def test_an_address_is_http_without_secrets(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In params it is a mistake of params (whose message does not repeat it), in the environment likewise."""
    monkeypatch.setenv(_chat.URL, url)
    with pytest.raises(UserError, match=f"^{_chat.URL}: ") as caught:
        ChatOptions(model="m", prompt="p").require()
    assert KEY not in str(caught.value)


def test_without_an_address_the_variable_is_named() -> None:
    with pytest.raises(UserError, match=rf"http\.url: null, and {_chat.URL} is not set"):
        ChatOptions(model="m", prompt="p").require()


def test_params_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_chat.URL, "https://[::1]:8000/v1/")
    assert str(ChatOptions(model="m", prompt="p").address()) == "https://[::1]:8000/v1"
    assert str(ChatOptions(model="m", prompt="p", url="http://here/v1").address()) == "http://here/v1"
