"""Readers keep every row and every odd token, and name the line of what they cannot read."""

import csv
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.records import Post
from pipeline.corpus import conll, jsonl
from pipeline.corpus.counts import is_invisible
from pipeline.corpus.csv import read as read_csv
from pipeline.corpus.dataset import each_of_split
from pipeline.corpus.reading import unique_ids
from pipeline.corpus.relation import each_of_relation
from pipeline.corpus.report import described, report
from pipeline.settings.params import RESERVED_TYPES, SPLITS, DataParams

TWO_POSTS = "IMGID:1\nRT\tO\nJordan\tB-PER\n\nIMGID:O_2\n\u200b\tO\nNike\tI-ORG\n"


def write(folder: Path, text: str, name: str = "posts.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        TWO_POSTS,
        TWO_POSTS.replace("\n", "\r\n"),
        "\ufeff" + TWO_POSTS,
        TWO_POSTS.replace("\n\n", "\n\t\n"),
        TWO_POSTS.replace("\n\n", "\n\n\n\n") + "\n\n",
        TWO_POSTS.removesuffix("\n"),
        TWO_POSTS.replace("\tO\n", "\tO\tx\n").replace("PER\n", "PER\tx\n").replace("ORG\n", "ORG\tx\n"),
    ],
    ids=["plain", "crlf", "bom", "tab line", "blank lines", "no last newline", "third column"],
)
def test_variants_of_the_format_read_alike(tmp_path: Path, text: str) -> None:
    assert conll.read(write(tmp_path, text)) == [
        Post("1", ["RT", "Jordan"], ["O", "B-PER"], ["1.jpg"]),
        Post("O_2", ["\u200b", "Nike"], ["O", "I-ORG"], ["O_2.jpg"]),
    ]


def test_tokens_that_only_look_like_separators_survive(tmp_path: Path) -> None:
    tokens = ["\u00a0", "\u2028", "\u0085", "\x0b", " ", "\ufeff", "\ufe0f"]
    text = "IMGID:1\n" + "".join(f"{token}\tO\n" for token in tokens)
    assert conll.read(write(tmp_path, text))[0].tokens == tokens


def test_a_file_without_ids_or_labels_reads(tmp_path: Path) -> None:
    assert conll.read(write(tmp_path, "Hello\nworld\n\nBye\n")) == [
        Post("posts-1", ["Hello", "world"], None),
        Post("posts-2", ["Bye"], None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IMGID:1\nJordan\tPERSON\n", r"posts\.txt:2: 'PERSON' is no IOB2 label"),
        ("IMGID:1\na\tO\nb\n", r"posts\.txt:3: 'b' has no label"),
        ("IMGID:1\na\nb\tO\n", r"posts\.txt:3: 'b' has a label"),
        ("IMGID:1\n\tO\n", r"posts\.txt:2: no token"),
        (
            "IMGID:1\nJohn B-PER\nruns O\n",
            r"posts\.txt:2: 'John B-PER' and every other line of the post is separated by spaces; expected",
        ),
        ("John NNP B-NP B-PER\n", r"posts\.txt:1: 'John NNP B-NP B-PER' and every other line"),
        ("John B-PER NNP \n", r"posts\.txt:1: 'John B-PER NNP ' and every other line"),
        ("IMGID:1\na\tO\nb O\n", r"posts\.txt:3: 'b O' has no label"),
        ("IMGID:1\na\tB-total\n", r"posts\.txt:2: 'B-total': .*give the type another name: data\.types: \{total: …\}"),
        ("a\tB-LOC\u00a0\n", r"posts\.txt:1: 'B-LOC\\xa0': white space around the label"),
        ("a\tB-</script>\n", r"posts\.txt:1: 'B-</script>': .* has '<' \(U\+003C\) in it; expected letters"),
        ("a\tB-O\n", r"posts\.txt:1: 'B-O': no type may be called O"),
        ("IMGID:\na\tO\n", r"posts\.txt:1: IMGID: without an id"),
        ("IMGID:1\n\nIMGID:2\na\tO\n", r"posts\.txt:1: post 1 has no tokens; expected"),
        ("a\tO\n\n\nIMGID:1\nIMGID:2\n", r"posts\.txt:4: post 1 has no tokens; expected"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        conll.read(write(tmp_path, text))


def test_a_token_with_a_space_is_a_token_where_not_all_lines_look_like_labelled_ones(tmp_path: Path) -> None:
    tokens = ["New York", " ", "a ", "B-PER", "O", "x B-", "Jean\u00a0O", "Jackie O"]
    assert conll.read(write(tmp_path, "\n".join(tokens)))[0].tokens == tokens
    labelled = "".join(f"{token} O\tO\n" for token in tokens)
    assert conll.read(write(tmp_path, labelled))[0].tokens == [f"{token} O" for token in tokens]


@pytest.mark.parametrize("name", RESERVED_TYPES)
def test_a_type_that_means_something_else_in_counts_is_refused_unless_renamed(tmp_path: Path, name: str) -> None:
    texts = {
        "conll": f"IMGID:1\na\tO\nb\tI-{name}\n",
        "csv": f"id,tokens,labels\n1,a b,O I-{name}\n",
        "jsonl": json.dumps({"id": "1", "tokens": ["a", "b"], "labels": ["O", f"I-{name}"]}),
    }
    for form, text in texts.items():
        write(tmp_path, text, f"posts.{form}")
        data = DataParams.model_validate(
            {"root": tmp_path, "format": form, "train": [f"posts.{form}"], "types": {name: "OTHER"}}
        )
        assert next(each_of_split(data, "train")).labels == ["O", "I-OTHER"]
        with pytest.raises(UserError, match=rf"posts\.{form}:\d: 'I-{name}': .*data\.types: \{{{name}: …\}}"):
            list(each_of_split(data.model_copy(update={"types": {}}), "train"))


def test_types_are_named_in_any_script_and_one_renamed_to_o_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, "a\tB-स्थान_1.x-y\nb\tB-OTHER\nc\tI-OTHER\nd\tB-a/b\n")
    assert conll.read(path, types={"OTHER": "O", "a/b": "a.b"})[0].labels == ["B-स्थान_1.x-y", "O", "O", "B-a.b"]


def test_many_malformed_lines_make_one_short_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        conll.read(write(tmp_path, "IMGID:1\n" + "x\tQ\n" * 100))
    assert str(error.value).count("\n") == 5
    assert "95 more" in str(error.value)


def test_bytes_that_are_not_utf8_are_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes("IMGID:1\ncafé\tO\n".encode("latin1"))
    with pytest.raises(UserError, match=r"latin1\.txt:2: not UTF-8 .*iconv"):
        conll.read(path)


def test_jsonl_reads_and_names_its_mistakes(tmp_path: Path) -> None:
    rows = ['{"id": 7, "tokens": ["a"], "labels": ["O"]}', "", '{"id": "x", "tokens": ["b"], "image": null}', ""]
    good = write(tmp_path, "\n".join(rows))
    assert jsonl.read(good) == [Post("7", ["a"], ["O"], ["7.jpg"]), Post("x", ["b"], None)]
    bad = write(tmp_path, '{"id": "1", "tokens": ["a"], "labels": ["O", "O"]}\n[]\n{"id": "1"}\n{', "bad.jsonl")
    with pytest.raises(UserError) as error:
        jsonl.read(bad)
    message = str(error.value)
    assert [f"bad.jsonl:{line}:" in message for line in (1, 2, 3, 4)] == [True] * 4


def test_a_text_in_jsonl_is_split_and_takes_no_labels(tmp_path: Path) -> None:
    good = write(tmp_path, '{"id": "1", "text": "I love @nike\\u2028:)"}\n', "good.jsonl")
    assert jsonl.read(good) == [Post("1", ["I", "love", "@nike", ":)"], None, ["1.jpg"])]
    rows = [
        '{"id": "1", "text": "a", "labels": ["O"]}',
        '{"id": "1", "text": "a", "tokens": ["a"]}',
        '{"id": "1", "text": 3}',
        '{"id": "1", "tokens": []}',
    ]
    for row, message in zip(
        rows,
        ("labels: a text has none", "either tokens or text", "text: expected a text, found 3", "post 1 has no tokens"),
        strict=True,
    ):
        with pytest.raises(UserError, match=rf"bad\.jsonl:1: .*{message}"):
            jsonl.read(write(tmp_path, row, "bad.jsonl"))


TWEETS = 'id,created_at,text,image\n790,2016,"Hello, ""world""\n@nike !",790.png\n791,2016,Bye,\n'


@pytest.mark.parametrize(
    "text",
    [
        TWEETS,
        "\ufeff" + TWEETS,
        TWEETS.replace("\n", "\r\n"),
        TWEETS.removesuffix("\n"),
        TWEETS.replace("\n791", "\n\n791"),
    ],
    ids=["plain", "bom", "crlf", "no last newline", "blank line"],
)
def test_csv_of_a_tweet_dump(tmp_path: Path, text: str) -> None:
    assert read_csv(write(tmp_path, text)) == [
        Post("790", ["Hello", ",", '"', "world", '"', "@nike", "!"], None, ["790.png"]),
        Post("791", ["Bye"], None),
    ]


def test_csv_of_labelled_tokens(tmp_path: Path) -> None:
    text = "labels,tokens,id\nO B-LOC I-LOC,in  New\u00a0 York,1\n,Bye,2\n"
    assert read_csv(write(tmp_path, text)) == [
        Post("1", ["in", "New\u00a0", "York"], ["O", "B-LOC", "I-LOC"], ["1.jpg"]),
        Post("2", ["Bye"], None, ["2.jpg"]),
    ]
    bioes = write(tmp_path, "id,tokens,labels\n1,New York,B-LOC E-LOC\n")
    assert read_csv(bioes, scheme="bioes", image_name=None) == [Post("1", ["New", "York"], ["B-LOC", "I-LOC"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", None),
        ("id,tokens\n", None),
        ("id;text\n1;a\n", r"t\.csv:1: expected a header with the columns id, .*found 'id;text'"),
        ("text\na\n", r"t\.csv:1: expected a header"),
        ("id,text,tokens\n1,a,a\n", r"t\.csv:1: .*either text or tokens"),
        ("id,id,text\n1,1,a\n", r"t\.csv:1: expected a header"),
        ('id,text\n1,"a\nb"\n2,b,c\n', r"t\.csv:4: 3 fields, but the header has 2"),
        ("id,text\n1,a\n,b\n", r"t\.csv:3: id: expected a text"),
        ('id,text\n1,"a\nb\n', r"t\.csv:2: not CSV: unexpected end of data"),
        ('id,text\n1,"a"b\n', r"t\.csv:2: not CSV"),
        ("id,text,labels\n1,a b,O O\n", r"t\.csv:2: labels: a text has none"),
        ("id,tokens,labels\n1,a b,O\n", r"t\.csv:2: labels: expected null or 2"),
        ("id,tokens,labels\n1,a,PER\n", r"t\.csv:2: 'PER' is no IOB2 label"),
        ("id,tokens\n0,a\n1,  \n", r"t\.csv:3: post 1 has no tokens"),
        ("id,text\n1," + "x" * 200_000 + "\n", r"t\.csv:2: not CSV: field larger"),
    ],
)
def test_csv_names_its_mistakes(tmp_path: Path, text: str, message: str | None) -> None:
    path = write(tmp_path, text, "t.csv")
    if message is None:
        assert read_csv(path) == []
        return
    with pytest.raises(UserError, match=message):
        read_csv(path)


def test_the_format_chooses_the_reader(tmp_path: Path) -> None:
    write(tmp_path, "id,tokens,labels\n1,x,B-OTHER\n1,y,O\n", "a.csv")
    data = DataParams(root=tmp_path, format="csv", test=["a.csv"], image_name="{id}.png", types={"OTHER": "MISC"})
    assert list(each_of_split(data, "test")) == [
        Post("1", ["x"], ["B-MISC"], ["1.png"]),
        Post("1#2", ["y"], ["O"], ["1.png"]),
    ]
    assert list(each_of_split(data, "train")) == []


def test_a_split_renames_types_and_keeps_posts_that_share_an_id(tmp_path: Path) -> None:
    write(tmp_path, "IMGID:1\nx\tB-OTHER\n", "a.txt")
    write(tmp_path, "IMGID:1\ny\tI-OTHER\n", "b.txt")
    posts = list(each_of_split(DataParams(root=tmp_path, train=["a.txt", "b.txt"], types={"OTHER": "MISC"}), "train"))
    assert posts == [Post("1", ["x"], ["B-MISC"], ["1.jpg"]), Post("1#2", ["y"], ["I-MISC"], ["1.jpg"])]


TOKEN = st.text(st.characters(exclude_characters="\n\r\t", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda token: not token.lstrip("\ufeff").startswith("IMGID:")
)
LABEL = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-MISC"])
POSTS = st.lists(st.lists(st.tuples(TOKEN, LABEL), min_size=1, max_size=6), min_size=1, max_size=5)


@given(POSTS)
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, posts: list[list[tuple[str, str]]]
) -> None:
    folder = tmp_path_factory.mktemp("posts")
    text = "\n".join(
        f"IMGID:{index}\n" + "".join(f"{token}\t{label}\n" for token, label in post) for index, post in enumerate(posts)
    )
    assert [list(zip(post.tokens, post.labels or [], strict=True)) for post in conll.read(write(folder, text))] == posts
    rows = "".join(
        json.dumps({"id": str(index), "tokens": [token for token, _ in post], "labels": [label for _, label in post]})
        + "\n"
        for index, post in enumerate(posts)
    )
    assert [post.tokens for post in jsonl.read(write(folder, rows, "posts.jsonl"))] == [
        [token for token, _ in post] for post in posts
    ]


@given(
    st.lists(
        st.lists(TOKEN.filter(lambda token: " " not in token and token[0] not in "[("), min_size=1, max_size=6),
        max_size=5,
    )
)
def test_whatever_is_written_as_csv_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, posts: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("posts") / "posts.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "tokens"], *([index, " ".join(post)] for index, post in enumerate(posts))])
    assert [post.tokens for post in read_csv(path)] == posts


@given(
    st.binary(max_size=200)
    | st.text(st.sampled_from('id,textoklabs"\n\r\0;x'), max_size=80).map(lambda text: f"id,text\n{text}".encode())
)
def test_any_bytes_as_csv_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(data)
    try:
        posts = read_csv(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017  (either outcome is right)
        return
    assert all(all(post.tokens) and post.labels is None for post in posts)


@pytest.mark.parametrize(
    ("token", "invisible"),
    [("\u200b", True), ("\ufe0f", True), ("\u00a0", True), ("a", False), ("😀", False), ("😀\ufe0f", False)],
)
def test_invisible_tokens(token: str, invisible: bool) -> None:
    assert is_invisible(token) == invisible


@pytest.mark.real_data
def test_twitter2015_is_counted_to_the_entity(real_data: Path) -> None:
    data = DataParams(root=real_data / "twitter2015", train=["train.txt"], dev=["valid.txt"], test=["test.txt"])
    found = report({split: list(each_of_split(data, split)) for split in SPLITS})
    splits = found["splits"]
    assert [splits[name]["posts"] for name in splits] == [4000, 1000, 3257]
    assert [splits[name]["tokens"] for name in splits] == [64_439, 16_178, 52_822]
    assert [splits[name]["orphan_i"] for name in splits] == [186, 53, 135]
    assert {reading: splits["test"]["entities"][reading]["total"] for reading in ("conlleval", "strict")} == {
        "conlleval": 5207,
        "strict": 5072,
    }
    assert found["shared_texts"] == {"train/dev": 2, "train/test": 4, "dev/test": 3}


def test_several_pictures_of_a_post_are_read_from_every_format(tmp_path: Path) -> None:
    text = "IMGID:1_1\nIMGID:1_2\nIMGID:1_1\nHi\tO\n\nIMGID:2\nHo\tO\n"
    expected = [Post("1_1", ["Hi"], ["O"], ["1_1.jpg", "1_2.jpg"]), Post("2", ["Ho"], ["O"], ["2.jpg"])]
    assert conll.read(write(tmp_path, text)) == expected, "a picture that is named twice is one"
    rows = (
        '{"id": "1", "tokens": ["Hi"], "images": ["a.jpg", "b.png"]}\n{"id": "2", "tokens": ["Ho"], "images": []}\n'
        '{"id": "3", "tokens": ["Ha"], "images": null}\n'
    )
    assert [post.images for post in jsonl.read(write(tmp_path, rows, "a.jsonl"))] == [["a.jpg", "b.png"], [], []]
    table = "id,text,images\n1,Hi,a.jpg b.png\n2,Ho,a.jpg;c.jpg\n3,Ha,\n"
    images = [post.images for post in read_csv(write(tmp_path, table, "a.csv"))]
    assert images == [["a.jpg", "b.png"], ["a.jpg", "c.jpg"], []]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "1", "tokens": ["a"], "images": "a.jpg"}', "images: expected null or a list"),
        ('{"id": "1", "tokens": ["a"], "images": [], "image": "a.jpg"}', "expected the keys"),
        ('{"id": "a\\nb", "tokens": ["a"]}', "id: expected a text on one line"),
    ],
)
def test_pictures_and_ids_that_cannot_be_are_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"a\.jsonl:1: {message}"):
        jsonl.read(write(tmp_path, row, "a.jsonl"))


def test_a_blank_line_between_ids_leaves_a_post_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"posts\.txt:1: post 1 has no tokens"):
        conll.read(write(tmp_path, "IMGID:1\n\nIMGID:2\nHo\tO\n"))


def test_an_invalid_label_is_named_with_its_own_line_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        conll.read(write(tmp_path, "a\tQ-X\nb\tO\nc\tR\nd\tB-LOC\n"))
    assert [line.split(":")[1] for line in str(error.value).splitlines()] == ["1", "3"]


def test_a_hundred_thousand_posts_of_one_id_take_seconds() -> None:
    started = time.process_time()
    named = [post.id for post in unique_ids(Post("1", ["a"], None) for _ in range(100_000))]
    assert time.process_time() - started < 10
    assert named[:2] == ["1", "1#2"]
    assert len(set(named)) == 100_000


def test_a_limit_takes_the_first_posts_of_each_split_and_counts_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "".join(f"IMGID:{number}\nRome\tB-LOC\n\n" for number in range(9)))
    write(tmp_path, "one\ntwo words\nthree words here\n", "more.txt")
    relation = ({"id": str(number), "text": "x", "relation": number % 2} for number in range(5))
    write(tmp_path, "".join(json.dumps(row) + "\n" for row in relation), "relation.jsonl")
    files: dict[str, Any] = {"train": ["posts.txt"], "unlabelled": ["more.txt"], "relation": ["relation.jsonl"]}
    data = DataParams(root=tmp_path, limit=2, **files)
    odd: Counter[str] = Counter()
    assert [post.id for post in list(each_of_split(data, "train", odd))] == ["0", "1"]
    assert odd["beyond_limit"] == 7
    assert [post.id for post in each_of_split(data, "unlabelled")] == ["more-1", "more-2"]
    assert [post.relation for post in list(each_of_relation(data))] == [0, 1]
    assert "7 posts left out (data.limit)" in described(odd)


def test_labelled_and_unlabelled_posts_in_a_split_that_is_scored_are_named_with_their_file(tmp_path: Path) -> None:
    write(tmp_path, "IMGID:1\nRome\tB-LOC\n\nIMGID:2\nBonn\tB-LOC\n", "labelled.txt")
    write(tmp_path, "IMGID:3\nParis\n", "raw.txt")
    both = ["labelled.txt", "raw.txt"]
    data = DataParams(root=tmp_path, train=both, dev=both, test=["raw.txt"])
    assert len(list(each_of_split(data, "train"))) == 3, "those without labels are for the alignment"
    assert len(list(each_of_split(data, "test"))) == 1
    with pytest.raises(UserError, match=r"data\.dev: 1 of 3 posts have no labels, the first of them 3 of .*raw\.txt; "):
        list(each_of_split(data, "dev"))
