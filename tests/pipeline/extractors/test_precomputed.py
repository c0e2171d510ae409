"""Captions, tags and OCR text that somebody else computed: which files are read, and what a wrong one is told."""

import base64
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from pipeline.core.errors import UserError
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Caption, ImageRow, ObjectTag, TextLine
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.extractors.base import ExpectingExtractor, LookupExtractor
from pipeline.extractors.registry import choose
from tests.project import Project

Form = Literal["NFC", "NFD"]


def reader(kind: str, path: Path | str | None, **options: Any) -> LookupExtractor:
    section = {"extractor": "precomputed", "precomputed": {"path": None if path is None else str(path), **options}}
    choose(kind, section)
    extractor = choose(kind, section).create()
    assert isinstance(extractor, LookupExtractor)
    return extractor


def written(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_caption_file(tmp_path: Path, ends: str) -> None:
    lines = ["7.jpg :a dog : a cat", "16_05_01_1.jpg :", "8.jpg : schöne Grüße\u2028von hier ", "", "9 :by its id"]
    captions = reader("captions", written(tmp_path, "c.txt", "\ufeff" + ends.join(lines)))
    assert captions.lookup("7.jpg") == [Caption("a dog : a cat")]
    assert captions.lookup("16_05_01_1.jpg") == [], "an entry, though an empty one"
    assert captions.lookup("8.jpg") == [Caption("schöne Grüße\u2028von hier")]
    assert captions.lookup("9.jpg") == [Caption("by its id")], "names without their extension serve too"
    assert captions.lookup("10.jpg") is None


@pytest.mark.parametrize(("named", "written_as"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_entry_whose_name_differs_in_unicode_form_alone_is_found(
    tmp_path: Path, named: Form, written_as: Form
) -> None:
    picture, stem = unicodedata.normalize(named, "Köln/é.jpg"), unicodedata.normalize(written_as, "Köln/é")
    for entry in (f"{stem}.jpg", stem, stem.rpartition("/")[2]):
        captions = reader("captions", written(tmp_path, "c.txt", f"{entry} :a dog\n"))
        assert isinstance(captions, ExpectingExtractor)
        captions.expect([picture, unicodedata.normalize(written_as, picture)])
        assert captions.lookup(picture) == [Caption("a dog")], entry


def test_two_entries_that_differ_in_unicode_form_alone_are_said_to(tmp_path: Path) -> None:
    lines = "".join(f"{unicodedata.normalize(form, 'é')}.jpg :a dog\n" for form in get_args(Form))
    captions = reader("captions", written(tmp_path, "c.txt", lines))
    with pytest.raises(UserError, match=r"c\.txt:2: a second entry for .*; the two names differ in Unicode form alone"):
        captions.lookup("é.jpg")


ROWS: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "captions": ([{"text": "a dog", "score": 0.5}, {"text": "a cat"}], [Caption("a dog", 0.5), Caption("a cat")]),
    "objects": (
        [{"label": "dog", "attribute": "black", "score": 0.9, "box": [1, 2, 3, 4]}, {"label": "cat"}],
        [ObjectTag("dog", "black", 0.9, (1, 2, 3, 4)), ObjectTag("cat")],
    ),
    "ocr": (
        [{"text": "OPEN", "score": 0.9, "polygon": [[0, 0], [9, 0], [9, 5], [0, 5]]}, {"text": "9 TO 5"}],
        [TextLine("OPEN", 0.9, ((0, 0), (9, 0), (9, 5), (0, 5))), TextLine("9 TO 5")],
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_records_of_our_own(kind: str, tmp_path: Path) -> None:
    rows, items = ROWS[kind]
    file = written(
        tmp_path,
        "own.data",
        "\n".join(
            map(
                json.dumps,
                [
                    {"image": "1.jpg", kind: rows},
                    {"image": "2.jpg", "sha256": "00", "status": "ok", "error": None, kind: []},
                    {"image": "3.jpg", "sha256": None, "status": "missing", "error": "no such file", kind: []},
                ],
            )
        ),
    )
    found = reader(kind, file)
    assert found.lookup("1.jpg") == items
    assert found.lookup("2.jpg") == []
    assert found.lookup("3.jpg") is None, "what could not be read there is no entry"


@pytest.mark.parametrize("kind", ROWS)
def test_a_byte_order_mark_and_blank_lines_are_passed_over(kind: str, tmp_path: Path) -> None:
    rows, items = ROWS[kind]
    lines = [json.dumps({"image": "1.jpg", kind: rows}), "", " ", json.dumps({"image": "2.jpg", kind: []}), "", ""]
    found = reader(kind, written(tmp_path, "own.data", "\ufeff" + "\r\n".join(lines)))
    assert found.lookup("1.jpg") == items
    assert found.lookup("2.jpg") == []


VINVL = [
    {
        "rect": [1.5, 2.0, 30.25, 40.0],
        "bbox_id": 0,
        "class": "dog",
        "conf": 0.5,
        "attributes": ["large", "black", "__no_attribute__"],
        "attr_scores": [0.2, 0.7, 0.9],
    },
    {
        "rect": [0, 0, 9, 9],
        "class": "traffic light",
        "conf": 0.8,
        "attributes": ["__no_attribute__"],
        "attr_scores": [0.9],
        "feature": base64.b64encode(bytes(8216)).decode(),
    },
]


@pytest.mark.parametrize("payload", [{"objects": VINVL, "relations": None}, VINVL], ids=["predictions", "label"])
def test_vinvls_tsv(payload: object, tmp_path: Path) -> None:
    file = written(tmp_path, "predictions.tsv", f"17_06_1\t{json.dumps(payload)}\n2.jpg\t[]\n")
    light = ObjectTag("traffic light", None, 0.8, (0, 0, 9, 9))
    dog = ObjectTag("dog", "black", 0.5, (1.5, 2, 30.25, 40))
    objects = reader("objects", file)
    assert objects.lookup("17_06_1.jpg") == [light, dog], "best first, each with its likeliest attribute"
    assert objects.lookup("2.jpg") == []
    unsure = reader("objects", file, attribute_threshold=0.8).lookup("17_06_1.jpg")
    assert unsure == [light, ObjectTag("dog", None, 0.5, (1.5, 2, 30.25, 40))]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("captions", "1.jpg :fine\n2.jpg a dog\n", r"x:2: expected a picture's name.*found '2\.jpg a dog'"),
        ("captions", "1.jpg :a\n\n1.jpg :b\n", r"x:3: a second entry for 1\.jpg \(the first is on line 1\)"),
        ("captions", '{"image": "1.jpg", "captions": [{"text": 3}]}', r"x:1: text: expected a valid string, found 3"),
        ("captions", '{"image": "1.jpg", "objects": []}', r'x:1: expected {"image": name, "captions".*image, objects'),
        ("captions", '{"image"', "x:1: not JSON"),
        ("captions", '{"image": "1.jpg", "captions": []}\n\n[]\n', "x:3: expected a JSON object, found list"),
        ("captions", '{"image": "1.jpg", "captions": ' + "[" * 99_999, "x:1: not JSON that can be read"),
        (
            "captions",
            '{"image": "1.jpg", "captions": []}\n{"image": "2.jpg", "captions": [{"text": "hi \\ud83d"}]}',
            "x:2: an unpaired surrogate",
        ),
        ("captions", '{"image": "\\ud83d.jpg", "captions": []}', "x:1: an unpaired surrogate"),
        ("objects", '1\t[{"class": "dog \\udc36"}]\n', "x:1: an unpaired surrogate"),
        ("objects", "1\t2054\tAAAA\n", r"x:1: expected a picture's key.*features alone has no tags"),
        ("objects", '1\t[{"conf": 1}]\n', "x:1: expected an object with class"),
        ("objects", '1\t[{"class": "dog", "conf": "high"}]\n', "x:1: score: expected a valid number"),
        (
            "objects",
            '1\t[{"class": "dog", "attributes": ["a"], "attr_scores": []}]',
            "x:1: 1 attributes but 0 attr_scores",
        ),
        ("objects", '1\t[{"class": "dog", "attributes": ["a"], "attr_scores": ["b"]}]', "x:1: attr_scores"),
        ("ocr", "1.jpg :OPEN", "x:1: expected JSON Lines"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(kind: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        reader(kind, written(tmp_path, "x", content)).lookup("1.jpg")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes("1.jpg :schön\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        reader("captions", tmp_path / "x").lookup("1.jpg")


def test_a_file_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    for path, message in ((None, "null; expected the file"), (str(tmp_path / "x"), "no such file")):
        with pytest.raises(UserError, match=message):
            choose("captions", {"extractor": "precomputed", "precomputed": {"path": path}}).require()


def run(file: Path, names: list[str], folder: Path) -> list[tuple[str, str, list[Any]]]:
    rows = [ImageRow(name, status="missing", error="no such file") for name in names]
    with Store.open(folder / "store") as store:
        extract("captions", reader("captions", file), rows, None, folder / "out.jsonl", store)
    return [(row.name, row.status, row.items) for row in TEXT_KINDS["captions"].read(folder / "out.jsonl")]


def test_a_picture_that_is_missing_keeps_its_caption(tmp_path: Path) -> None:
    file = written(tmp_path, "c.txt", "1.jpg :a dog\n2.jpg :\n")
    assert run(file, ["1.jpg", "2.jpg", "3.jpg"], tmp_path) == [
        ("1.jpg", "ok", [Caption("a dog")]),
        ("2.jpg", "ok", []),
        ("3.jpg", "missing", []),
    ]


def test_a_file_of_another_data_set_is_an_error(tmp_path: Path) -> None:
    file = written(tmp_path, "c.txt", "101.jpg :a dog\n102.jpg :a cat\n")
    with pytest.raises(
        UserError,
        match=r"c\.txt \(with entries for 101\.jpg, 102\.jpg, …\) covers none of the data "
        r"set's 2 pictures, the first of which is 1\.jpg",
    ):
        run(file, ["1.jpg", "2.jpg"], tmp_path)
    with pytest.raises(UserError, match=r"c\.txt \(empty\) covers none"):
        run(written(tmp_path, "c.txt", ""), ["1.jpg"], tmp_path)
    assert run(written(tmp_path, "c.txt", ""), [], tmp_path) == []


SUBFOLDERS = ["a/1.jpg", "b/1.jpg", "b/2.png"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a/1.jpg :x\nb/1.jpg :y\nb/2.png :z\n", "xyz"),
        ("a/1 :x\nb/1 :y\nb/2 :z\n", "xyz"),
        ("a/1.jpg :x\na/1 :no\nb/1 :y\n2 :z\n", "xyz"),
        ("1 :no\na/1 :x\nb/1.jpg :y\n2 :z\n", "xyz"),
    ],
    ids=["names", "paths-without-extension", "the-stem-of-one", "better-names-come-first"],
)
def test_pictures_in_subfolders(content: str, expected: str, tmp_path: Path) -> None:
    found = run(written(tmp_path, "c.txt", content), SUBFOLDERS, tmp_path)
    assert found == [(name, "ok", [Caption(text)]) for name, text in zip(SUBFOLDERS, expected, strict=True)]


@pytest.mark.parametrize(
    ("content", "names", "message"),
    [
        ("2 :z\n1 :x\n", SUBFOLDERS, r"c\.txt:2: the entry 1 fits two pictures.*, a/1\.jpg and b/1\.jpg; expected one"),
        ("a/1 :x\n1 :y\n", SUBFOLDERS, r"c\.txt:2: the entry 1 fits two pictures.*, a/1\.jpg and b/1\.jpg"),
        ("1 :x\n", ["1.jpg", "a/1.jpg", "b/1.jpg"], r"the entry 1 fits two pictures.*, 1\.jpg and a/1\.jpg"),
        ("1 :x\n", ["1.jpg", "1.png"], r"the entry 1 fits two pictures.*, 1\.jpg and 1\.png"),
        ("a/1 :x\n", ["a/1.jpg", "a/1.png"], r"the entry a/1 fits two pictures.*, a/1\.jpg and a/1\.png"),
    ],
)
def test_no_two_pictures_share_an_entry(content: str, names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(written(tmp_path, "c.txt", content), names, tmp_path)


@pytest.mark.slow
def test_dvc_sees_a_precomputed_file_change(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project", {"train": 3, "valid": 1, "test": 1})
    ids = [
        post.split("\n", 1)[0]
        for split in ("train", "valid", "test")
        for post in (project.folder / f"sample/data/{split}.txt").read_text().split("IMGID:")[1:]
    ]
    file = written(project.folder / "sample/data", "captions.txt", "".join(f"{name}.jpg :first\n" for name in ids))
    project.edit(captions={"extractor": "precomputed", "precomputed": {"path": "sample/data/captions.txt"}})
    assert project.repro("captions") == ["check", "posts", "images", "captions"]
    file.write_text(file.read_text().replace("first", "second"))
    assert "captions" in project.repro("captions")
    assert {row["captions"][0]["text"] for row in project.rows("data/contexts/captions.jsonl")} == {"second"}


@pytest.mark.real_data
@pytest.mark.slow
def test_twitter_2015_gets_a_caption_for_every_post_but_two(real_data: Path, tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project", {})
    shutil.copytree(real_data / "twitter2015", project.folder / "twitter2015")
    project.edit(
        data={"root": "twitter2015", "images": None, "types": {"OTHER": "MISC"}},
        captions={"extractor": "precomputed", "precomputed": {"path": "twitter2015/captions_blip2.txt"}},
        views={"kinds": ["captions"]},
    )
    for stage in ("posts", "images", "captions", "views"):
        project.run("python", "-m", f"stages.{stage}")
    rows = project.rows("data/contexts/captions.jsonl")
    assert {row["status"] for row in rows} == {"ok"}
    empty = {
        view["id"]
        for split in ("train", "dev", "test")
        for view in project.rows(f"data/views/{split}.jsonl")
        if not view["context"]
    }
    assert empty == {"71406", "770560"}
    assert len(rows) == len({row["image"] for row in rows}) > 8000
