"""A server that really runs: what it answers, what it refuses, and the page on it."""

import asyncio
import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from sightread.serve import listen
from sightread.tagging import Sightread
from tests.conftest import ROOT

pytest.importorskip("fastapi", reason="the extra serve (fastapi, uvicorn, python-multipart) is not installed")

TEXT = "love Jordan in  Paris 😀 <b>#tbt"


class Server:
    """Where a server listens, and how it is asked."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, content (JSON where it is some) and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read().decode()
            found = {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()
        return response.status, json.loads(content) if "json" in found.get("content-type", "") else content, found

    def tag(self, posts: Any) -> tuple[int, Any]:
        body = json.dumps(posts).encode()
        return self.ask("POST", "/tag", body, {"Content-Type": "application/json"})[:2]

    def form(self, text: str, *pictures: Path) -> tuple[int, Any]:
        mark = uuid.uuid4().hex
        parts = [f'--{mark}\r\nContent-Disposition: form-data; name="text"\r\n\r\n{text}\r\n'.encode()]
        for picture in pictures:
            head = f'--{mark}\r\nContent-Disposition: form-data; name="images"; filename="{picture.name}"\r\n'
            parts.append(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + picture.read_bytes() + b"\r\n")
        body = b"".join([*parts, f"--{mark}--\r\n".encode()])
        return self.ask("POST", "/tag/form", body, {"Content-Type": f"multipart/form-data; boundary={mark}"})[:2]


@contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.serve", *map(str, arguments), "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = []
        while not (match := re.match(r"listening on http://127\.0\.0\.1:(\d+)\n", line := process.stderr.readline())):
            said.append(line)
            assert line, f"the server has ended: {said}"
        yield Server(int(match[1]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, 143, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(tagger_folder: Path, params: Path) -> Iterator[Server]:
    limits = ("--max-body", 100_000, "--max-posts", 3, "--max-characters", 50, "--max-pictures", 2)
    with serving(tagger_folder, "--params", params, *limits) as found:
        yield found


def test_posts_are_tagged_as_by_the_package(server: Server, loaded: Sightread, pictures: Path) -> None:
    picture = (pictures / "red.jpg").read_bytes()
    [wanted] = [loaded.tag(TEXT, [picture]).as_row()]
    status, found = server.tag({"posts": [{"text": TEXT, "images": [base64.b64encode(picture).decode()]}]})
    assert (status, found) == (200, {"posts": [wanted]})
    assert server.form(TEXT, pictures / "red.jpg") == (200, {"posts": [wanted]})
    status, found = server.tag({"posts": [{"tokens": ["love", "Jordan"]}, {"text": ""}]})
    assert [row["tokens"] for row in found["posts"]] == [["love", "Jordan"], []]


def test_a_picture_that_is_none_says_so_in_its_row(server: Server, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("<svg onload=alert(1)>")
    status, found = server.form("love", tmp_path / "x.jpg", pictures / "torn.jpg")
    assert status == 200
    assert [picture["status"] for picture in found["posts"][0]["pictures"]] == ["unreadable", "truncated"]


@pytest.mark.parametrize(
    ("posts", "status", "detail"),
    [
        ({"posts": [{"text": "a"}] * 4}, 413, "4 posts; at most 3"),
        ({"posts": [{"text": "a" * 51}]}, 413, "post 1: 51 characters; at most 50"),
        ({"posts": [{"tokens": ["a"] * 40}]}, 413, "post 1: 80 characters"),
        ({"posts": [{"text": "a", "images": [""] * 3}]}, 413, "post 1: 3 pictures; at most 2"),
        ({"posts": [{"text": "a", "tokens": ["a"]}]}, 422, "expected either text or tokens"),
        ({"posts": [{"text": "a", "images": ["?"]}]}, 422, "posts.0.images.0: Value error, not base64"),
        ({"posts": [{"tokens": ["a\tb"]}]}, 422, "tab"),
        ({"posts": [{"text": "\ud83d"}]}, 422, ""),
        ({"posts": [{"text": "a", "secret": "x"}]}, 422, "posts.0: Value error, 'secret': no such key"),
        ({}, 422, "body.posts"),
        ([], 422, "body"),
        ({"posts": [{"text": "a", "images": ["A" * 110_000]}]}, 413, "at most 100000"),
    ],
)
def test_what_is_too_much_or_wrong_is_refused_and_not_echoed(
    server: Server, posts: Any, status: int, detail: str
) -> None:
    found = server.tag(posts)
    assert found[0] == status
    assert detail in found[1]["detail"]
    assert len(found[1]["detail"]) < 2000


@pytest.mark.parametrize(
    ("posts", "status"),
    [
        ({"posts": [{"tokens": [0] * 9_000}]}, 422),
        ({"posts": [{"text": "a", "images": [0] * 9_000}]}, 422),
        ({"posts": [{"text": "a", **{f"k{number}": 0 for number in range(5_000)}}]}, 422),
        ({"posts": [], **{f"k{number}": 0 for number in range(5_000)}}, 422),
        ({"posts": [0] * 3}, 422),
        ({"posts": [0] * 9_000}, 413),
    ],
    ids=["tokens", "images", "keys of a post", "keys", "posts", "too many posts"],
)
def test_of_many_mistakes_the_first_is_looked_for_alone(server: Server, posts: Any, status: int) -> None:
    found = server.tag(posts)
    assert found[0] == status
    assert ";" not in found[1]["detail"].replace("; at most", "").replace("; expected", "")


def test_a_body_that_states_no_length_is_cut_off_at_the_limit(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    chunks = (b'{"posts": [' + b" " * 60_000, b" " * 60_000)
    connection.request("POST", "/tag", iter(chunks), {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_other_hosts_and_other_sites_pages_are_refused(server: Server) -> None:
    assert server.ask("GET", "/health", headers={"Host": "evil.example"})[0] == 400
    assert server.ask("GET", "/health", headers={"Host": f"localhost:{server.port}"})[0] == 200
    assert server.ask("POST", "/tag", b"{}", {"Sec-Fetch-Site": "cross-site"})[0] == 403


def test_health_metrics_and_the_interface_are_told(server: Server, pictures: Path) -> None:
    status, found, _ = server.ask("GET", "/health")
    assert (status, found["status"], found["reads"]) == (200, "ok", ["objects", "captions"])

    def posts() -> int:
        text = server.ask("GET", "/metrics")[1]
        return int(re.findall(r"^sightread_posts_total (\d+)$", text, re.MULTILINE)[0])

    before = posts()
    server.form("love", pictures / "blue.jpg")
    text = server.ask("GET", "/metrics")[1]
    assert posts() == before + 1
    assert re.search(r'^sightread_requests_total\{path="/tag/form",status="200"\} \d+$', text, re.MULTILINE)
    assert re.search(r'^sightread_pictures_total\{status="ok"\} \d+$', text, re.MULTILINE)
    assert re.search(r'^sightread_request_seconds_bucket\{le="\+Inf"\} \d+$', text, re.MULTILINE)
    server.ask("GET", '/x"y{}')
    assert 'path="other",status="404"' in server.ask("GET", "/metrics")[1]
    interface = server.ask("GET", "/openapi.json")[1]
    assert {"/tag", "/tag/form", "/health", "/metrics"} == set(interface["paths"])
    assert server.ask("GET", "/docs")[0] == 404


def test_the_page_loads_nothing_from_elsewhere_and_may_run_no_other_script(server: Server) -> None:
    status, page, headers = server.ask("GET", "/")
    assert status == 200
    assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    linked = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert linked == ["data:,", "page.css", "page.js"]
    for name in linked[1:]:
        status, content, _ = server.ask("GET", f"/{name}")
        assert status == 200
        assert not re.search(r"https?://(?!www\.w3\.org/)|innerHTML|eval\(|document\.write|url\(", content)
    assert not re.search(r"<script>|\son\w+=|style=", page)
    assert server.ask("GET", "/../server.py")[0] == 404


@pytest.mark.slow  # starts another server
def test_a_server_without_params_reads_text_alone_and_sends_away_who_would_wait(
    tagger_folder: Path, pictures: Path
) -> None:
    with serving(tagger_folder, "--device", "cpu", "--max-waiting", "1") as server:
        assert server.form("love", pictures / "red.jpg")[0] == 422
        with ThreadPoolExecutor(6) as pool:
            statuses = [each[0] for each in pool.map(server.tag, [{"posts": [{"text": "love Jordan " * 800}]}] * 6)]
        assert set(statuses) == {200, 503}


def test_a_request_that_takes_too_long_is_ended() -> None:
    from sightread.metrics import Metrics
    from sightread.server import Guard, Limits

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()  # of a client that sends nothing more

    async def nothing() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def ask() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        guard = Guard(app, Limits(seconds=0.05), Metrics(), None)
        scope = {"type": "http", "method": "POST", "path": "/tag", "headers": []}
        await asyncio.wait_for(guard(scope, nothing, send), 10)
        return sent

    start, body = asyncio.run(ask())
    assert start["status"] == 503
    assert json.loads(body["body"]) == {"detail": "not done within 0.05 seconds"}


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"--port \d+: cannot be listened on: Address already in use"):
            listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1 --port 0: cannot be listened on"):
        listen("192.0.2.1", 0)
    with pytest.raises(UserError, match="--port 70000"):
        listen("127.0.0.1", 70_000)


@pytest.mark.browser
def test_the_page_shows_boxes_captions_and_names_and_no_markup_of_strangers(
    server: Server, chromium: Any, loaded: Sightread, pictures: Path
) -> None:
    page = chromium.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.fill("#text", TEXT)
    page.set_input_files("#images", str(pictures / "red.jpg"))
    page.click("#send")
    page.wait_for_selector("#result:not([hidden])")
    wanted = loaded.tag(TEXT, [pictures / "red.jpg"])
    for place, prediction in (("#with", wanted.seen), ("#without", wanted.alone)):
        marks = page.locator(f"{place} mark").evaluate_all("all => all.map((mark) => mark.firstChild.textContent)")
        assert marks == [TEXT[entity.start_char : entity.end_char] for entity in prediction.entities] != []
    assert page.locator("#with b").count() == 0
    assert "<b>#tbt" in page.locator("#with").inner_text()
    assert page.locator("#pictures rect").count() == 1
    assert "photo of court (0.90)" in page.locator("#pictures").inner_text()
    assert page.locator("#context").inner_text() == wanted.context
    page.fill("#text", "x" * 60)
    page.click("#send")
    page.wait_for_selector("#state.error")
    assert "60 characters; at most 50" in page.locator("#state").inner_text()
    assert [each for each in complaints if "413" not in each] == []
    page.close()
