"""What the report says, without a browser: figures as the files have them, missing things named, settings and times."""

import base64
import itertools
import json
import math
import re
import shutil
import sys
from io import BytesIO
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.core import records
from pipeline.core.records import ImageRow
from pipeline.core.runs import Change
from pipeline.core.store import Store
from pipeline.core.version import __version__
from pipeline.extractors._grid import GridOptions
from pipeline.images.pictures import Folder
from pipeline.settings import params
from pipeline.settings.params import Condition
from pipeline.settings.section import changed
from pipeline.settings.training import TrainParams
from reporting import sources, thumbnails
from reporting.charts import line_chart, spread, ticks
from reporting.gallery import RESIZE
from reporting.page import duration, script
from reporting.sources import STAGES
from reporting.summary import summarise
from reporting.text import visible, visible_token
from stages import report as report_stage
from stages.report import SOURCES
from tests.project import Project
from tests.reporting.conftest import RELATIONS
from tests.reporting.made import MadePost, finish, project


def text_of(html: str) -> str:
    """The page's words, without its marks."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_scores_stand_as_the_metrics_have_them(made: Project, page: str) -> None:
    metrics = json.loads((made.folder / "metrics/evaluation.json").read_text(encoding="utf-8"))
    words = text_of(page)
    for split in ("dev", "test"):
        for condition in get_args(Condition):
            micro = metrics[split][condition]["strict"]["micro"]
            name = condition.replace("_", "-")
            low, high = micro["f1_ci"]
            assert (
                f"{name} {100 * micro['precision']:.2f} {100 * micro['recall']:.2f} {100 * micro['f1']:.2f} "
                f"[{100 * low:.1f}, {100 * high:.1f}]"
            ) in words
    cross, text = (metrics["test"][name]["strict"]["micro"]["f1"] for name in ("cross_modal", "text_only"))
    difference = f"{100 * (cross - text):+.2f}".replace("-", "−")
    assert f"cross-modal − text-only strict {difference} [" in words
    assert "cross-modal − noised strict " in words
    scores = metrics["test"]["text_only"]["strict"]
    seen, unseen = scores["seen"], scores["unseen"]
    assert (seen["support"], unseen["support"]) == (1, 5), "train has Paris, as a place"
    assert f"strict n = {seen['support']} / {unseen['support']} cross-modal" in words
    figures = [f"{100 * unseen[key]:.2f}" for key in ("precision", "recall", "f1")]
    assert re.search(rf"text-only [^a-z]*{' '.join(map(re.escape, figures))}", words)
    assert "25 % of the tweets with another tweet" in words


def test_mistakes_stand_by_kind_and_confidences_by_how_often_they_are_right(made: Project, page: str) -> None:
    analyses = json.loads((made.folder / "metrics/analysis.json").read_text(encoding="utf-8"))["splits"]["test"]
    words = text_of(page)
    conditions = ("cross_modal", "text_only", "shuffled")
    for kind in ("right", "missed", "type"):
        counts = " ".join(f"{analyses[condition]['errors']['micro'][kind]:,}" for condition in conditions)
        assert f"{kind} {counts} " in words
    raw, scaled = (100 * analyses["cross_modal"][key]["error"] for key in ("confidence", "calibrated"))
    assert f"cross-modal 2.00 {raw:.1f} {scaled:.1f}" in words
    assert "Right entities by confidence, cross-modal" in words


def test_the_run_is_described(made: Project, page: str) -> None:
    words = text_of(page)
    assert "test 6 6 20" in words, "posts, labelled, tokens"
    assert "1 orphan I- label," in words
    assert "1 token that cannot be seen" in words
    assert re.search(r"gone\.png images missing No such file", words)
    assert "saved teachers, epoch 3: 0.4" in words
    assert "alignment, epoch" not in words, "no curve without a value is drawn"
    assert re.search(r"torn\.png images unreadable", words)
    assert "train.epochs 8 10" in words, "a setting, and its default"
    assert "train.seed 1" in words
    assert "3 epochs, the best was number 3; 1 very long post trained as 1,200 pieces" in words
    card = (made.folder / "report/model_card.md").read_text(encoding="utf-8")
    assert "Epoch 3 of 3 was the best on dev. Posts too long to be trained whole: 1, as 1,200 pieces." in card
    for stage in STAGES:
        seconds = json.loads((made.folder / f"metrics/runs/{stage}.json").read_text(encoding="utf-8"))["seconds"]
        assert f"{stage} {duration(seconds)}" in words


def unescaped(body: str) -> str:
    """What a string of a script says."""
    return re.sub(
        r"\\(x3c|u2028|u2029|.)",
        lambda match: {"x3c": "<", "u2028": "\u2028", "u2029": "\u2029"}.get(match[1], match[1]),
        body,
    )


def test_a_posts_relation_is_that_of_its_own_pictures(made: Project) -> None:
    text = (made.folder / "report/assets/posts.js").read_text(encoding="utf-8")
    posts = json.loads(unescaped(text.partition("JSON.parse('")[2].rpartition("')")[0]))["posts"]
    assert {post["id"]: post["relation"] for post in posts if post["relation"] is not None} == {
        name: math.floor(1000 * value) / 1000 for name, value in RELATIONS.items()
    }, "0.4999 is below one half"
    assert {post["attention"] for post in posts} == {None}


def test_the_ways_to_resize_are_those_of_the_extractors_of_grids() -> None:
    assert get_args(GridOptions.model_fields["resize"].annotation) == RESIZE


def test_what_the_readers_counted_is_said_of_all_splits(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder)
    results = sources.read(params.load(made.folder / "params.yaml"), SOURCES)
    for split, number in (("train", 1), ("test", 2)):
        results.report["splits"][split]["odd"]["dropped_labels"] = number
    assert "3 labels dropped (data.types renames their types to O)." in summarise(results, []).oddities


def test_the_stage_gives_the_same_files_again_and_leaves_no_others(made: Project) -> None:
    report = made.folder / "report"

    def files() -> dict[str, bytes]:
        return {
            path.relative_to(report).as_posix(): path.read_bytes()
            for path in sorted(report.rglob("*"))
            if path.is_file()
        }

    before = files()
    assert {
        "index.html",
        "model_card.md",
        "assets/posts.js",
        "assets/gallery.js",
        "assets/theme.js",
        "assets/report.css",
    } <= set(before)
    (report / "assets/thumbnails/0000.webp").write_bytes(b"of an earlier run")
    made.run("python", "-m", "stages.report")
    assert files() == before
    assert all(re.fullmatch(r"assets/thumbnails/[0-9a-f]{20}\.webp", name) for name in before if "thumb" in name)


def test_the_card_has_the_scores_that_were_measured(made: Project) -> None:
    card = (made.folder / "report/model_card.md").read_text(encoding="utf-8")
    scores = json.loads((made.folder / "metrics/evaluation.json").read_text(encoding="utf-8"))
    for split in ("dev", "test"):
        micro = scores[split]["cross_modal"]["strict"]["micro"]
        figures = " | ".join(f"{100 * micro[key]:.2f}" for key in ("precision", "recall", "f1"))
        assert re.search(rf"\| cross_modal \| (conlleval, )?strict \| {re.escape(figures)} \|", card)
    assert "Epoch 3 of 3 was the best on dev" in card
    unseen = scores["test"]["shuffled"]["strict"]["unseen"]
    assert re.search(rf"\| shuffled \| 1 \| [\d.]+ \| 5 \| {100 * unseen['f1']:.2f} \|", card)


def test_the_page_asks_for_nothing_beyond_its_assets(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page)) == {
        "assets/report.css",
        "assets/theme.js",
        "assets/posts.js",
        "assets/gallery.js",
    }
    assert "default-src 'none'" in page
    assert not re.search(r"\son\w+=|\sstyle=", page), "the policy would stop them"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    bare = [MadePost("a", ["see", "Rome"], None, None), MadePost("b", ["x"], None, None)]
    made = finish(
        project(
            tmp_path / "run",
            {"test": bare},
            data={"images": None},
            views={"kinds": ["objects", "ocr"]},
            evaluate={"conditions": ["text_only"], "bootstrap_samples": 0},
        ),
        scored=["dev"],
    )
    words = text_of((made.folder / "report/index.html").read_text(encoding="utf-8"))
    assert f"Made by Sightread {__version__} from" in words
    for line in (
        "The data set has no pictures (data.images is null).",
        "The contexts leave captions out (views.kinds).",
        "No post has a context",
        "2 of the 2 posts of test have no labels: no scores, only predictions.",
        "The run was not scored under cross_modal (evaluate.conditions).",
        "There are no confidence intervals (evaluate.bootstrap_samples is 0).",
    ):
        assert line in words
    assert "2 of 2 posts have no labels to score against; their predictions are shown among the posts." in words
    assert "Strict micro-F1 on dev" in words, "the head shows the split that was scored"


def test_a_missing_file_is_named_with_what_writes_it(made: Project, tmp_path: Path) -> None:
    record = made.folder / "data/images.jsonl"
    kept = record.read_bytes()
    record.unlink()
    try:
        output = made.run("python", "-m", "stages.report", expect=2)
    finally:
        record.write_bytes(kept)
    assert "data/images.jsonl: no such file; run the stage that writes it: dvc repro images" in output
    assert "Traceback" not in output


def test_a_malformed_prediction_is_named_with_its_line(made: Project) -> None:
    path = made.folder / "data/predictions/test.text_only.jsonl"
    kept = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in kept.splitlines()]
    rows[2]["entities"] = [{"start": 0, "end": 99, "type": "PER", "text": "x", "confidence": 0.5}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    try:
        output = made.run("python", "-m", "stages.report", expect=2)
    finally:
        path.write_text(kept, encoding="utf-8")
    assert "test.text_only.jsonl:3: an entity ends before it starts, or behind the last token" in output


def test_the_figure_shows_a_post_and_the_scores(made: Project, tmp_path: Path) -> None:
    output = tmp_path / "figure.svg"
    made.run("python", "-m", "stages.report", "--figure", str(output), "--post", "guitar")
    svg = ElementTree.parse(output).getroot()  # noqa: S314  (our own file)
    texts = [" ".join("".join(node.itertext()).split()) for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"guitar", "dog", "LIVE TONIGHT", "gold", "cross-modal", "text-only", "all types", "finally"} <= set(texts)
    assert [text for text in texts if text.startswith("Jordan") and text.endswith("PER")] == ["JordanPER"]
    [picture] = svg.iter("{http://www.w3.org/2000/svg}image")
    header, _, data = picture.attrib["href"].partition(",")
    assert header == "data:image/jpeg;base64"
    with Image.open(BytesIO(base64.b64decode(data))) as shown:
        row = next(row for row in made.rows("data/images.jsonl") if row["image"] == "guitar.png")
        assert shown.width / shown.height == pytest.approx(row["width"] / row["height"], rel=0.02)
    for name in ("nobody", "plain", "gone", "torn"):  # none, without a picture, with a missing or a broken one
        message = made.run("python", "-m", "stages.report", "--figure", str(output), "--post", name, expect=2)
        assert f"test has no post with a picture that can be read and the id {name}" in message
        assert "Traceback" not in message


def test_thumbnails_are_decoded_once(made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.images import pictures
    from pipeline.settings.params import ImagesParams

    rows = list(records.read(made.folder / "data/images.jsonl", ImageRow, "images"))
    folder = made.folder / "set/images"
    with Store.open(tmp_path / "store") as store:
        first = thumbnails.write(rows, Folder(folder, ImagesParams()), tmp_path / "one", 100, ImagesParams(), store)
        monkeypatch.setattr(pictures, "load", lambda *_: pytest.fail("decoded again"))
        again = thumbnails.write(rows, Folder(folder, ImagesParams()), tmp_path / "other", 100, ImagesParams(), store)
    assert first == again
    assert set(first) == {row.image for row in rows if row.status == "ok"}

    sizes = {Image.open(tmp_path / "one" / name).size for name in first.values()}
    assert max(max(size) for size in sizes) == 100
    assert (60, 90) in sizes, "none is blown up"


@given(st.text())
def test_nothing_hidden_is_left_in_a_text(text: str) -> None:
    shown = visible(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]", shown)
    if text.isalnum():
        assert shown == text


def test_long_and_invisible_texts() -> None:
    assert visible("x" * 5000) == "x" * 4000 + " … (1,000 more characters)"
    assert visible_token("\u200b\ufe0f", invisible=True) == "⟨U+200B⟩⟨U+FE0F⟩"
    assert visible_token("❤\ufe0f", invisible=False) == "❤\ufe0f"


@given(
    st.recursive(
        st.text() | st.integers(-9, 9) | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_the_data_script_is_one_string_that_nothing_ends(value: Any) -> None:
    try:
        text = script("data", value)
    except UnicodeEncodeError:
        pytest.fail("halves of characters are made visible before")
    body = text.removeprefix('"use strict";\nconst data = JSON.parse(\'').removesuffix("');\n")
    assert text != body
    assert not re.search("[<\n\r\u2028\u2029]", body)
    assert re.fullmatch(r"(?:[^'\\]|\\(?:[\\']|x3c|u2028|u2029))*", body)
    assert json.loads(unescaped(body)) == value


def test_settings_that_differ_are_found() -> None:
    params = TrainParams(encoder="x", epochs=3, weights={"alignment": 0.25})  # type: ignore[arg-type]
    assert list(changed(params, "train.")) == [
        Change("train.encoder", "x", None, True),
        Change("train.weights.alignment", 0.25, 0.5, False),
        Change("train.epochs", 3, 10, False),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(2, 10))
def test_ticks_span_the_values(low: float, width: float, wanted: int) -> None:
    values = ticks(low, low + width, wanted)
    slack = 1e-6 * max(1.0, abs(low), width)
    assert values[0] <= low + slack
    assert values[-1] >= low + width - slack
    assert 2 <= len(values) <= 2 * wanted + 2


@given(st.lists(st.floats(0, 200), max_size=8))
def test_labels_keep_apart(wanted: list[float]) -> None:
    placed = spread(wanted, 14, 0, 200)
    ordered = sorted(placed)
    assert all(other - one >= 14 - 1e-6 for one, other in itertools.pairwise(ordered))
    assert all(-1e-6 <= place <= 200 + 1e-6 for place in placed)


def test_a_loss_that_diverged_is_drawn_as_far_as_it_went() -> None:
    chart = line_chart("Loss", "", {"total": [(1, 2.0), (2, float("nan")), (3, 1.0)]})
    assert chart is not None
    assert [value for value, _ in chart.series[0].values] == [1, 3]
    assert line_chart("Loss", "", {"total": [(1, float("inf"))]}) is None
    assert line_chart("Loss", "", {}) is None


def test_before_a_training_the_report_shows_what_there_is(
    made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made.folder, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["stages.report"])
    for path in ("models/tagger", "data/predictions", "plots"):
        shutil.rmtree(folder / path)
    for path in ("metrics/evaluation.json", "metrics/runs/train.json", "metrics/runs/evaluate.json"):
        (folder / path).unlink()
    report_stage.main()
    page = (folder / "report/index.html").read_text(encoding="utf-8")
    assert "Not run yet: train, evaluate (dvc repro)." in text_of(page)
    assert "a dog beside a guitar" in (folder / "report/assets/posts.js").read_text(encoding="utf-8")
    assert not (folder / "report/model_card.md").exists()
    for each in ("captions", "views"):
        (folder / f"metrics/runs/{each}.json").unlink()
    (folder / "data/contexts/captions.jsonl").unlink()
    shutil.rmtree(folder / "data/views")
    report_stage.main()
    page = (folder / "report/index.html").read_text(encoding="utf-8")
    assert "Not run yet: captions, views, train, evaluate (dvc repro)." in text_of(page)
