"""What the report's tests share: runs to report, and a browser to look at them with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.settings.params import Condition
from tests.project import Project
from tests.reporting.made import MadePost, finish, project


def tag(label: str, box: list[float], score: float = 0.9) -> dict[str, Any]:
    return {"label": label, "attribute": None, "score": score, "box": box}


POSTS = [
    MadePost(
        "guitar",
        ["finally", "Jordan", "in", "New", "York", "!"],
        ["O", "B-PER", "O", "B-LOC", "I-LOC", "O"],
        (640, 480),
        [tag("guitar", [40, 60, 300, 420]), tag("dog", [320, 200, 600, 470], 0.7)],
        ["a dog beside a guitar"],
        [{"text": "LIVE TONIGHT", "score": 0.98, "polygon": [[100, 400], [400, 410], [398, 450], [98, 440]]}],
    ),
    MadePost("gone", ["nothing", "here"], ["O", "O"], "missing"),
    MadePost("torn", ["Paris", "again"], ["B-LOC", "O"], "broken"),
    MadePost("plain", ["no", "picture", "of", "Rome"], ["O", "O", "O", "B-LOC"], None),
    MadePost(
        "orphan", ["Bank", "of", "\u200b", "England"], ["I-ORG", "I-ORG", "O", "B-ORG"], (60, 90), [], ["a house"]
    ),
    MadePost("long", ["see", "Berlin"], ["O", "B-LOC"], (200, 100), [], ["words " * 200]),
]


RELATIONS = {"guitar": 0.9134, "orphan": 0.2, "long": 0.4999, "torn": 0.5}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small run with a post of every kind, and its report."""
    return finish(
        project(
            tmp_path_factory.mktemp("report") / "run",
            {
                "test": POSTS,
                "dev": [
                    MadePost(
                        f"dev{number}", ["Rome", "and", "Bob"], ["B-LOC", "O", "B-PER"], (80, 60), [], ["a street"]
                    )
                    for number in range(30)
                ],
            },
            evaluate={"conditions": list(get_args(Condition)), "noised_share": 0.25},
        ),
        told={post: {"relation": value} for post, value in RELATIONS.items()},
    )


@pytest.fixture(scope="session")
def page(made: Project) -> str:
    """The small run's page."""
    return (made.folder / "report/index.html").read_text(encoding="utf-8")


class Opened:
    """A report opened from disk, with all that the browser complained of or asked for."""

    def __init__(self, browser: Any, folder: Path, fragment: str = "", **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.url = (folder / "report/index.html").as_uri()
        self.page.goto(self.url + fragment)

    def _dismiss(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def ids(self) -> list[str]:
        """The ids of the posts shown."""
        return list(self.page.locator("article h3 .id").all_text_contents())

    def choose(self, name: str, value: str) -> list[str]:
        """Choose in one of the gallery's lists."""
        self.page.locator(f"#f-{name}").select_option(value)
        return self.ids()

    def count(self) -> str:
        """What the line above the posts says."""
        return str(self.page.locator("#count").text_content())


Open = Callable[..., Opened]


@pytest.fixture
def open_report(chromium: Any) -> Iterator[Any]:
    """Open a project's report; see :class:`Opened`."""
    opened: list[Opened] = []

    def open_one(project: Project, fragment: str = "", **context: Any) -> Opened:
        opened.append(Opened(chromium, project.folder, fragment, **context))
        return opened[-1]

    yield open_one
    for one in opened:
        one.context.close()
