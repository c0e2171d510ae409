"""The real `dvc repro` on a cut of the sample: what it writes, what it re-runs, what it reads."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.project import STAGES, Project, kill_group, stages_run, wait_for

EXTRACTED = ("objects", "captions", "ocr")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run once. Tests leave it with nothing to do."""
    project = Project.make(tmp_path_factory.mktemp("project") / "cut")
    assert sorted(project.repro()) == sorted(STAGES)
    return project


def pictures_read(output: str, stage: str) -> int:
    """How many pictures the closing line of an extraction stage says it read."""
    after = output.split(f"Running stage '{stage}'")[1]
    match = re.search(r"([\d,]+) read", after)
    assert match, after
    return int(match[1].replace(",", ""))


def test_one_row_in_is_one_row_out(finished: Project) -> None:
    posts = {split: finished.rows(f"data/posts/{split}.jsonl") for split in ("train", "dev", "test")}
    assert [len(posts[split]) for split in posts] == [30, 10, 12]
    images = [row["image"] for row in finished.rows("data/images.jsonl")]
    assert images == sorted({image for rows in posts.values() for post in rows for image in post["images"]})
    for kind in EXTRACTED:
        assert [row["image"] for row in finished.rows(f"data/contexts/{kind}.jsonl")] == images
    for split, rows in posts.items():
        views = finished.rows(f"data/views/{split}.jsonl")
        assert [(view["id"], view["tokens"], view["labels"]) for view in views] == [
            (post["id"], post["tokens"], post["labels"]) for post in rows
        ]
    for split in ("dev", "test"):
        for condition in ("cross_modal", "text_only", "shuffled"):
            predicted = finished.rows(f"data/predictions/{split}.{condition}.jsonl")
            assert [row["id"] for row in predicted] == [post["id"] for post in posts[split]]
            assert all(len(row["predicted"]) == len(row["tokens"]) for row in predicted)


def test_contexts_hold_what_the_pictures_show(finished: Project) -> None:
    contexts = [view["context"] for view in finished.rows("data/views/train.jsonl")]
    assert sum(bool(context) for context in contexts) >= 25
    assert any(re.search(r"\ba \w+ \w+ ", context) for context in contexts), "no caption in any context"


def test_metrics_have_every_condition_and_scheme(finished: Project) -> None:
    import json

    metrics = json.loads((finished.folder / "metrics/evaluation.json").read_text())
    assert set(metrics) == {"dev", "test"}
    for conditions in metrics.values():
        assert set(conditions) == {"cross_modal", "text_only", "shuffled"}
        for schemes in conditions.values():
            assert set(schemes) == {"conlleval", "strict"}
            for scores in schemes.values():
                assert set(scores["micro"]) == {"precision", "recall", "f1", "support", "f1_ci"}
                assert scores["seen"]["support"] + scores["unseen"]["support"] == scores["micro"]["support"] > 0


def test_the_report_shows_every_post_that_was_scored(finished: Project) -> None:
    report = finished.folder / "report"
    assert "Strict micro-F1 on test" in (report / "index.html").read_text(encoding="utf-8")
    data = (report / "assets/posts.js").read_text(encoding="utf-8")
    for split in ("dev", "test"):
        assert all(f'"id":"{post["id"]}"' in data for post in finished.rows(f"data/posts/{split}.jsonl"))
    readable = [row for row in finished.rows("data/images.jsonl") if row["status"] == "ok"]
    assert 10 <= len(list((report / "assets/thumbnails").iterdir())) <= len(readable)


def test_a_file_of_others_beside_the_report_disturbs_nobody(finished: Project) -> None:
    other = finished.folder / "report" / "other.html"
    other.write_text("another command's\n")
    assert finished.repro() == []
    finished.run("dvc", "repro", "--force", "--single-item", "report")
    assert other.exists()


def test_a_second_run_has_nothing_to_do(finished: Project) -> None:
    assert finished.repro() == []


def test_a_mistake_in_any_section_stops_the_second_run_before_extraction(finished: Project) -> None:
    wrong: list[tuple[dict[str, dict[str, object]], str]] = [
        ({"report": {"thumbnail": -1}}, "report.thumbnail: found -1"),
        ({"report": {"thumbnail": 320}, "train": {"encoder": "checkpoints/none"}}, "checkpoints/none: no such folder"),
    ]
    for mistake, message in wrong:
        finished.edit(**mistake, captions={"blip": {"num_captions": 2}})
        output = finished.run("dvc", "repro", expect=None)
        assert message in output
        assert stages_run(output) == ["check"]
    finished.edit(train={"encoder": "checkpoints/sample/xlm-r"}, captions={"blip": {"num_captions": 1}})
    assert set(finished.repro()) <= {"check"}


def test_a_checkpoint_that_nothing_names_runs_check_and_nothing_else(finished: Project) -> None:
    other = finished.folder / "checkpoints" / "other" / "model.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"weights")
    assert finished.repro() == ["check"]
    shutil.rmtree(other.parent)
    assert set(finished.repro()) <= {"check"}


@pytest.mark.slow  # several runs of DVC
def test_settings_for_the_sample_with_other_data_are_warned_of(finished: Project) -> None:
    before = finished.outputs()
    shutil.copytree(finished.folder / "sample/data", finished.folder / "corpora/mine")
    finished.edit(data={"root": "corpora/mine"}, train={"epochs": 2})
    output = finished.run("dvc", "repro", "check")
    for key in ("objects.transformers.model", "captions.blip.model", "train.encoder", "ocr.rapidocr.limit_side_len"):
        assert f": {key}: " in output
    assert output.count("warning: params.yaml:") == 4
    finished.edit(data={"root": "sample/data"})
    assert "warning" not in finished.run("dvc", "repro")
    assert finished.outputs() == before


def test_metrics_are_a_table_that_fits_a_terminal(finished: Project) -> None:
    import json

    table = finished.run("dvc", "metrics", "show").splitlines()
    assert max(map(len, table)) <= 80
    assert table[0].split() == ["Path", "conlleval", "strict"]
    assert len(table) == 1 + 2 * 3
    scores = json.loads((finished.folder / "metrics/evaluation.json").read_text())
    for row in table[1:]:
        path, conlleval, strict = row.split()
        split, condition = Path(path).stem.split(".")
        for scorer, found in (("conlleval", conlleval), ("strict", strict)):
            assert float(found) == pytest.approx(100 * scores[split][condition][scorer]["micro"]["f1"], abs=0.005)


@pytest.mark.slow  # every stage
def test_an_edited_comment_reads_no_picture(finished: Project) -> None:
    path = finished.folder / "pipeline" / "engine" / "local.py"
    before = finished.outputs()
    path.write_text(path.read_text() + "# a comment\n")
    output = finished.run("dvc", "repro")
    assert set(EXTRACTED) <= set(stages_run(output))
    assert [pictures_read(output, kind) for kind in EXTRACTED] == [0, 0, 0]
    assert finished.outputs() == before


@pytest.mark.slow  # the pipeline twice
def test_a_decoding_option_reads_anew_and_going_back_reads_nothing(finished: Project) -> None:
    before = finished.outputs()
    finished.edit(captions={"blip": {"num_captions": 3}})
    output = finished.run("dvc", "repro", "views")
    assert stages_run(output) == ["check", "captions", "views"]
    assert pictures_read(output, "captions") > 40
    assert {len(row["captions"]) for row in finished.rows("data/contexts/captions.jsonl")} <= {0, 3}
    finished.edit(captions={"blip": {"num_captions": 1}})
    shutil.rmtree(finished.folder / ".dvc" / "cache" / "runs")  # DVC would not even start the stage
    output = finished.run("dvc", "repro", "views")
    assert pictures_read(output, "captions") == 0
    assert finished.outputs() == before


@pytest.mark.slow  # the pipeline again, from the captions on
def test_a_card_tells_what_its_contexts_were_read_by(finished: Project) -> None:
    """Also where another extractor reads the very same: `train` then runs anew, and only then."""
    card = (finished.folder / "report/model_card.md").read_text(encoding="utf-8")
    assert "Data set: sample/data." in card
    assert "objects by transformers (checkpoints/sample/detector)" in card
    before = finished.outputs()
    rows = (finished.folder / "data/contexts/captions.jsonl").read_bytes()
    (finished.folder / "captions.jsonl").write_bytes(rows)
    finished.edit(captions={"extractor": "precomputed", "precomputed": {"path": "captions.jsonl"}})
    finished.repro("views")
    assert {name: rows for name, rows in finished.outputs().items() if "views" in name} == {
        name: rows for name, rows in before.items() if "views" in name
    }
    status = finished.run("dvc", "status", "train")
    assert "data/views/sources.json" in status
    assert "data/views/train.jsonl" not in status
    finished.edit(captions={"extractor": "blip", "lavis": {"num_beams": 4}})  # of an extractor that is not in use
    assert finished.repro("views") == ["check", "captions", "views"]
    assert "data/views" not in finished.run("dvc", "status", "train")
    finished.edit(captions={"precomputed": {"path": None}, "lavis": {"num_beams": 3}})
    finished.repro()
    assert finished.outputs() == before


@pytest.mark.slow  # reads pictures again
def test_new_posts_cost_only_their_own_pictures(finished: Project) -> None:
    known = {row["sha256"] for row in finished.rows("data/images.jsonl")}
    finished.take("sample/data", "train.txt", 34)
    output = finished.run("dvc", "repro", "views")
    new = {row["sha256"] for row in finished.rows("data/images.jsonl") if row["status"] == "ok"} - known
    assert new
    assert [pictures_read(output, kind) for kind in EXTRACTED] == [len(new)] * 3
    for path in (finished.folder / "sample/data/images").iterdir():  # back to how it was
        if path.name not in {row["image"] for row in finished.rows("data/images.jsonl")}:
            path.unlink()


@pytest.mark.slow  # the pipeline again, from the captions on
def test_a_changed_checkpoint_reads_anew(finished: Project) -> None:
    finished.repro("captions")
    card = finished.folder / "checkpoints/sample/blip/README.md"
    card.write_text("another card\n")
    assert finished.repro("captions") == ["check"]  # no model reads it
    config = finished.folder / "checkpoints/sample/blip/generation_config.json"
    config.write_text(config.read_text().replace("{", '{"length_penalty": 0.9, ', 1))
    refused = finished.run("dvc", "repro", "captions", expect=None)
    assert "generation_config.json has changed" in refused
    finished.run("python", "-m", "pipeline.checkpoints", "seal", "checkpoints/sample/blip")
    output = finished.run("dvc", "repro", "views")
    assert next(stage for stage in stages_run(output) if stage != "check") == "captions"
    assert not {"objects", "ocr"} & set(stages_run(output))
    assert pictures_read(output, "captions") > 40


def test_dvc_tracks_a_data_set_and_a_checkpoint(tmp_path: Path) -> None:
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    project = Project(tmp_path, tmp_path / "store")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    project.run("dvc", "init", "-q")
    for place in ("corpora/mine", "checkpoints/mine"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "train.txt").write_text(f"{place}\n", encoding="utf-8")
        project.run("dvc", "add", place)
    project.run("dvc", "remote", "add", "--default", "mine", str(tmp_path / "remote"))
    assert "4 files pushed" in project.run("dvc", "push")  # each folder's list of files, and its file
    listed = subprocess.run(
        ["git", "ls-files", "-o", "--exclude-standard", "corpora", "checkpoints"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert sorted(listed) == ["checkpoints/mine.dvc", "corpora/mine.dvc"]
    for place in ("corpora/mine", ".dvc/cache"):
        shutil.rmtree(tmp_path / place)
    project.run("dvc", "pull")
    assert (tmp_path / "corpora/mine/train.txt").read_text(encoding="utf-8") == "corpora/mine\n"


@pytest.mark.slow  # the pipeline from an empty store
@pytest.mark.parametrize("victim", ["the stage and dvc", "dvc alone"])
def test_a_killed_run_is_finished_by_the_next(finished: Project, tmp_path: Path, victim: str) -> None:
    project = Project.make(tmp_path / "killed")
    project.run("dvc", "repro", "images")
    before = project.results_kept()
    process = project.start("dvc", "repro", "ocr")
    wait_for(lambda: project.results_kept() > before, 120)  # the first batch is in the store
    if victim == "dvc alone":
        process.kill()
        process.wait()
    else:
        kill_group(process)
    again = project.run("dvc", "repro", "ocr")
    fresh = Project.make(tmp_path / "fresh")
    fresh.run("dvc", "repro", "ocr")
    assert (project.folder / "data/contexts/ocr.jsonl").read_bytes() == (
        fresh.folder / "data/contexts/ocr.jsonl"
    ).read_bytes()
    total = sum(row["status"] == "ok" for row in fresh.rows("data/images.jsonl"))
    assert pictures_read(again, "ocr") < total


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"data": {"root": "nowhere"}}, "data.root: nowhere: no such folder"),
        ({"data": {"train": ["absent.txt"]}}, "absent.txt: no such file"),
        ({"data": {"train": [], "dev": [], "test": []}}, "train, dev and test name no file"),
        ({"captions": {"extractor": "blib"}}, "captions.extractor"),
        ({"captions": {"blip": {"num_beans": 3}}}, "num_beans"),
        ({"captions": {"blip": {"model": "checkpoints/none/at/all"}}}, "no such folder"),
        ({"train": {"encoder": "no-one/no-such-encoder"}}, "hf download no-one/no-such-encoder"),
        ({"train": {"epochs": -1}}, "train.epochs"),
    ],
    ids=["root", "file", "no file", "extractor", "option", "checkpoint", "encoder", "value"],
)
def test_a_mistake_stops_before_work_with_one_message(
    tmp_path: Path, edit: dict[str, dict[str, object]], message: str
) -> None:
    project = Project(tmp_path, tmp_path / "store")
    for name in ("params.yaml", "pipeline", "stages", "ner", "checkpoints"):
        os.symlink(ROOT / name, tmp_path / name)
    (tmp_path / "sample").symlink_to(ROOT / "sample")
    (tmp_path / "params.yaml").unlink()
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    project.edit(**edit)
    output = project.run("python", "-m", "stages.check", expect=2)
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "data").exists()
