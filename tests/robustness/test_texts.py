"""A corpus of malformed text files: each read whole, or refused with one clear message; Hypothesis on the readers."""

import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.files import read_jsonl
from pipeline.core.records import Post, View
from pipeline.corpus import conll, jsonl
from tests.project import Project
from tests.robustness.conftest import light_project
from tests.robustness.corpus import texts

QUIET = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def read_posts(path: Path) -> list[Post]:
    return list(records.read(path, Post, "posts"))


def read_views(path: Path) -> list[View]:
    return list(records.read(path, View, "views"))


def read(path: Path) -> list[Post]:
    return conll.read(path) if path.suffix == ".txt" else jsonl.read(path)


def test_there_are_enough() -> None:
    assert len({name for name, *_ in texts()}) >= 100


@pytest.mark.parametrize(
    ("name", "data", "expected"), [pytest.param(name, data, expected, id=name) for name, _, data, expected in texts()]
)
def test_a_malformed_file_is_read_or_refused(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    tracemalloc.start()
    started = time.monotonic()
    try:
        posts = read(path)
    except UserError as error:
        message = str(error)
        assert expected not in ("ok", "no posts"), message
        assert expected in message or expected == "any"
        assert str(path) in message
        assert message.count("\n") <= 5
        assert len(message) < 3000
    else:
        assert expected in ("ok", "any") or (expected == "no posts" and posts == [])
        records.write(tmp_path / "posts.jsonl", posts)
        assert read_posts(tmp_path / "posts.jsonl") == posts, "what was read can be written and read again"
    assert time.monotonic() - started < 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000 + 60 * len(data)
    assert {file.name for file in tmp_path.iterdir()} <= {name, "posts.jsonl"}


@pytest.mark.slow  # the command, for each file
@pytest.mark.timeout(900)
def test_the_posts_stage_gives_rows_or_one_error(tmp_path: Path) -> None:
    project = light_project(tmp_path / "project", 2)
    for name, kind, data, expected in texts():
        (project.folder / "set" / name).write_bytes(data)
        project.edit(data={"format": kind, "train": [name], "dev": [name], "test": [name]})
        output = project.run("python", "-m", "stages.posts", expect=None)
        assert "Traceback" not in output, name
        if output.startswith("error: "):
            assert expected not in ("ok", "no posts"), (name, output)
            assert f"set/{name}" in output
        else:
            assert expected in ("ok", "no posts", "any"), (name, output)
            project.run("python", "-m", "stages.images")
            images = {image for post in project.rows("data/posts/train.jsonl") for image in post["images"]}
            assert {row["image"] for row in project.rows("data/images.jsonl")} == images
    assert not (project.folder.parent / "x").exists()


@pytest.mark.parametrize("identifier", ["../../secret", "/etc/passwd", "a/../../secret", "door/secret", "out"])
def test_an_id_cannot_lead_out_of_the_folder(tmp_path: Path, identifier: str) -> None:
    project: Project = light_project(tmp_path / "project", 2)
    (project.folder / "secret.png").write_bytes((project.folder / "set/images/000.png").read_bytes())
    (project.folder / "set/images/door").symlink_to("../..")
    (project.folder / "set/images/out.png").symlink_to("../../secret.png")
    (project.folder / "set/train.txt").write_text(f"IMGID:{identifier}\nhello\tO\n\n", encoding="utf-8")
    for stage in ("posts", "images"):
        project.run("python", "-m", f"stages.{stage}")
    row = {row["image"]: row for row in project.rows("data/images.jsonl")}[f"{identifier}.png"]
    assert (row["status"], row["sha256"]) == ("unsafe_name", None)


def conll_outcome(folder: Path, data: bytes) -> None:
    path = folder / "fuzzed.txt"
    path.write_bytes(data)
    try:
        posts = conll.read(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017  (either outcome is right)
        return
    for post in posts:
        assert post.tokens
        assert all(token and "\t" not in token and "\n" not in token for token in post.tokens)
        assert post.labels is None or len(post.labels) == len(post.tokens)
    records.write(folder / "out.jsonl", posts)
    assert read_posts(folder / "out.jsonl") == posts


LINES = st.lists(
    st.sampled_from(
        [
            "IMGID:1",
            "IMGID:",
            "IMGID:../x",
            "a\tO",
            "b\tB-LOC",
            "c\tI-LOC",
            "d",
            "",
            "\t",
            "\t\t",
            "a\tO\tx",
            "\tO",
            " ",
            "\r",
            "\ufeff",
            "a\u2028\tO",
            "\0\tO",
            "a\tB-",
            "a\tO ",
            "IMGID",
            "imgid:1\tO",
        ]
    ),
    max_size=12,
)


@QUIET
@given(lines=LINES, ending=st.sampled_from(["\n", "\r\n", "\r"]))
@example(lines=["IMGID:1", "a", "b\tO"], ending="\n")
@example(lines=["\ufeffIMGID:1", "a\tO"], ending="\r\n")
def test_hypothesis_lines_of_conll(tmp_path_factory: pytest.TempPathFactory, lines: list[str], ending: str) -> None:
    conll_outcome(tmp_path_factory.getbasetemp(), ending.join(lines).encode())


@QUIET
@given(data=st.binary(max_size=300))
@example(data=b"\xef\xbb\xbf\xef\xbb\xbf\n")
@example(data=b"\x00\t\x00\n")
def test_hypothesis_bytes_as_conll(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    conll_outcome(tmp_path_factory.getbasetemp(), data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.dictionaries(
    st.sampled_from(["id", "tokens", "labels", "image", "context", "x"]),
    JSON | st.lists(st.text(max_size=3), max_size=3) | st.lists(st.just("O"), max_size=3),
    max_size=5,
)


@QUIET
@given(row=ROWS | JSON)
@example(row={"id": "\ud800", "tokens": ["a"]})  # half a character, which JSON can spell and UTF-8 cannot
@example(row={"id": "1", "tokens": ["a\nb"]})
@example(row={"id": True, "tokens": ["a"]})
@example(row={"id": 1, "tokens": ["a"], "labels": ["B-\udfff"]})
@example(row={"id": "1", "tokens": ["a"], "labels": None, "context": 3})
@example(row={"id": "1", "tokens": "ab", "labels": ["O", "O"], "context": ""})  # a text is a sequence of texts too
def test_hypothesis_rows_of_json(tmp_path_factory: pytest.TempPathFactory, row: object) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    for reader in (jsonl.read, read_views, lambda path: list(read_jsonl(path))):
        try:
            found = reader(path)
        except UserError as error:
            assert f"{path}" in str(error)  # noqa: PT017  (either outcome is right)
            continue
        if reader is jsonl.read:
            records.write(path.with_name("out.jsonl"), found)
            assert read_posts(path.with_name("out.jsonl")) == found


@QUIET
@given(
    data=st.binary(max_size=200)
    | st.text(st.sampled_from('{}[]":,0123456789eE+-. \n\\u"ntd'), max_size=80).map(str.encode)
)
@example(data=b"[" * 100_000)  # RecursionError
@example(data=b'{"id": ' + b"9" * 5000 + b"}")  # more digits than Python turns into a number
def test_hypothesis_bytes_as_json_lines(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(data)
    for reader in (jsonl.read, read_views, lambda path: list(read_jsonl(path))):
        try:
            reader(path)
        except UserError as error:
            assert f"{path}" in str(error)  # noqa: PT017  (either outcome is right)
