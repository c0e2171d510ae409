"""The report in a browser: opened from disk, chosen from, turned over, drawn upon, used by keyboard."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.labels import entities
from tests.project import Project
from tests.reporting.conftest import POSTS, RELATIONS, Open, Opened
from tests.reporting.made import MadePost, finish, project

pytestmark = pytest.mark.browser


def expected_ids(
    made: Project, split: str, wanted: Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], bool]
) -> set[str]:
    """Ids of the posts that a condition on (gold, cross-modal, text-only) records holds of, from the files."""
    rows = {
        name: {row["id"]: row for row in made.rows(f"data/predictions/{split}.{name}.jsonl")}
        for name in ("cross_modal", "text_only")
    }
    return {
        post["id"]
        for post in made.rows(f"data/posts/{split}.jsonl")
        if wanted(post, rows["cross_modal"][post["id"]], rows["text_only"][post["id"]])
    }


def right(post: dict[str, Any], row: dict[str, Any], kind: str | None = None) -> bool:
    gold, found = (
        {entity for entity in entities(labels, "strict") if kind in (None, entity.type)}
        for labels in (post["labels"], row["predicted"])
    )
    return gold == found


def test_it_opens_from_disk_without_complaint_or_network(made: Project, open_report: Open) -> None:
    opened = open_report(made)
    opened.page.wait_for_load_state("networkidle")
    assert opened.complaints == []
    assert opened.requests
    folder = opened.url.removesuffix("index.html")
    assert [url for url in opened.requests if not url.startswith(folder)] == []
    assert {re.sub(r"^.*/", "", url) for url in opened.requests} >= {
        "index.html",
        "report.css",
        "theme.js",
        "gallery.js",
        "posts.js",
    }
    assert opened.count() == "36 of 36 posts, 1 to 20 shown"
    assert set(opened.ids()[:6]) == {post.id for post in POSTS}, "test first"


@pytest.mark.parametrize("split", ["test", "dev"])
def test_filters_give_what_the_files_hold(made: Project, open_report: Open, split: str) -> None:
    opened = open_report(made, f"#posts?size=100&split={split}")
    shown = {show: set(opened.choose("show", show)) for show in ("errors", "right", "helped", "hurt")}
    assert shown["errors"] == expected_ids(made, split, lambda post, cross, text: not right(post, cross))
    assert shown["right"] == expected_ids(made, split, lambda post, cross, text: right(post, cross))
    assert shown["helped"] == expected_ids(
        made, split, lambda post, cross, text: right(post, cross) and not right(post, text)
    )
    assert shown["hurt"] == expected_ids(
        made, split, lambda post, cross, text: not right(post, cross) and right(post, text)
    )
    first = sorted(shown["helped"]) + sorted(shown["hurt"])
    assert opened.choose("show", "all")[: len(first)] == first, "those that the picture changed come first"
    assert opened.choose("sort", "id") == sorted(opened.ids())
    if split == "dev":
        assert all(shown.values()), "the run has posts of every kind"
        assert opened.page.locator("article .badge.hurt").count() == len(shown["hurt"])
    opened.choose("show", "errors")
    opened.page.locator("#f-type").select_option(label="LOC")
    assert set(opened.ids()) == expected_ids(made, split, lambda post, cross, text: not right(post, cross, "LOC"))


def test_pictures_search_and_scorer_choose(made: Project, open_report: Open) -> None:
    opened = open_report(made, "#posts?split=test")
    assert set(opened.choose("picture", "broken")) == {"gone", "torn"}
    assert opened.choose("picture", "missing") == ["gone"]
    assert opened.choose("picture", "none") == ["plain"]
    opened.page.get_by_role("button", name="Reset").click()
    assert opened.count().startswith("36 of 36")
    search = opened.page.get_by_label("Search")
    for words, found in (
        ("york", ["guitar"]),
        ("live tonight", ["guitar"]),
        ("GUITAR dog", ["guitar"]),
        ("england bank", ["orphan"]),
        ("no such words", []),
    ):
        search.fill(words)
        opened.page.wait_for_timeout(250)
        assert opened.ids() == found, words
    assert opened.count() == "0 of 36 posts"
    search.fill("england")
    opened.page.wait_for_timeout(250)
    gold = opened.page.locator("article .readings dd").first
    assert gold.locator("mark").all_text_contents() == ["England ORG"]
    opened.choose("scorer", "conlleval")
    assert gold.locator("mark").all_text_contents() == ["Bank of ORG", "England ORG"]
    assert "⟨U+200B⟩" in str(gold.text_content())


@pytest.mark.slow  # a run of its own
def test_a_post_with_several_pictures_shows_them_all(tmp_path: Path, open_report: Open) -> None:
    line = {"text": "LIVE", "score": 0.9, "polygon": [[5, 5], [50, 5], [50, 20], [5, 20]]}
    posts = [
        MadePost("one", ["see", "Rome"], ["O", "B-LOC"], (120, 90), [], ["a street"]),
        MadePost("two", ["and", "Bob"], ["O", "B-PER"], (90, 120), [], ["a man"], [line], also=("one",)),
    ]
    opened = open_report(finish(project(tmp_path / "run", {"test": posts})), "#posts?split=test")
    article = opened.page.locator("article").nth(1)
    assert article.locator("figure img").count() == 2
    assert article.locator("figcaption code").all_text_contents() == ["two.png", "one.png"]
    terms = article.locator(".facts dt").all_text_contents()
    assert "captions of picture 1" in terms
    assert "captions of picture 2" in terms
    assert article.locator(".facts dd").first.text_content() == "a man . LIVE . a street"
    article.get_by_role("button", name="LIVE").click()
    assert article.locator(".overlay").first.locator(".shape.shown").count() == 1
    assert article.locator(".overlay").nth(1).locator(".shape.shown").count() == 0


def test_sorting_and_paging(made: Project, open_report: Open) -> None:
    opened = open_report(made)
    first = opened.ids()
    opened.page.get_by_role("button", name="Next page").first.click()
    assert opened.count() == "36 of 36 posts, 21 to 36 shown"
    assert len(opened.ids()) == 16
    assert not set(first) & set(opened.ids())
    assert "page=2" in opened.page.url
    opened.choose("split", "test")
    opened.choose("sort", "errors")
    errors = [
        len(article.locator("dd").nth(1).locator("mark.wrong, .absent-entity").all())
        for article in opened.page.locator("article").all()
    ]
    assert errors == sorted(errors, reverse=True)
    opened.choose("sort", "context")
    assert opened.ids()[0] == "long"


def test_posts_are_chosen_and_sorted_by_their_relation(made: Project, open_report: Open) -> None:
    opened = open_report(made, "#posts?split=test")
    badges = {
        article.locator("h3 .id").text_content(): article.locator("h3 .badge", has_text="relation").all_text_contents()
        for article in opened.page.locator("article").all()
    }
    assert badges == {
        post.id: [f"relation {int(1000 * RELATIONS[post.id]) / 1000:.3f}"] if post.id in RELATIONS else []
        for post in POSTS
    }
    assert opened.choose("show", "related") == ["guitar", "torn"]
    assert opened.choose("show", "unrelated") == ["long", "orphan"]
    opened.choose("show", "all")
    assert opened.choose("sort", "related")[:4] == ["guitar", "torn", "long", "orphan"]
    assert opened.choose("sort", "unrelated")[:4] == ["orphan", "long", "torn", "guitar"]
    assert set(opened.ids()[4:]) == {"gone", "plain"}, "those without a relation come last"
    again = open_report(made, "#" + opened.page.url.partition("#")[2])
    assert again.ids() == opened.ids()


@pytest.fixture(scope="module")
def attending(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run whose tagger tells what it attends to in grids of 2 × 2, and no relation."""
    posts = [
        MadePost("one", ["see", "Rome"], ["O", "B-LOC"], (120, 80)),
        MadePost("two", ["and", "Bob"], ["O", "B-PER"], (80, 120), also=("one",)),
        MadePost("odd", ["Ann"], ["B-PER"], (80, 80)),
        MadePost("none", ["Bonn"], ["B-LOC"], (80, 80)),
    ]
    told: dict[str, dict[str, Any]] = {
        "one": {"attention": [[0.1, 0.4, 0.0, 0.2]]},
        "two": {"attention": [None, [0.02, 0.01, 0.03, 0.04]]},
        "odd": {"attention": [[0.5, 0.3]]},  # no square
    }
    return finish(project(tmp_path_factory.mktemp("attending") / "run", {"test": posts}), told=told)


def resized(made: Project, resize: str | None) -> Project:
    """The same run, as if its features had been read from pictures that were resized so."""
    record = made.folder / "metrics/runs/features.json"
    told = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(told | {"fingerprint": resize and {"resize": resize}}), encoding="utf-8")
    made.run("python", "-m", "stages.report")
    return made


class Drawn:
    """The cells that an opened report draws over pictures."""

    def __init__(self, opened: Opened) -> None:
        self.articles = {
            str(article.locator("h3 .id").text_content()): article for article in opened.page.locator("article").all()
        }

    def button(self, name: str) -> Any:
        return self.articles[name].get_by_role("button", name="on the grid")

    def cells(self, name: str, place: int = 0) -> list[Any]:
        """Left, top, width, height, as parts of the picture, and opacity of each cell, to be compared."""
        frame = self.articles[name].locator(".frame").nth(place)
        around = frame.bounding_box()
        found = []
        for cell in frame.locator(".shape.attention.shown rect").all():
            box = cell.bounding_box()
            left, width = ((box[key] - origin) / around["width"] for key, origin in (("x", around["x"]), ("width", 0)))
            top, height = (
                (box[key] - origin) / around["height"] for key, origin in (("y", around["y"]), ("height", 0))
            )
            found.append(pytest.approx([left, top, width, height, float(cell.get_attribute("fill-opacity"))], abs=0.01))
        return found


def test_attention_is_drawn_over_the_middle_of_a_picture_that_was_cropped(
    attending: Project, open_report: Open
) -> None:
    opened = open_report(resized(attending, "crop"), "#posts?split=test")
    drawn, shown = Drawn(opened), opened.page.locator(".shape.attention.shown")
    assert {name: drawn.button(name).all_text_contents() for name in drawn.articles} == {
        "one": ["on the grid 0.70"],
        "two": ["on the grid 0.10"],
        "odd": [],
        "none": [],
    }
    assert "attention of picture 2" in drawn.articles["two"].locator(".facts dt").all_text_contents()
    assert shown.count() == 0, "on demand"
    drawn.button("one").click()
    third, sixth = 1 / 3, 1 / 6  # of 120 × 80 pixels the middle 80 × 80
    assert drawn.cells("one") == [
        [sixth, 0, third, 0.5, 0.2],
        [sixth + third, 0, third, 0.5, 0.8],
        [sixth, 0.5, third, 0.5, 0],
        [sixth + third, 0.5, third, 0.5, 0.4],
    ]
    assert shown.count() == 1, "of that picture alone"


def test_attention_is_drawn_over_all_of_a_picture_that_was_squashed(attending: Project, open_report: Open) -> None:
    opened = open_report(resized(attending, "squash"), "#posts?split=test")
    opened.page.locator("#f-attention").check()
    assert "attention=1" in opened.page.url
    drawn = Drawn(opened)
    corners = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)]
    for name, place, opacities in (("one", 0, (0.2, 0.8, 0.0, 0.4)), ("two", 1, (0.4, 0.2, 0.6, 0.8))):
        wanted = [[*corner, 0.5, 0.5, opacity] for corner, opacity in zip(corners, opacities, strict=True)]
        assert drawn.cells(name, place) == wanted
    assert drawn.cells("two", 0) == []
    drawn.button("two").click()
    assert drawn.cells("two", 1) == []
    assert opened.complaints == []


def test_what_the_run_does_not_tell_can_be_neither_chosen_by_nor_drawn(attending: Project, open_report: Open) -> None:
    opened = open_report(resized(attending, None), "#posts?split=test&sort=related&show=unrelated&attention=1")
    assert opened.page.locator("article .badge", has_text="relation").count() == 0
    options = opened.page.locator("option[value=related], option[value=unrelated]").all()
    assert len(options) == 4
    for option in options:
        assert option.is_disabled()
        assert option.evaluate("node => getComputedStyle(node).display") == "none"
    assert opened.page.locator(".shape.attention, #f-attention").count() == 0, "nobody knows which part it covers"
    assert opened.complaints == []


def test_the_address_keeps_the_choice(made: Project, open_report: Open) -> None:
    opened = open_report(made)
    opened.choose("picture", "missing")
    again = open_report(made, "#" + opened.page.url.partition("#")[2])
    assert again.ids() == ["gone"]
    assert again.page.locator("#f-picture").input_value() == "missing"
    odd = open_report(made, "#posts?type=99&sort=__proto__&page=-3&size=x&show=%3Cb%3E")
    assert odd.complaints == []
    assert len(odd.ids()) == 20


def test_boxes_and_polygons_are_drawn_on_demand(made: Project, open_report: Open) -> None:
    opened = open_report(made, "#posts?q=guitar")
    shapes = opened.page.locator("article .shape.shown")
    assert shapes.count() == 0
    opened.page.get_by_role("button", name="dog 0.70").click()
    assert shapes.locator("text").all_text_contents() == ["dog"]
    opened.page.locator("#f-ocr").check()
    assert shapes.locator("text").all_text_contents() == ["LIVE TONIGHT"]
    opened.page.locator("#f-objects").check()
    assert sorted(shapes.locator("text").all_text_contents()) == ["LIVE TONIGHT", "dog", "guitar"]
    picture = opened.page.locator("article img").bounding_box()
    guitar = shapes.filter(has_text="guitar").locator("polygon").last.bounding_box()
    assert picture
    assert guitar
    scale = picture["width"] / 640  # the guitar's box is 40, 60, 300, 420, its border apart
    assert guitar["x"] + guitar["width"] / 2 - picture["x"] == pytest.approx(170 * scale, abs=2)
    assert guitar["y"] + guitar["height"] / 2 - picture["y"] == pytest.approx(240 * scale, abs=2)
    assert guitar["width"] == pytest.approx(260 * scale, abs=12)
    assert opened.page.locator("article img").evaluate("image => image.naturalWidth") == 320


def test_what_was_cut_of_a_context_is_struck_out(made: Project, open_report: Open) -> None:
    opened = open_report(made, "#posts?q=berlin")
    context = next(row["context"] for row in made.rows("data/views/test.jsonl") if row["id"] == "long")
    assert len(context) > 600
    assert opened.page.locator("article del").text_content() == context[600:]
    assert opened.page.locator("article .context").text_content() == context
    assert f"the last {len(context) - 600} characters" in str(opened.page.locator("article .facts").text_content())


def test_it_can_be_used_by_keyboard_and_told_aloud(made: Project, open_report: Open) -> None:
    opened = open_report(made)
    unnamed = opened.page.evaluate("""() => [...document.querySelectorAll("input, select, button")]
        .filter((node) => !node.labels?.length && !node.getAttribute("aria-label") && !node.textContent.trim())
        .map((node) => node.outerHTML)""")
    assert unnamed == []
    assert opened.page.get_by_role("status").text_content() == opened.count()
    assert {node.get_attribute("aria-label") for node in opened.page.get_by_role("navigation").all()} == {
        "Sections",
        "Pages of posts",
        "Pages of posts, below",
    }
    assert opened.page.evaluate(
        "[...document.querySelectorAll('[id]')].length"
        " === new Set([...document.querySelectorAll('[id]')].map((node) => node.id)).size"
    )
    assert opened.page.locator("img:not([alt])").count() == 0
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.className") == "skip"
    opened.page.get_by_role("button", name="Next page").first.focus()
    opened.page.keyboard.press("Enter")
    assert opened.count() == "36 of 36 posts, 21 to 36 shown"
    assert opened.page.evaluate("document.activeElement.tagName") == "H3", "focus goes on to the posts"
