"""The report in a browser: opened from disk, chosen from, turned over, drawn upon, used by keyboard."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.labels import entities
from tests.project import Project
from tests.reporting.conftest import POSTS, Open
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
    assert opened.ids()[:6] == sorted(post.id for post in POSTS), "test first, in file order"


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
