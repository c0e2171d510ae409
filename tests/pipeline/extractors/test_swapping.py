"""Another extractor is one line of params: `dvc exp run -S` runs what follows from it, and going back reads nothing."""

import shutil
from pathlib import Path

import pytest

from tests.pipeline.extractors.chat_server import ChatServer
from tests.pipeline.extractors.onnx_file import write_yolox
from tests.project import Project, stages_run


@pytest.mark.slow
def test_each_of_the_three_is_swapped_by_one_line_and_back_for_nothing(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project", {"train": 6, "valid": 2, "test": 2})
    write_yolox(project.folder / "checkpoints" / "yolox.onnx")
    names = [
        f"{post.split(chr(10), 1)[0]}.jpg"
        for split in ("train", "valid", "test")
        for post in (project.folder / f"sample/data/{split}.txt").read_text().split("IMGID:")[1:]
    ]
    (project.folder / "sample/data/published.txt").write_text("".join(f"{name} :about {name}\n" for name in names))
    project.edit(
        objects={"yolox": {"model": "checkpoints/yolox.onnx", "classes": ["a", "b", "c"]}},
        captions={"precomputed": {"path": "sample/data/published.txt"}},
    )

    def run(*changes: str) -> tuple[list[str], str]:
        output = project.run("dvc", "exp", "run", *(part for change in changes for part in ("-S", change)), "views")
        return stages_run(output), output

    assert run()[0] == ["check", "posts", "images", "objects", "captions", "ocr", "knowledge", "views"]
    before = project.outputs()
    swaps = [("objects", "transformers", "yolox"), ("captions", "blip", "precomputed")]
    if shutil.which("tesseract"):
        swaps.append(("ocr", "rapidocr", "tesseract"))
    for kind, first, other in swaps:
        stages, output = run(f"{kind}.extractor={other}")
        assert kind in stages
        assert set(stages) <= {"check", kind, "knowledge", "views"}
        assert "10 read, 0 from the store, 0 failed" in output
        assert project.outputs()[f"data/contexts/{kind}.jsonl"] != before[f"data/contexts/{kind}.jsonl"]
        assert set(run(f"{kind}.extractor={first}")[0]) <= {"check"}, "the run cache has the rest"
        assert project.outputs() == before


@pytest.mark.slow
@pytest.mark.timeout(900)  # three runs of DVC, on a machine that may have other work
def test_a_served_model_is_swapped_in_and_back_and_asked_once(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project", {"train": 6, "valid": 2, "test": 2})

    def run(extractor: str) -> list[str]:
        return stages_run(project.run("dvc", "exp", "run", "-S", f"captions.extractor={extractor}", "views"))

    with ChatServer() as server:
        project.environment["SIGHTREAD_HTTP_URL"] = server.url
        assert run("http") == ["check", "posts", "images", "objects", "captions", "ocr", "knowledge", "views"]
        assert len(server.questions) == 10
        swapped = project.outputs()
        assert run("blip") == ["check", "captions", "knowledge", "views"]
        assert set(run("http")) <= {"check"}, "the run cache has the rest"
        assert project.outputs() == swapped
        assert "0 read, 10 from the store, 0 failed\n" in project.run("python", "-m", "stages.captions")
        assert len(server.questions) == 10
    assert project.outputs() == swapped
