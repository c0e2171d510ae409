"""The context string made of what extractors find."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contexts.template import render, render_post
from pipeline.core.kinds import ObjectTemplate, TextTemplate
from pipeline.core.records import Caption, Note, ObjectTag, TextLine
from pipeline.settings.params import VIEWS, ViewsParams


def views(
    kinds: tuple[str, ...] = ("objects", "captions", "ocr"), separator: str = " . ", **changes: object
) -> ViewsParams:
    return VIEWS.model_validate(
        {
            "kinds": list(kinds),
            "separator": separator,
            "objects": ObjectTemplate.model_validate({"max": 12, **changes}),
            "captions": TextTemplate(max=1),
            "ocr": TextTemplate(max=8),
        }
    )


TAGS = [
    ObjectTag("dog", "black", 0.9),
    ObjectTag("Dog", "Black", 0.8),
    ObjectTag("man", None, 0.7),
    ObjectTag("dog", None, None),
    ObjectTag("cat", "white", 0.3),
]
FOUND: Mapping[str, Sequence[Any]] = {"objects": TAGS}


def test_kinds_stand_in_the_order_of_the_template() -> None:
    parts: Mapping[str, Sequence[Any]] = {
        "objects": [ObjectTag("dog", "black", 0.9)],
        "captions": [Caption("a dog runs", 0.8)],
        "ocr": [TextLine("STOP", 0.9), TextLine("NOW", 0.8)],
    }
    assert render(views(), parts) == "black dog . a dog runs . STOP NOW"
    assert render(views(("ocr", "objects"), " | "), parts) == "STOP NOW | black dog"
    assert render(views(("captions",)), parts) == "a dog runs"
    assert render(views(), {"captions": [Caption("a dog")], "ocr": []}) == "a dog", (
        "no separator around a kind without items"
    )
    assert render(views(), {}) == ""
    assert render(views(()), parts) == ""


def test_duplicates_are_dropped_counted_or_kept() -> None:
    assert render(views(duplicates="drop"), FOUND) == "black dog man dog white cat"
    assert render(views(duplicates="count"), FOUND) == "2 black dog man dog white cat"
    assert render(views(duplicates="keep"), FOUND) == "black dog Black Dog man dog white cat"
    assert render(views(duplicates="count", attributes=False), FOUND) == "3 dog man cat"


def test_at_most_max_distinct_items_stand() -> None:
    assert render(views(max=2), FOUND) == "black dog man"
    assert render(views(max=2, duplicates="keep"), FOUND) == "black dog Black Dog"
    assert render(views(), {"captions": [Caption("one"), Caption("two")]}) == "one"


def test_scores_below_the_threshold_are_left_out_and_no_score_passes() -> None:
    assert render(views(min_score=0.7, separator=" ", duplicates="keep"), FOUND) == "black dog Black Dog man dog"
    assert render(views(min_score=0.95), FOUND) == "dog"


def test_separators_are_the_templates() -> None:
    template = VIEWS.model_validate(
        {
            "kinds": ["objects", "ocr"],
            "separator": " </s> ",
            "objects": ObjectTemplate(max=3, separator=", "),
            "captions": TextTemplate(max=1),
            "ocr": TextTemplate(max=3, separator=" / "),
        }
    )
    found: Mapping[str, Sequence[Any]] = {
        "objects": [ObjectTag("a"), ObjectTag("b")],
        "ocr": [TextLine("C"), TextLine("D")],
    }
    assert render(template, found) == "a, b </s> C / D"


def test_a_context_is_one_clean_line() -> None:
    dirty = [TextLine("two\nlines"), TextLine(" \t "), TextLine("a\0b\u2028c\x85d\ufeff"), TextLine("\u3000wide\u00a0")]
    assert render(views(), {"ocr": dirty}) == "two lines a b c d wide"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert render(views(), {"ocr": [TextLine(family)]}) == family, "joiners are what some emoji are made with"
    assert render(views(separator="\n"), {"objects": [ObjectTag("a")], "captions": [Caption("b")]}) == "a b"


def test_the_contexts_of_a_posts_pictures_stand_in_their_order() -> None:
    pictures: list[Mapping[str, Sequence[Any]]] = [
        {"captions": [Caption("a dog")]},
        {},
        {"ocr": [TextLine("STOP")]},
        {"captions": [Caption("a cat")]},
    ]
    assert render_post(views(), pictures) == "a dog . STOP . a cat"
    few = views().model_copy(update={"max_images": 2, "image_separator": " | "})
    assert render_post(few, pictures) == "a dog | STOP", "a picture without a context takes no place"
    assert render_post(views(), []) == ""


def test_what_is_said_of_the_post_stands_once_where_the_template_has_it() -> None:
    pictures: list[Mapping[str, Sequence[Any]]] = [{"captions": [Caption("a dog")]}, {"ocr": [TextLine("STOP")]}]
    said = {"knowledge": [Note("Rome\n(place)"), Note("another")]}
    assert render_post(views(("captions", "ocr", "knowledge")), pictures, said) == "a dog . STOP . Rome (place)"
    assert render_post(views(("knowledge", "captions")), pictures, said) == "Rome (place) . a dog"
    assert render_post(views(("ocr", "knowledge", "captions")), pictures, said) == "STOP . Rome (place) . a dog"
    assert render_post(views(("knowledge",)), [], said) == "Rome (place)", "a post without pictures"
    assert render_post(views(), pictures, said) == "a dog . STOP", "a template without it"
    more = views(("knowledge",)).model_copy(update={"knowledge": TextTemplate(max=2, separator=" / ")})
    assert render_post(more, [], said) == "Rome (place) / another"
