"""What contexts name: exact spans of texts as models write them, and what their words for types mean."""

import pytest

from ner.training.named import NamedSpans, Span, labels_of
from pipeline.settings.training import ContextSpansParams

PGIM = (
    "Named entities:1. Oprah (person/handle)2. Chicago Bulls (NBA team)3. United Center (sports venue)4. 2016 (year)"
    "5. goat (animal)Reasoning:The sentence mentions Oprah (a talk show host), who may be seen."
)


def found(tweet: str, context: str, **params: object) -> list[tuple[str, str | None]] | None:
    tokens = tweet.split()
    spans = NamedSpans(ContextSpansParams.model_validate(params)).of(tokens, context)
    return None if spans is None else [(" ".join(tokens[span.start : span.end]), span.type) for span in spans]


def test_numbered_names_with_types_are_found_in_any_case_each_time() -> None:
    assert found("OPRAH at the united center with the Chicago Bulls and a goat in 2016 . oprah !", PGIM) == [
        ("OPRAH", "PER"),
        ("united center", "LOC"),
        ("Chicago Bulls", "ORG"),
        ("goat", None),
        ("2016", "O"),
        ("oprah", "PER"),
    ]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("- Jordan (person)\n- Chicago (city)", [("Jordan", "PER"), ("Chicago", "LOC")]),
        ("* Michael Jordan (player)", []),  # in a list a name is whole
        ("Here Michael Jordan (a player) is in Chicago (city).", [("Jordan", "PER"), ("Chicago", "LOC")]),
        ("Jordan (person), Chicago (city)", [("Jordan", "PER"), ("Chicago", "LOC")]),
        ("1) Jordan (country) 2) Jordan (person)", [("Jordan", "LOC")]),  # what is said first
        ("Jordan, a person, in Chicago", None),
        ("Jordan ()", None),
        ("(person)", None),
        ("", None),
    ],
)
def test_lists_and_sentences(context: str, expected: list[tuple[str, str]] | None) -> None:
    assert found("Jordan in Chicago", context) == expected


def test_longer_names_come_first_and_do_not_overlap() -> None:
    context = "1. York (city) 2. New York (state) 3. New York Times (company) 4. Times Square (place)"
    assert found("the New York Times Square in New York", context) == [("New York Times", "ORG"), ("New York", "LOC")]


@pytest.mark.parametrize(
    ("tweet", "name", "span"),
    [
        ("#Oprah !", "Oprah", "#Oprah"),
        ("# Oprah !", "Oprah", "Oprah"),
        ("Oprah !", "#Oprah", "Oprah"),
        ("#ChicagoBulls !", "Chicago Bulls", "#ChicagoBulls"),
        ("in the U . S . today", "U.S.", "U . S"),
        ("J.K. Rowling", "J. K. Rowling", "J.K. Rowling"),
        ("Beyoncé", "Beyonce\u0301", "Beyoncé"),
        ("Straße", "STRASSE", "Straße"),
        ("東京 へ", "東京", "東京"),
    ],
)
def test_a_name_is_where_its_letters_and_digits_are(tweet: str, name: str, span: str) -> None:
    assert found(tweet, f"1. {name} (person)") == [(span, "PER")]


@pytest.mark.parametrize("tweet", ["RT @Oprah : hi", "RT @ Oprah : hi"])
def test_mentions_count_only_if_asked_for(tweet: str) -> None:
    assert found(tweet, "1. Oprah (person)") == []
    [(span, kind)] = found(tweet, "1. Oprah (person)", mentions=True) or []
    assert (span.removeprefix("@"), kind) == ("Oprah", "PER")


@pytest.mark.parametrize(
    ("words", "type_"),
    [
        ("person", "PER"),
        ("Person/Handle", "PER"),
        ("handle or person", "PER"),
        ("former NBA players", "PER"),
        ("a player for the Chicago Bulls team", "PER"),
        ("city, state of the USA", "LOC"),
        ("baseball team", "ORG"),
        ("person who leads a team", "PER"),
        ("unclear, possibly a brand", "ORG"),
        ("TV show", "MISC"),
        ("show", None),
        ("personality", None),
        ("?", None),
        ("year", "O"),
    ],
)
def test_types_in_words(words: str, type_: str | None) -> None:
    types = {**ContextSpansParams().types, "MISC": ["tv show"]}
    assert NamedSpans(ContextSpansParams(types=types)).type_of(words) == type_


def test_spans_as_labels() -> None:
    spans = [Span(0, 2, "PER", "person"), Span(2, 3, "O", "year"), Span(3, 4, None, "goat"), Span(4, 5, "LOC", "city")]
    assert labels_of(spans, 6) == ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]


def test_brackets_by_the_thousand_take_no_time() -> None:
    assert found("Jordan", "((((" * 50_000 + "1. " * 50_000 + "a " * 50_000) is None
    assert found("Jordan", "\n" * 50_000 + " " * 50_000 + "1. Jordan (person)") == [("Jordan", "PER")]
    assert found("Jordan", f"Jordan ({'a ' * 50_000}) Jordan (person)") == [("Jordan", "PER")]
    assert found("Jordan", "1. Jordan (person)" * 5_000) == [("Jordan", "PER")]


def test_type_words_may_have_commas_between_them() -> None:
    assert ContextSpansParams.model_validate({"types": {"PER": "person, stage actor"}}).types == {
        "PER": ["person", "stage actor"]
    }


def test_words_of_two_types_are_refused_and_so_is_a_table_without_words() -> None:
    with pytest.raises(ValueError, match="types: 'person' is both PER and ORG"):
        ContextSpansParams(types={"PER": ["person"], "ORG": ["person"]})
    with pytest.raises(ValueError, match="types: gives no type words"):
        ContextSpansParams(weight=1.0, types={"O": ["year"]})
