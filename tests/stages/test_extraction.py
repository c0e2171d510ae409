"""The stages that read pictures, as they are run."""

import json
import re
from pathlib import Path

import pytest

from pipeline.core.features import Features
from tests.pipeline.extractors.grids import write_resnet
from tests.project import Project
from tests.reporting.made import MadePost, finish, project
from tests.reporting.test_report import text_of


@pytest.mark.slow  # all stages up to the report
def test_a_kind_that_is_off_reads_nothing_and_counts_nothing_as_failed(tmp_path: Path) -> None:
    tweet = MadePost("a", ["see", "Rome"], ["O", "B-LOC"], (60, 40), [], ["a street"], [{"text": "ROMA"}])
    made = finish(project(tmp_path / "run", {"test": [tweet]}, ocr={"extractor": None}))
    assert made.run("python", "-m", "stages.ocr") == "ocr: off\n"
    assert made.rows("data/contexts/ocr.jsonl") == []
    record = json.loads((made.folder / "metrics/runs/ocr.json").read_text())
    assert (record["extractor"], record["items"], record["failed"], record["changed"]) == (None, 0, 0, [])
    assert [view["context"] for view in made.rows("data/views/test.jsonl")] == ["a street"]
    sources = json.loads((made.folder / "data/views/sources.json").read_text())
    assert set(sources["contexts"]) == {"objects", "captions"}
    assert "valid" in made.run("python", "-m", "pipeline.params", "check")
    words = text_of((made.folder / "report/index.html").read_text(encoding="utf-8"))
    assert "Of kind ocr nothing is read: it is off (ocr.extractor is null)." in words
    assert "ocr off" in " ".join(words.split())
    refused = made.run("python", "-m", "stages.ocr", "--images", "set/images", "--output", "out.jsonl", expect=2)
    assert "ocr.extractor: null" in refused
    assert "Traceback" not in refused


def test_a_data_set_without_pictures_is_not_said_to_miss_them(tmp_path: Path) -> None:
    made = project(tmp_path / "run", {"test": [MadePost("a", ["see", "Rome"], ["O", "B-LOC"])]}, run=False)
    made.edit(data={"images": None})
    made.run("python", "-m", "stages.posts")
    said = made.run("python", "-m", "stages.images")
    assert said == "no pictures in this data set (data.images: null); 1 named by its posts\n"


def test_what_is_left_out_of_a_folder_is_told(tmp_path: Path) -> None:
    made = project(tmp_path / "run", {}, run=False)
    made.edit(captions={"extractor": "precomputed", "precomputed": {"path": "set/captions.txt"}})
    (made.folder / "pictures/sub").mkdir(parents=True)
    (made.folder / "pictures/door").symlink_to("sub")
    for name in ("a.jpg", "sub/b.jfif", "a.txt", "sub/b.txt", "c.txt"):
        (made.folder / "pictures" / name).touch()
    (made.folder / "set/captions.txt").write_text("a :a dog\nb :a cat\n")
    command = ("python", "-m", "stages.captions", "--images", "pictures", "--output", "out.jsonl")
    closing = made.run(*command)
    assert closing.endswith("0 failed; left out: 3 files that are no pictures (.txt), 1 linked folder\n"), closing
    assert [row["image"] for row in made.rows("out.jsonl")] == ["a.jpg", "sub/b.jfif"]


@pytest.mark.slow  # all stages up to the report
def test_features_are_off_unless_an_extractor_is_named(tmp_path: Path) -> None:
    tweet = MadePost("a", ["see", "Rome"], ["O", "B-LOC"], (60, 40), [], ["a street"])
    made = finish(project(tmp_path / "run", {"test": [tweet]}))
    features = Features.open(made.folder / "data/features")
    assert (features.regions, len(features)) == (None, 0)
    assert {path.name for path in (made.folder / "data/features").iterdir()} == {"index.jsonl", "facts.json"}
    assert "features.extractor" not in (made.folder / "report/index.html").read_text(encoding="utf-8")
    write_resnet(made.folder / "resnet")
    options = {"model": "resnet", "side": 64, "grid": 2}
    made.edit(features={"extractor": "resnet", "resnet": options})
    assert made.run("python", "-m", "stages.features") == "1 picture: 1 read, 0 from the store, 0 failed\n"
    features = Features.open(made.folder / "data/features")
    assert (features.regions, features.width, list(features)) == (4, 40, ["a.png"])
    record = json.loads((made.folder / "metrics/runs/features.json").read_text())
    assert (record["extractor"], record["fingerprint"]["grid"], record["items"]) == ("resnet", 2, 1)
    closing = made.run("python", "-m", "stages.features", "--images", "set/images", "--output", "mine")
    assert closing == "1 picture: 0 read, 1 from the store, 0 failed\n"
    found = Features.open(made.folder / "mine")["a.png"]
    assert (found == features["a.png"]).all()
    words = " ".join(text_of((finish(made).folder / "report/index.html").read_text(encoding="utf-8")).split())
    assert "features resnet" in words
    assert "features.extractor" in words


def test_a_part_that_is_none_is_refused(tmp_path: Path) -> None:
    made = project(tmp_path / "run", {}, run=False)
    said = made.run("python", "-m", "stages.captions", "--part", "3/3", expect=2)
    assert said == "error: --part 3/3: expected I/N with I from 0 to N - 1, as in --part 3/64\n"
    said = made.run(
        *("python", "-m", "stages.captions", "--part", "0/2", "--images", "set/images", "--output", "o"), expect=2
    )
    assert said == "error: --part I/N shares out the pipeline's pictures; leave --images DIR out\n"


@pytest.mark.slow  # a cluster
def test_a_stage_gives_the_same_file_by_itself_in_parts_and_on_a_cluster(tmp_path: Path) -> None:
    for package in ("ray", "pyarrow"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-ray.lock)")
    made = Project.make(tmp_path / "run", {"train": 12, "valid": 4, "test": 4})
    for stage in ("posts", "images", "captions", "objects"):
        made.run("python", "-m", f"stages.{stage}")
    output, objects = (made.folder / f"data/contexts/{kind}.jsonl" for kind in ("captions", "objects"))
    expected, expected_objects = output.read_bytes(), objects.read_bytes()
    count = expected.count(b'"status": "ok"')
    made.edit(execution={"results": str(tmp_path / "parts")})
    read = [made.run("python", "-m", "stages.captions", "--part", f"{number}/2") for number in range(2)]
    assert [int(line.split(": ")[1].split(" ")[0]) for line in read] == [count, 0], "so few are one shard"
    assert f" 0 read, {count} from the store" in made.run("python", "-m", "stages.captions")
    assert output.read_bytes() == expected
    for results in (None, str(tmp_path / "parts of the cluster")):
        made.store = tmp_path / f"store {results is None}"
        output.unlink()
        made.edit(execution={"engine": "ray", "results": results, "one_pass": ["captions", "objects"]})
        said = made.run("python", "-m", "stages.captions")
        assert f" {count} read, 0 from the store" in said
        assert f"objects, along with captions: {count} read, 0 failed\n" in said
        assert output.read_bytes() == expected
        assert f" 0 read, {count} from the store" in made.run("python", "-m", "stages.objects")
        assert objects.read_bytes() == expected_objects


@pytest.mark.slow  # twelve stages
def test_kinds_read_in_one_pass_give_the_files_of_separate_passes(tmp_path: Path) -> None:
    made = Project.make(tmp_path / "run", {"train": 12, "valid": 4, "test": 4})
    made.edit(features={"extractor": "resnet"})
    for stage in ("posts", "images"):
        made.run("python", "-m", f"stages.{stage}")
    kinds = ("objects", "captions", "ocr", "features")

    def outputs() -> dict[str, bytes]:
        files = (path for place in ("contexts", "features") for path in (made.folder / "data" / place).rglob("*"))
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    for kind in kinds:
        made.run("python", "-m", f"stages.{kind}")
    expected = outputs()
    assert len(expected) >= 6
    made.store = tmp_path / "another store"
    made.edit(execution={"one_pass": ["captions", "features", "objects"]})
    said = made.run("python", "-m", "stages.captions")
    [count] = {int(number) for number in re.findall(r", along with captions: (\d+) read, 0 failed", said)}
    assert f"{count} read, 0 from the store" in said
    for kind in ("objects", "features"):
        assert f" 0 read, {count} from the store" in made.run("python", "-m", f"stages.{kind}")
    assert f"{count} read" in made.run("python", "-m", "stages.ocr"), "it is not among those of the one pass"
    assert outputs() == expected
    made.store = tmp_path / "a third store"
    made.edit(
        execution={"one_pass": list(kinds)},
        captions={"extractor": "lavis"},
        objects={"transformers": {"model": "checkpoints/none"}},
        ocr={"extractor": "precomputed", "precomputed": {"path": "sample/data/none.jsonl"}},
    )
    said = made.run("python", "-m", "stages.features")
    assert "features: objects is not read along, but left to its own stage: " in said
    assert "captions" not in said, "what reads in a separate environment is left out"
    assert f"{count} read" in said
