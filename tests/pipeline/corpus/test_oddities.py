"""What is no part of a post is skipped and counted; what a spreadsheet or a script has spoilt is named."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.records import Post
from pipeline.corpus import conll, jsonl
from pipeline.corpus.csv import read as read_csv
from pipeline.corpus.dataset import each_of_split
from pipeline.corpus.report import ODD, described, report
from pipeline.settings.params import DataParams
from tests.robustness.conftest import light_project

NEWS = "-DOCSTART-\t-X-\t-X-\tO\n\nParis\tNNP\tB-NP\tB-LOC\nrocks\tVBZ\tB-VP\tO\n{}\nBob\tNNP\tB-NP\tB-PER\n"


def write(folder: Path, text: str, name: str = "posts.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("control", ["-DOCSTART-", "-DOCSTART- -X- O O", "\n-DOCSTART-\t-X-\t-X-\tO\n"])
def test_control_lines_end_a_post_and_are_counted(tmp_path: Path, control: str) -> None:
    odd: Counter[str] = Counter()
    posts = conll.read(write(tmp_path, NEWS.format(control)), label_column=4, odd=odd)
    assert [post.tokens for post in posts] == [["Paris", "rocks"], ["Bob"]]
    assert +odd == {"control_lines": 2}
    assert [post.tokens for post in conll.read(write(tmp_path, f"a\n{control}\nb\n"))] == [["a"], ["b"]]


def test_what_only_begins_like_a_control_line_is_a_token(tmp_path: Path) -> None:
    assert conll.read(write(tmp_path, "-DOCSTART-s\nx\n"))[0].tokens == ["-DOCSTART-s", "x"]


@pytest.mark.parametrize(
    "text",
    [
        "# id 0a1 domain=en\nParis\tB-LOC\nrocks\tO\n\n# id 0a2\tdomain=en\nBob\tB-PER\n",
        "# id 0a1 domain=en\nParis\nrocks\n\n# id 0a2\nBob\n",
        "# id 0a1\n\nIMGID:1\n# id 0a2\nParis\tB-LOC\nrocks\tO\n\nBob\tB-PER\n",
    ],
    ids=["labelled", "unlabelled", "beside IMGID"],
)
def test_comments_before_a_post_are_skipped_and_counted(tmp_path: Path, text: str) -> None:
    odd: Counter[str] = Counter()
    assert [post.tokens for post in conll.read(write(tmp_path, text), odd=odd)] == [["Paris", "rocks"], ["Bob"]]
    assert +odd == {"comment_lines": 2}


def test_a_comment_amid_a_post_is_an_error_with_its_own_line_alone(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"posts\.txt:2: '# id 0a2': a comment amid a post; expected it before"
    ) as error:
        conll.read(write(tmp_path, "a\tO\n# id 0a2\nb\tO\n"))
    assert "\n" not in str(error.value)


def test_a_labelled_token_that_looks_like_a_comment_stays(tmp_path: Path) -> None:
    assert conll.read(write(tmp_path, "# x\tO\n# y\tB-LOC\n"))[0].tokens == ["# x", "# y"]
    assert conll.read(write(tmp_path, "# x\tNN\tO\n#\tNN\tO\n"), label_column=3)[0].tokens == ["# x", "#"]


def test_prediction_reads_past_control_lines_and_comments() -> None:
    lines = enumerate(["-DOCSTART- -X- O O", "", "# id 0a1", "Hi", "-DOCSTART-", "Ho"], start=1)
    assert [post.tokens for post in conll.stream(lines, "stdin")] == [["Hi"], ["Ho"]]


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ("tokens", "\"['Finally', 'Jordan']\""),
        ("tokens", '"[""Finally"", ""Jordan""]"'),
        ("tokens", "\"['Finally' 'Jordan']\""),
        ("tokens", "\"('Finally', 'Jordan')\""),
        ("tokens", '"[Finally, Jordan]"'),
        ("tokens", "[]"),
        ("tokens,labels", "Hi,['O']"),
        ("tokens,labels", "Hi,[]"),
        ("text,images", "Hi,\"['a.jpg', 'b.jpg']\""),
    ],
)
def test_a_list_in_a_field_is_shown(tmp_path: Path, header: str, cell: str) -> None:
    with pytest.raises(UserError, match=r"t\.csv:2: (tokens|labels|images): .* is a list as Python or JSON writes it"):
        read_csv(write(tmp_path, f"id,{header}\n1,{cell}\n", "t.csv"))


@pytest.mark.parametrize("cell", ["[ Video ] Hi", "[ Video ]", "[Video]", "Hi [x]", "( 'a' )x", '"[ a , b ]"'])
def test_tokens_in_brackets_are_no_list(tmp_path: Path, cell: str) -> None:
    assert read_csv(write(tmp_path, f"id,tokens\n1,{cell}\n"))[0].tokens == cell.strip('"').split()


def test_rounded_and_repeated_ids_are_counted(tmp_path: Path) -> None:
    write(tmp_path, 'id,text\n7.91E+17,a\n7.91E+17,b\n"7,92E+17",c\n8E+17,d\n790,e\n1e,f\n', "a.csv")
    odd: Counter[str] = Counter()
    posts = list(each_of_split(DataParams(root=tmp_path, format="csv", test=["a.csv"]), "test", odd))
    assert len({post.id for post in posts}) == 6
    assert +odd == {"rounded_ids": 4, "repeated_ids": 1}


def test_ids_that_differ_in_unicode_form_alone_are_numbered_and_counted_apart(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write(tmp_path, f"id,text\n{nfd},a\n{nfc},b\n{nfd},c\n", "a.csv")
    odd: Counter[str] = Counter()
    posts = list(each_of_split(DataParams(root=tmp_path, format="csv", test=["a.csv"]), "test", odd))
    assert [(post.id, post.images) for post in posts] == [
        (nfd, [f"{nfd}.jpg"]),
        (f"{nfc}#2", [f"{nfc}.jpg"]),
        (f"{nfd}#3", [f"{nfd}.jpg"]),
    ]
    assert +odd == {"ids_in_other_forms": 1, "repeated_ids": 1}
    assert report({"train": [], "dev": [], "test": posts})["splits"]["test"]["sharing_an_image"] == 2
    assert "1 id that differs from an earlier one in Unicode form alone (NFC, NFD), numbered" in described(odd)


@pytest.mark.parametrize(
    ("ids", "rounded"),
    [
        (["791000000000123000", "791000000000456000"], 2),
        (["791000000000123000", "791000000000123000", "791000000000456000", "12"], 3),
        (["1" * 15 + "0" * 4, "2" * 15 + "0" * 4], 2),
        (["791000000000123000"], 0),
        (["791000000000123000", "791000000000456001"], 0),
        (["1234567890123450", "1234567890123460"], 0),
        (["1000", "2000", "3000"], 0),
        (["a" * 15 + "000", "b" * 15 + "000"], 0),
    ],
    ids=["two", "repeated", "19 digits", "one may be by chance", "one is not", "16 digits", "short", "no numbers"],
)
def test_ids_that_all_end_in_the_zeros_of_a_spreadsheet_are_counted(
    tmp_path: Path, ids: list[str], rounded: int
) -> None:
    """A spreadsheet keeps 15 digits of a number."""
    write(tmp_path, "id,text\n" + "".join(f"{one},a\n" for one in ids), "a.csv")
    odd: Counter[str] = Counter()
    list(each_of_split(DataParams(root=tmp_path, format="csv", test=["a.csv"]), "test", odd))
    assert odd["rounded_ids"] == rounded


def test_dropped_labels_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a\tB-LOC\nb\tB-OTHER\n\nc\tB-OTHER\nd\tI-OTHER\n", "a.txt")
    odd: Counter[str] = Counter()
    list(each_of_split(DataParams(root=tmp_path, test=["a.txt"], types={"OTHER": "O", "LOC": "PLACE"}), "test", odd))
    assert +odd == {"dropped_labels": 3}


@pytest.mark.parametrize("name", ["a b", "B/C", "<x>", "LOC\u00a0", "total", ""])
def test_a_type_is_renamed_to_what_a_type_may_be_called(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"types\.X"):
        DataParams(root=tmp_path, types={"X": name})
    assert DataParams(root=tmp_path, types={"X": "O", "Y": "स्थान_1"}).types["X"] == "O"


def test_byte_order_marks_of_joined_files_are_skipped_and_counted(tmp_path: Path) -> None:
    odd: Counter[str] = Counter()
    text = "\ufeff\ufeffIMGID:1\na\tO\n\ufeffIMGID:2\nb\tO\n\n\ufeffc\tO\n"
    posts = conll.read(write(tmp_path, text), image_name=None, odd=odd)
    assert posts == [Post("1", ["a"], ["O"]), Post("2", ["b"], ["O"]), Post("posts-3", ["c"], ["O"])]
    assert +odd == {"byte_order_marks": 3}
    row = '\ufeff{"id": "1", "tokens": ["a"], "image": null}\n'
    assert len(jsonl.read(write(tmp_path, "\ufeff" + row + row), odd=odd)) == 2
    assert len(read_csv(write(tmp_path, "\ufeff\ufeffid,text\n1,a\n"), odd=odd)) == 1
    assert odd["byte_order_marks"] == 6


def test_a_byte_order_mark_that_is_a_token_stays(tmp_path: Path) -> None:
    assert conll.read(write(tmp_path, "a\tO\n\n\ufeff\tO\n\ufeffb\tO\n"))[1].tokens == ["\ufeff", "\ufeffb"]


def test_headers_and_marks_of_joined_csv_files_are_skipped_and_counted(tmp_path: Path) -> None:
    one, other = '\ufeff"id","text"\n1,a\n', '\ufeff"id","text"\n2,"b, c\n\ufeffd"\n'
    odd: Counter[str] = Counter()
    posts = read_csv(write(tmp_path, one + other + "\ufeff" + one), odd=odd)
    assert [(post.id, post.tokens[0]) for post in posts] == [("1", "a"), ("2", "b"), ("1", "a")]
    assert any("\ufeff" in token for token in posts[1].tokens), "inside of quotes it is the tweet's own"
    assert +odd == {"byte_order_marks": 3, "repeated_headers": 2}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'id,text\n1,Hi\n2,\n3," \u200e "\n'),
        ("a.jsonl", '{"id": 1, "text": "Hi"}\n{"id": 2, "text": ""}\n{"id": 3, "text": "\\n"}\n'),
    ],
)
def test_a_blank_text_stays_a_post_and_is_counted(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, text, name)
    odd: Counter[str] = Counter()
    data = DataParams(root=tmp_path, format="csv" if name.endswith(".csv") else "jsonl", test=[name])
    posts = list(each_of_split(data, "test", odd))
    assert [(post.id, len(post.tokens)) for post in posts][:2] == [("1", 1), ("2", 0)]
    assert len(posts) == 3
    assert odd["blank_texts"] == sum(not post.tokens for post in posts) >= 1
    assert any("posts without tokens" in line or "a post without tokens" in line for line in described(odd))


def test_two_carriage_returns_before_a_line_feed_end_a_line(tmp_path: Path) -> None:
    posts = [Post("1", ["a"], ["O"], ["1.jpg"]), Post("2", ["b"], ["B-LOC"], ["2.jpg"])]
    text = "IMGID:1\na\tO\n\nIMGID:2\nb\tB-LOC\n"
    assert conll.read(write(tmp_path, text.replace("\n", "\r\r\n"))) == posts
    assert read_csv(write(tmp_path, "id,tokens,labels\n1,a,O\n2,b,B-LOC\n".replace("\n", "\r\r\n"))) == posts


def test_what_was_counted_is_in_the_report_and_put_in_words() -> None:
    found = report({"train": [], "dev": [], "test": []}, {"dev": Counter(control_lines=1, comment_lines=2000)})
    assert found["splits"]["train"]["odd"] == dict.fromkeys(ODD, 0)
    assert list(described(found["splits"]["dev"]["odd"])) == [
        "1 -DOCSTART- line skipped",
        "2,000 comment lines skipped",
    ]
    assert list(described(found["splits"]["test"]["odd"])) == []


def test_the_posts_stage_says_what_it_counted(tmp_path: Path) -> None:
    project = light_project(tmp_path / "project", 2)
    write(project.folder / "set", "-DOCSTART-\n\na\tB-OTHER\nb\tB-OTHER\n", "dev.txt")
    project.edit(data={"format": "conll", "dev": ["dev.txt"], "types": {"OTHER": "O"}})
    output = project.run("python", "-m", "stages.posts")
    counted = ", 0 orphan I-, 1 -DOCSTART- line skipped, 2 labels dropped (data.types renames their types to O)\n"
    assert f"dev: 1 posts, 2 tokens, 0 entities (0 read strictly){counted}" in output
    dev = json.loads((project.folder / "data/posts/report.json").read_text(encoding="utf-8"))["splits"]["dev"]
    for name in ("label", "text"):
        [line] = [line for line in output.splitlines() if line.startswith(f"{name} digests: train ")]
        assert f", dev {dev[f'{name}_digest']}, test " in line
    assert dev["odd"] == dict.fromkeys(ODD, 0) | {"control_lines": 1, "dropped_labels": 2}
