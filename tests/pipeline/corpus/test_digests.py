"""Digests tell versions of a data set apart, and not how their files are written."""

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.core.records import Post
from pipeline.corpus.dataset import each_of_split
from pipeline.corpus.digests import label_digest, text_digest
from pipeline.corpus.report import report
from pipeline.settings.params import DataParams

POSTS = [
    Post("1", ["RT", "Jordan", "😀"], ["O", "B-PER", "O"], ["1.jpg"]),
    Post("2", ["Nike", "Air"], ["B-MISC", "I-MISC"], ["2.jpg"]),
    Post("3", ["\u200b", "Rio"], ["O", "I-LOC"]),
]
FILES = {
    "conll": "IMGID:1\nRT\tO\nJordan\tB-PER\n😀\tO\n\nIMGID:2\nNike\tB-MISC\nAir\tI-MISC\n\n\u200b\tO\nRio\tI-LOC\n",
    "third column": (
        "IMGID:9_1\r\n\u200b\tO\tO\r\nRio\tI-location\tI-city\r\n\r\nIMGID:9_2\r\nNike\tB-OTHER\tB-shoe\r\nAir\tI-OTHER\t"
        "I-shoe\r\n\t\r\nIMGID:9_3\r\nRT\tO\tO\r\nJordan\tB-person\tB-athlete\r\n😀\tO\tO\r\n"
    ),
    "jsonl": "".join(json.dumps({"id": f"x{p.id}", "tokens": p.tokens, "labels": p.labels}) + "\n" for p in POSTS),
    "csv": "id,tokens,labels\n7,RT Jordan 😀,O B-PER O\n8,Nike Air,B-Misc I-Misc\n9,\u200b Rio,O I-LOC\n",
}


@pytest.mark.parametrize("form", FILES)
def test_a_data_set_has_one_digest_however_it_is_written(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_bytes(FILES[form].encode())
    format_name = form if form in ("jsonl", "csv") else "conll"
    data = DataParams.model_validate({"root": tmp_path, "format": format_name, "test": ["file"]})
    found = report({"test": list(each_of_split(data, "test"))})["splits"]["test"]
    assert (found["label_digest"], found["text_digest"]) == (label_digest(POSTS), text_digest(POSTS))


@pytest.mark.parametrize(
    ("posts", "same_texts"),
    [
        ([*POSTS[:2], Post("3", ["\u200b", "Rio"], ["O", "B-LOC"])], True),
        ([*POSTS[:2], Post("3", ["\u200b", "Rio"], ["O", "I-ORG"])], True),
        ([*POSTS[:2], Post("3", ["\u200b", "Rio"], None)], True),
        ([*POSTS[:2], Post("3", ["Rio"], ["I-LOC"])], False),
        (POSTS[:2], False),
        ([*POSTS, POSTS[0]], False),
        ([Post("1", ["RT Jordan", "😀"], ["O", "O"]), *POSTS[1:]], False),
    ],
    ids=["prefix", "type", "no labels", "a token less", "a post less", "a post twice", "tokens joined"],
)
def test_another_label_or_token_gives_another_digest(posts: list[Post], same_texts: bool) -> None:
    assert label_digest(posts) != label_digest(POSTS)
    assert (text_digest(posts) == text_digest(POSTS)) == same_texts


def test_a_digest_is_what_its_description_says() -> None:
    contents = [
        r'[["RT","Jordan","\ud83d\ude00"],["O","B-PER","O"]]',
        '[["Nike","Air"],["B-MISC","I-MISC"]]',
        r'[["\u200b","Rio"],["O","I-LOC"]]',
    ]
    by_hand = hashlib.sha256(b"".join(sorted(hashlib.sha256(c.encode()).digest() for c in contents))).hexdigest()
    assert label_digest(POSTS) == by_hand[:16]


def test_posts_without_labels_have_no_label_digest() -> None:
    assert label_digest([Post("1", ["RT"], None)]) == "" == label_digest([]) == text_digest([])
    assert text_digest([Post("1", ["RT"], None)]) != ""
