"""Posts with a relation of text and picture: JSON Lines, and the CSV file of the data set that RpBERT learns from."""

import json
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.records import RelationPost
from pipeline.corpus.relation import each_of_relation
from pipeline.settings.params import DataParams


def read(folder: Path, **files: str) -> list[RelationPost]:
    names = {name: name.replace("_", ".") for name in files}
    for name, text in files.items():
        (folder / names[name]).write_text(text, encoding="utf-8")
    return list(each_of_relation(DataParams(root=folder, relation=list(names.values()))))


def test_json_lines_are_posts_with_a_relation(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "text": "What a day!", "relation": 1},
        {"id": "1", "tokens": ["so", "true"], "images": ["a.jpg", "b.jpg"], "relation": 0},
    ]
    found = read(tmp_path, posts_jsonl="\n".join(map(json.dumps, rows)))
    assert found == [
        RelationPost("1", ["What", "a", "day", "!"], ["1.jpg"], 1),
        RelationPost("1#2", ["so", "true"], ["a.jpg", "b.jpg"], 0),
    ]


def test_the_data_sets_own_csv_has_the_tweet_without_its_pictures_link(tmp_path: Path) -> None:
    text = (
        '"tweet_id","user_id","tweet","text_is_represented","image_adds","image_adds_text_repr"\n'
        '"12","5","My \\"done\\" face, see https://t.co/a https://t.co/Bc9","1","0","0"\n'
        '"13","6","two\nlines","0","1","0"\n'
    )
    first, second = read(tmp_path, data_csv=text)
    assert first == RelationPost("12", ["My", '"', "done", '"', "face", ",", "see", "https://t.co/a"], ["T12.jpg"], 0)
    assert (second.tokens, second.relation) == (["two", "lines"], 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a_jsonl", '{"id": "1", "text": "x"}', r"a.jsonl:1: relation: expected 0 or 1, found None"),
        ("a_jsonl", '{"id": "1", "text": "x", "relation": true}', r"a.jsonl:1: relation: expected 0 or 1, found True"),
        ("a_jsonl", '{"id": "1", "relation": 1}', r"a.jsonl:1: expected the keys id, either tokens or text"),
        ("a_csv", "tweet_id,image_adds\n1,0\n", r"a.csv:1: expected a header .* tweet is missing, found 'tweet_id'"),
        ("a_csv", "tweet_id,tweet,image_adds\n1,a, b,0\n", r"a.csv:2: image_adds: expected 0 or 1 and 3 fields"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, **{name: text})
