"""Posts and pictures in, entities with and without the pictures out: one at a time, many, and from the command line."""

import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import sightread
from ner.tagger import Tagger
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import Post
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.settings import yaml
from sightread import tag
from sightread.rows import Row
from sightread.tagging import Sightread, Tagged
from tests.ner.conftest import system_folder
from tests.sightread import extractors

TEXT = "love Jordan in  Paris"


def test_one_post_is_tagged_with_its_picture_and_without(
    loaded: Sightread, tagger_folder: Path, pictures: Path
) -> None:
    found = loaded.tag(TEXT, images=[pictures / "red.jpg"])
    plain = Tagger.load(tagger_folder, "cpu")
    assert found.context == "court . photo of court"
    assert found.seen == plain.tag(TEXT, context=found.context)
    assert found.alone == plain.tag(TEXT)
    assert [TEXT[entity.start_char : entity.end_char] for entity in found.entities]
    assert found.changed == (found.seen.predicted != found.alone.predicted)
    [picture] = found.pictures
    assert (picture.row.status, picture.row.width, picture.row.height) == ("ok", 40, 30)
    assert found.as_row()["pictures"] == [
        {
            "image": str(pictures / "red.jpg"),
            "status": "ok",
            "error": None,
            "width": 40,
            "height": 30,
            "objects": [{"label": "court", "attribute": None, "score": 0.75, "box": [0.0, 0.0, 40.0, 30.0]}],
            "captions": [{"text": "photo of court", "score": 0.9}],
        }
    ]


def test_pictures_come_as_bytes_or_files_and_bad_ones_are_told_and_left_out(loaded: Sightread, pictures: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (0, 0, 250)).save(buffer, "PNG")
    found = loaded.tag(
        ["love", "Jordan"],
        images=[
            b"no picture",
            pictures / "none.jpg",
            buffer.getvalue(),
            pictures / "torn.jpg",
            str(pictures / "red.jpg"),
        ],
    )
    assert [each.row.status for each in found.pictures] == ["unreadable", "missing", "ok", "truncated", "ok"]
    assert found.context == "court . photo of desert . court . photo of court"
    assert found.text is None
    assert found.alone == loaded.tag(["love", "Jordan"]).seen


def test_many_posts_are_tagged_as_each_by_itself(loaded: Sightread, pictures: Path) -> None:
    posts = [(TEXT, [pictures / "red.jpg"]), ("", []), (["Paris"], [pictures / "blue.jpg", pictures / "red.jpg"])]
    for many, (text, images) in zip(loaded.tag_many(posts), posts, strict=True):
        one = loaded.tag(text, images)
        assert (many.seen.predicted, many.context) == (one.seen.predicted, one.context)


def test_a_model_is_loaded_once_for_all_chunks(loaded: Sightread, pictures: Path, tmp_path: Path) -> None:
    for number, shade in enumerate(range(100, 108)):
        Image.new("RGB", (9, 9), (shade, 0, 20)).save(tmp_path / f"{number}.png")
    rows = (Row(str(n), Post(str(n), ["love", "Jordan"], None, [f"{n}.png"])) for n in range(8))
    extractors.LOADED.clear()
    found = list(loaded.stream(rows, tmp_path, chunk=4))
    assert len(extractors.LOADED) <= 1
    assert [each.post.id for each in found if isinstance(each, Tagged)] == [str(n) for n in range(8)]
    assert {each.context for each in found if isinstance(each, Tagged)} == {"court . photo of court"}


def test_a_stream_is_read_a_chunk_at_a_time(loaded: Sightread) -> None:
    read = 0

    def endless() -> Iterator[Row]:
        nonlocal read
        while True:
            read += 1
            yield Row(str(read), Post(str(read), ["Jordan"], None))

    stream = loaded.stream(endless(), chunk=3)
    for _ in range(4):
        next(stream)
    assert read == 6


def test_rows_without_a_post_and_ids_given_twice_come_back_in_their_place(loaded: Sightread, pictures: Path) -> None:
    rows = [
        Row("1", Post("1", ["love"], None, ["red.jpg"])),
        Row("2", None, error="in:2: nothing"),
        Row("1", Post("1", ["Jordan"], ["B-PER"], ["../red.jpg", "blue.jpg"])),
    ]
    one, bad, two = loaded.stream(rows, pictures)
    assert bad is rows[1]
    assert isinstance(one, Tagged)
    assert isinstance(two, Tagged)
    assert (one.post.id, two.post.id, two.seen.labels) == ("1", "1", ["B-PER"])
    assert [each.row.status for each in two.pictures] == ["unsafe_name", "ok"]
    assert two.context == "court . photo of desert"


def test_a_picture_that_an_extractor_fails_on_says_so_and_stops_nothing(loaded: Sightread, pictures: Path) -> None:
    red, black = loaded.tag_many([(TEXT, [pictures / "red.jpg"]), (TEXT, [pictures / "black.jpg"])])
    assert (red.context, black.context) == ("court . photo of court", "court")
    assert black.as_row()["pictures"][0]["failed"] == {"captions": "failed: RuntimeError: too dark to say"}
    assert "failed" not in red.as_row()["pictures"][0]


def test_what_cannot_be_set_up_is_named(tagger_folder: Path, params: Path, tmp_path: Path, loaded: Sightread) -> None:
    with Sightread.load(tagger_folder, device="cpu") as blind:
        assert blind.tag(TEXT).seen == blind.tag(TEXT).alone
        with pytest.raises(UserError, match="no params that say which extractors"):
            blind.tag(TEXT, ["a.jpg"])
    values = yaml.load(params).values
    values["captions"]["extractor"], values["objects"]["extractor"] = "lavis", "nobody"
    other = tmp_path / "params.yaml"
    other.write_text(yaml.dump(values), encoding="utf-8")
    with pytest.raises(UserError, match=r"objects\.extractor: nobody: unknown extractor"):
        Sightread.load(tagger_folder, other)
    values["objects"]["extractor"] = None
    other.write_text(yaml.dump(values), encoding="utf-8")
    with pytest.raises(UserError, match="runs in the separate environment lavis"):
        Sightread.load(tagger_folder, other)
    with pytest.raises(UserError, match="none: no such folder of pictures"):
        next(loaded.stream([], tmp_path / "none"))


def test_models_are_found_beside_their_params_from_any_folder(
    params: Path, tagger_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.load(params).values
    values["captions"] |= {"extractor": "precomputed", "precomputed": {"path": "said/captions.txt"}}
    folder = tmp_path / "project"
    (folder / "said").mkdir(parents=True)
    (folder / "said" / "captions.txt").write_text("red :photo of court\n", encoding="utf-8")
    (folder / "params.yaml").write_text(yaml.dump(values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with Sightread.load(tagger_folder, folder / "params.yaml") as tagger:
        rows = [Row("1", Post("1", ["Jordan"], None, ["red.jpg"]))]
        [found] = tagger.stream(rows, tmp_path, chunk=1)
        assert isinstance(found, Tagged)
        assert found.context == "photo of court"


def run_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, list[dict[str, object]], str]:
    monkeypatch.setattr(sys, "argv", ["stages.tag", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run_cli(tag.main)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), [json.loads(line) for line in out.splitlines()], err


def test_the_command_tags_rows_with_pictures_and_says_what_became_of_them(
    tagger_folder: Path,
    params: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "tweets.jsonl"
    rows = [
        '{"id": "red", "text": "love Jordan"}',
        '{"id": 7, "tokens": ["Paris"], "images": ["blue.jpg", "gone.jpg"], "likes": 3}',
        '{"id": "x"',
        '{"id": "y", "text": "Jordan", "image": null}',
    ]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    code, found, said = run_here(capsys, monkeypatch, tagger_folder, file, "--images", pictures, "--params", params)
    assert code == 0
    assert [row["id"] for row in found] == ["red", "7", "3", "y"]
    assert [row.get("context") for row in found] == ["court . photo of court", "court . photo of desert", None, ""]
    assert "tweets.jsonl:3: not JSON" in str(found[2]["error"])
    assert "3 pictures: 2 ok, 1 missing" in said
    assert "3 posts, " in said
    assert "; 1 row not read, the first: " in said
    code, again, by_one = run_here(
        capsys, monkeypatch, tagger_folder, file, "--images", pictures, "--params", params, "--chunk", 1
    )
    assert (code, again) == (0, found)
    for lines in (said.splitlines(), by_one.splitlines()):
        assert [line.split()[0] for line in lines] == ["tag:", "3"], "however small the portions are"


def test_the_commands_mistakes_are_one_line(
    tagger_folder: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        ((tagger_folder, "none.jsonl"), "none.jsonl: no such file"),
        ((tagger_folder, "--images", pictures), "--images: no params.yaml here; expected --params FILE"),
        ((tagger_folder, "--chunk", "0"), "--chunk: expected at least 1, found 0"),
        ((tagger_folder, "--image-name", "x.jpg"), "--image-name: expected a name with {id}"),
    ):
        code, found, said = run_here(capsys, monkeypatch, *arguments)
        assert (code, found) == (2, [])
        assert said.startswith("error: ")
        assert message in said
        assert said.count("\n") == 1


def test_a_pipe_of_texts_is_tagged_by_text_alone(
    tagger_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"love Jordan\n\nin Paris\n")))
    code, found, said = run_here(capsys, monkeypatch, tagger_folder, "--device", "cpu")
    assert code == 0
    assert [row["text"] for row in found] == ["love Jordan", "", "in Paris"]
    assert said.splitlines()[-1].startswith("3 posts, ")
    assert "picture" not in said


def test_pictures_at_hand_are_told_from_files_whatever_those_are_called(
    loaded: Sightread, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blue, red = ((pictures / f"{name}.jpg").read_bytes() for name in ("blue", "red"))
    Path("2.1").write_bytes(blue)
    found = loaded.tag_many([("Jordan", ["2.1"]), ("Jordan", [red])])
    assert [each.context for each in found] == [loaded.tag("Jordan", [each]).context for each in (blue, red)]
    assert found[0].context != found[1].context


def test_a_single_picture_is_no_list_of_letters(loaded: Sightread, pictures: Path) -> None:
    for images in (str(pictures / "red.jpg"), (pictures / "red.jpg").read_bytes(), pictures / "red.jpg"):
        with pytest.raises(ValueError, match="images: expected a list of pictures"):
            loaded.tag("Jordan", images)  # type: ignore[arg-type]


def test_the_package_offers_what_it_says() -> None:
    assert sightread.Tagger is Tagger
    assert sightread.Sightread is Sightread
    assert sightread.View("1", ["a"], None, "").context == ""
    assert sightread.score([["B-PER"]], [["B-PER"]])["strict"]["micro"]["f1"] == 1.0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sightread.nothing  # noqa: B018


def test_what_has_been_read_is_not_read_again_by_the_stages(loaded: Sightread, pictures: Path, tmp_path: Path) -> None:
    rows, place = loaded.reader.below(pictures, ["blue.jpg", "red.jpg"]) if loaded.reader else ([], None)
    list(loaded.stream([Row("1", Post("1", ["a"], None, ["blue.jpg", "red.jpg"]))], pictures))
    with Store.open() as store:
        summary = extract("captions", extractors.Colour(), rows, place, tmp_path / "captions.jsonl", store)
    assert (summary.read, summary.from_store, summary.failed) == (0, 2, 0)


def test_other_extractors_than_the_taggers_own_are_warned_of(
    tagger_folder: Path, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tagger"
    shutil.copytree(tagger_folder, folder)
    (folder / "training.json").write_text('{"contexts": {"captions": "blip (x/y)"}}', encoding="utf-8")
    Sightread.load(folder, params).close()
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {folder} was trained with objects by nothing, and params have tests.")
    assert "captions by blip (x/y), and params have tests.sightread.extractors:Colour" in said


def test_a_tagger_that_reads_pictures_as_tensors_is_shown_them(
    xlm_r_folder: Path, params: Path, pictures: Path, tmp_path: Path
) -> None:
    values = yaml.load(params).values
    values["features"]["extractor"] = "tests.sightread.extractors:Grid"
    path = tmp_path / "params.yaml"
    path.write_text(yaml.dump(values), encoding="utf-8")
    folder = system_folder("iie4mner", xlm_r_folder, tmp_path / "tagger")
    text = "love Jordan in Paris"
    with Sightread.load(folder, path) as tagger:
        assert list(tagger.reader.choices if tagger.reader else ()) == ["objects", "captions", "features"]
        red, blue, none = tagger.tag_many([(text, [pictures / f"{name}.jpg"]) for name in ("red", "blue", "torn")])
        sure = [[entity.confidence for entity in each.entities] for each in (red, blue, none)]
        assert sure[0] != sure[1], "it looks at the picture"
        assert none.seen == none.alone
        # Read in a batch or by itself, sums are of another order.
        for one, other in zip(none.alone.entities, tagger.tag(text).seen.entities, strict=True):
            assert replace(one, confidence=0.0) == replace(other, confidence=0.0)
            assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
        assert red.alone.entities == none.alone.entities
