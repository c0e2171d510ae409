"""Readers keep every row and every odd token, and name the line of what they cannot read."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.params import SPLITS, DataParams
from pipeline.posts import Post, is_invisible, read_conll, read_posts_jsonl, read_split, report

TWO_POSTS = "IMGID:1\nRT\tO\nJordan\tB-PER\n\nIMGID:O_2\n\u200b\tO\nNike\tI-ORG\n"


def write(folder: Path, text: str, name: str = "posts.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("text", [
    TWO_POSTS,
    TWO_POSTS.replace("\n", "\r\n"),
    "\ufeff" + TWO_POSTS,
    TWO_POSTS.replace("\n\n", "\n\t\n"),
    TWO_POSTS.replace("\n\n", "\n\n\n\n") + "\n\n",
    TWO_POSTS.removesuffix("\n"),
    TWO_POSTS.replace("\tO\n", "\tO\tx\n").replace("PER\n", "PER\tx\n").replace("ORG\n", "ORG\tx\n"),
], ids=["plain", "crlf", "bom", "tab line", "blank lines", "no last newline", "third column"])
def test_variants_of_the_format_read_alike(tmp_path: Path, text: str) -> None:
    assert read_conll(write(tmp_path, text)) == [
        Post("1", ["RT", "Jordan"], ["O", "B-PER"], "1.jpg"),
        Post("O_2", ["\u200b", "Nike"], ["O", "I-ORG"], "O_2.jpg"),
    ]


def test_tokens_that_only_look_like_separators_survive(tmp_path: Path) -> None:
    tokens = ["\u00a0", "\u2028", "\u0085", "\x0b", " ", "\ufeff", "\ufe0f"]
    text = "IMGID:1\n" + "".join(f"{token}\tO\n" for token in tokens)
    assert read_conll(write(tmp_path, text))[0].tokens == tokens


def test_a_file_without_ids_or_labels_reads(tmp_path: Path) -> None:
    assert read_conll(write(tmp_path, "Hello\nworld\n\nBye\n")) == [
        Post("posts-1", ["Hello", "world"], None, None), Post("posts-2", ["Bye"], None, None)]


@pytest.mark.parametrize(("text", "message"), [
    ("IMGID:1\nJordan\tPERSON\n", r"posts\.txt:2: 'PERSON' is no IOB2 label"),
    ("IMGID:1\na\tO\nb\n", r"posts\.txt:3: 'b' has no label"),
    ("IMGID:1\na\nb\tO\n", r"posts\.txt:3: 'b' has a label"),
    ("IMGID:1\n\tO\n", r"posts\.txt:2: no token"),
    ("IMGID:\na\tO\n", r"posts\.txt:1: IMGID: without an id"),
    ("IMGID:1\n\nIMGID:2\na\tO\n", r"posts\.txt: post 1 has no tokens"),
])
def test_malformed_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_conll(write(tmp_path, text))


def test_many_malformed_lines_make_one_short_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_conll(write(tmp_path, "IMGID:1\n" + "x\tQ\n" * 100))
    assert str(error.value).count("\n") == 5
    assert "95 more" in str(error.value)


def test_bytes_that_are_not_utf8_are_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes("IMGID:1\ncafé\tO\n".encode("latin1"))
    with pytest.raises(UserError, match=r"latin1\.txt: not UTF-8 .*iconv"):
        read_conll(path)


def test_jsonl_reads_and_names_its_mistakes(tmp_path: Path) -> None:
    rows = ['{"id": 7, "tokens": ["a"], "labels": ["O"]}', "", '{"id": "x", "tokens": ["b"], "image": null}', ""]
    good = write(tmp_path, "\n".join(rows))
    assert read_posts_jsonl(good) == [Post("7", ["a"], ["O"], "7.jpg"), Post("x", ["b"], None, None)]
    bad = write(tmp_path, '{"id": "1", "tokens": ["a"], "labels": ["O", "O"]}\n[]\n{"id": "1"}\n{', "bad.jsonl")
    with pytest.raises(UserError) as error:
        read_posts_jsonl(bad)
    message = str(error.value)
    assert [f"bad.jsonl:{line}:" in message for line in (1, 2, 3, 4)] == [True] * 4


def test_a_split_renames_types_and_keeps_posts_that_share_an_id(tmp_path: Path) -> None:
    write(tmp_path, "IMGID:1\nx\tB-OTHER\n", "a.txt")
    write(tmp_path, "IMGID:1\ny\tI-OTHER\n", "b.txt")
    posts = read_split(DataParams(root=tmp_path, train=["a.txt", "b.txt"], types={"OTHER": "MISC"}), "train")
    assert posts == [Post("1", ["x"], ["B-MISC"], "1.jpg"), Post("1#2", ["y"], ["I-MISC"], "1.jpg")]


TOKEN = st.text(st.characters(exclude_characters="\n\r\t", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda token: not token.startswith("IMGID:"))
LABEL = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-MISC"])
POSTS = st.lists(st.lists(st.tuples(TOKEN, LABEL), min_size=1, max_size=6), min_size=1, max_size=5)


@given(POSTS)
def test_whatever_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory,
                                          posts: list[list[tuple[str, str]]]) -> None:
    folder = tmp_path_factory.mktemp("posts")
    text = "\n".join(f"IMGID:{index}\n" + "".join(f"{token}\t{label}\n" for token, label in post)
                     for index, post in enumerate(posts))
    assert [list(zip(post.tokens, post.labels or [], strict=True)) for post in read_conll(write(folder, text))] == posts
    rows = "".join(json.dumps({"id": str(index), "tokens": [token for token, _ in post],
                               "labels": [label for _, label in post]}) + "\n" for index, post in enumerate(posts))
    assert [post.tokens for post in read_posts_jsonl(write(folder, rows, "posts.jsonl"))] == [
        [token for token, _ in post] for post in posts]


@pytest.mark.parametrize(("token", "invisible"), [("\u200b", True), ("\ufe0f", True), ("\u00a0", True), ("a", False),
                                                  ("😀", False), ("😀\ufe0f", False)])
def test_invisible_tokens(token: str, invisible: bool) -> None:
    assert is_invisible(token) == invisible


@pytest.mark.real_data
def test_twitter2015_is_counted_to_the_entity(real_data: Path) -> None:
    data = DataParams(root=real_data / "twitter2015", train=["train.txt"], dev=["valid.txt"], test=["test.txt"])
    found = report({split: read_split(data, split) for split in SPLITS})
    splits = found["splits"]
    assert [splits[name]["posts"] for name in splits] == [4000, 1000, 3257]
    assert [splits[name]["tokens"] for name in splits] == [64_439, 16_178, 52_822]
    assert [splits[name]["orphan_i"] for name in splits] == [186, 53, 135]
    assert {reading: splits["test"]["entities"][reading]["total"] for reading in ("conlleval", "strict")} == {
        "conlleval": 5207, "strict": 5072}
    assert found["shared_texts"] == {"train/dev": 2, "train/test": 4, "dev/test": 3}
