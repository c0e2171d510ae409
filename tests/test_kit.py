"""One version everywhere, lock files that pip can check, hooks and CI that run the same checks, a careful clean."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ner.interop import model_card
from ner.training import facts
from pipeline.core.records import ViewSources
from pipeline.core.version import __version__
from pipeline.settings import params
from tests.conftest import ROOT

EXTRAS = ("serve", "spacy")
COMPLETE = "requirements-onnx.lock"
"""A lock file that is complete by itself: what it pins is in others, too."""
LOCKS = (
    *("requirements.lock", "requirements-cuda.lock", "requirements-dev.lock"),
    *(f"requirements-{extra}.lock" for extra in EXTRAS),
)
HASHES = r"((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;]+)( ; [^\\]+)?" + HASHES, re.MULTILINE)


def entries(name: str) -> list[tuple[str, str]]:
    """Name and version of every entry of a lock file, which must hold nothing else."""
    text = (ROOT / name).read_text(encoding="utf-8")
    header, _, rest = text.partition("\n")
    assert header.startswith("# ")
    assert ENTRY.sub("", rest) == "", "an entry without hashes, an option or an address"
    return [(normal(match[1]), match[2]) for match in ENTRY.finditer(rest)]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_version_is_the_same_everywhere() -> None:
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released, development, _ = __version__.partition(".dev")
    assert headings[0] == (f"{released} (unreleased)" if development else released)
    sources = ViewSources("d", {}, {})
    settings = params.load(ROOT / "params.yaml").train
    found = facts.gather(
        settings, sources, "sha256:0", {"train": [], "dev": []}, {"epochs": 1, "best_epoch": 1, "dev": {}}
    )
    assert f"Sightread {__version__}, torch" in model_card.render(found).replace("`", "")


def test_lock_files_have_exact_versions_and_hashes() -> None:
    found = {name: entries(name) for name in LOCKS}
    versions = dict(pin for pins in found.values() for pin in pins)
    alone = entries(COMPLETE)
    assert all(versions[name] == version for name, version in alone)
    assert {normal(re.split(r"[<>=]", line)[0]) for line in required("requirements-onnx.txt")} <= set(dict(alone))
    assert not {"torch", "transformers"} & set(dict(alone))
    everywhere = [name for pins in found.values() for name, _ in dict(pins).items()]
    assert len(everywhere) == len(set(everywhere)), "a package is in two lock files"
    for name in ("requirements", "requirements-dev", *(f"requirements-{extra}" for extra in EXTRAS)):
        wanted = {normal(re.split(r"[<>=]", line)[0]) for line in required(f"{name}.txt")}
        assert wanted <= {pin for lock in LOCKS for pin, _ in found[lock]}
    assert ("torch", "2.13.0") in found["requirements.lock"]
    assert not {"matplotlib", "types-pyyaml"} & set(everywhere)


def test_torchs_cpu_builds_are_in_the_lock_file() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    torch = lock[lock.index("\ntorch==") :]
    for line in required("requirements-torch.hashes"):
        hash_, wheel = line.split()
        assert f"--hash={hash_}" in torch
        assert f"torch=={wheel.split('-')[1].split('+')[0]}" in required("requirements.txt")


def test_hooks_are_programs_of_the_environment() -> None:
    settings = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in settings["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in settings["repos"]} == {"local"}, "others are downloaded"
    assert {hook["language"] for hook in hooks} == {"system"}
    for hook in hooks:
        assert shutil.which(shlex.split(hook["entry"])[0]), hook["id"]


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = YAML(typ="safe").load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "bash .ci/run" in commands
    assert (ROOT / ".ci/run").is_file()


@pytest.mark.parametrize("target", ["data/mine", "data/images"])
def test_make_clean_deletes_what_the_pipeline_wrote_and_no_data(tmp_path: Path, target: str) -> None:
    for name in ("Makefile", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    outputs = ("data/posts/train.jsonl", "data/images.jsonl", "data/contexts/ocr.jsonl", "data/views/dev.jsonl",
               "data/predictions/test.jsonl", "models/tagger/config.json", "metrics/evaluation.json", "plots/f1.tsv",
               "report/index.html", "dvc.lock")  # fmt: skip
    kept = (f"{target}/train.txt", f"{target}.dvc", "models/mine/config.json")
    for name in (*outputs, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", "dvc.yaml", *kept}
