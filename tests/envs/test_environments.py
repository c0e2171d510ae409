"""Separate environments: built to the end or not used, and a command that changes to one stays the same process."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import environments
from pipeline.core.errors import UserError
from pipeline.settings import yaml
from tests.conftest import ROOT
from tests.envs.tiny import Tiny
from tests.project import wait_for


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    project = Tiny(tmp_path_factory.mktemp("tiny"))
    project.build()
    return project


def test_a_missing_environment_is_named_with_the_command_that_builds_it(tmp_path: Path) -> None:
    project = Tiny(tmp_path)
    command = "python -m pipeline.environments sync tiny"
    noted = project.captions(expect=2, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in noted.splitlines()}
    assert "pipeline.core.environments" in imported
    assert not {"torch", "transformers", "onnxruntime", "cv2", "huggingface_hub"} & imported, "nothing heavy before"
    for found in (noted, project.run("-m", "pipeline.params", "check", expect=2)):
        assert f"tiny needs a separate environment, {project.venv}, which is not built; run: {command}" in found
        assert "Traceback" not in found
    assert f"is not built; {command}" in project.environments("status")
    assert "choose from tiny" in project.environments("sync", "other", expect=2).replace("'", "")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_build_that_does_not_end_is_not_used(tmp_path: Path) -> None:
    project = Tiny(tmp_path)
    (project.folder / "envs" / "tiny.txt").write_text("no-such-package-as-this==1.0\n")
    assert "The environment is incomplete" in project.environments("sync", "tiny", expect=2)
    assert project.venv.is_dir()
    assert "is incomplete" in project.environments("status")
    assert f"{project.venv}, which is incomplete; run: " in project.captions(expect=2)
    (project.folder / "envs" / "tiny.txt").write_text("")
    project.build()
    assert f"ready, {project.venv}" in project.environments("status")
    (project.folder / "envs" / "tiny.txt").write_text("# a comment\n")
    assert "ready" in project.environments("status"), "comments are no pins"
    (project.folder / "envs" / "tiny.txt").write_text("pillow==13.0.0\n")
    assert "is out of date: envs/tiny.txt has changed" in project.environments("status")
    assert "run: python -m pipeline.environments sync tiny" in project.captions(expect=2)


BACKEND = """
import time, zipfile
from pathlib import Path

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    Path("../building").touch()
    while Path("../wait").exists():
        time.sleep(0.05)
    with zipfile.ZipFile(Path(wheel_directory, "slow-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("slow.py", "")
        wheel.writestr("slow-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: slow\\nVersion: 1\\n")
        wheel.writestr("slow-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("slow-1.dist-info/RECORD", "")
    return "slow-1-py3-none-any.whl"
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_build_that_is_interrupted_is_done_again(tmp_path: Path, number: int, status: int) -> None:
    """uv builds a package that takes its time, and is killed or stopped with the command, as from a terminal."""
    project = Tiny(tmp_path)
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "slow"\nversion = "1"\n'
    )
    (slow / "backend.py").write_text(BACKEND)
    (tmp_path / "envs" / "tiny.txt").write_text(f"{slow}\n")
    (tmp_path / "wait").touch()
    sync = ("-m", "pipeline.environments", "sync", "tiny")
    with project.start(*sync, UV_CACHE_DIR=str(tmp_path / "uv")) as process:
        wait_for(lambda: (tmp_path / "building").exists() or process.poll() is not None)
        os.killpg(process.pid, number)
        output, errors = process.communicate()
    assert process.returncode == status, output + errors
    assert "Traceback" not in errors
    assert project.venv.is_dir()
    assert "is incomplete" in project.environments("status")
    (tmp_path / "wait").unlink()
    assert "ready" in project.run(*sync, UV_CACHE_DIR=str(tmp_path / "uv"))
    assert list(project.venv.glob("lib/python*/site-packages/slow.py"))


def break_marker(folder: Path) -> None:
    (folder / "sightread.json").write_text('{"pins": "')


def lose_python(folder: Path) -> None:
    for program in (folder / "bin").iterdir():
        program.unlink()


@pytest.mark.parametrize("damage", [break_marker, lose_python])
def test_every_incomplete_environment_gives_the_same_message(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    project = Tiny(tmp_path)
    project.environments("sync", "tiny")
    damage(project.venv)
    assert "tiny         is incomplete; python -m pipeline.environments sync tiny" in project.environments("status")
    expected = f"tiny needs a separate environment, {project.venv}, which is incomplete; run: "
    assert expected in project.captions(expect=2)
    assert "ready" in project.environments("sync", "tiny")
    assert "ready" in project.environments("status")


def test_a_package_missing_from_an_environment_makes_it_incomplete(built: Tiny) -> None:
    script = (
        "from pipeline.core import environments\n"
        "from pipeline.core.errors import UserError\n"
        "try:\n    environments.version('tiny', 'no-such-package')\n"
        "except UserError as error:\n    print(error)"
    )
    done = subprocess.run(
        [built.venv / "bin" / "python", "-c", script], cwd=built.folder, capture_output=True, text=True, check=True
    )
    assert f"tiny needs a separate environment, {built.venv}, which is incomplete; run: " in done.stdout


def test_a_folder_that_was_not_built_here_is_not_deleted(tmp_path: Path) -> None:
    project = Tiny(tmp_path)
    project.venv.mkdir(parents=True)
    for name in ("setup.py", "pyvenv.cfg"):  # source code, or another tool's environment, with the same name
        (project.venv / name).write_text("")
        assert f"{project.venv}: was not built by this command" in project.environments("sync", "tiny", expect=2)
        assert [path.name for path in project.venv.iterdir()] == [name]
        (project.venv / name).unlink()
    assert "ready" in project.environments("sync", "tiny"), "an empty folder is taken"


def test_a_source_in_the_environments_own_folder_is_not_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIGHTREAD_VENVS", str(tmp_path))
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    source = tmp_path / "detectron2" / "setup.py"
    source.parent.mkdir()
    source.write_text("print('the source')")
    for marker in (None, source.with_name("sightread.json")):
        if marker is not None:
            marker.write_text('{"pins": null}')
        with pytest.raises(
            UserError, match=r"--source .*detectron2: is in .*detectron2, where the environment is built"
        ):
            environments.sync("detectron2", str(source.parent))
        assert source.read_text() == "print('the source')"


def test_the_stage_goes_on_in_the_environment(built: Tiny) -> None:
    built.set()
    with built.start(
        "-m", "stages.captions", "--images", "pictures", "--output", "out.jsonl", CARRIED="along"
    ) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "1 read" in output
    [row] = built.rows()
    assert row["captions"][0]["text"] == f"{built.venv} along True {process.pid}", "prefix, environment, process"
    moved = built.folder / "elsewhere"
    shutil.move(built.folder / ".venvs", moved)
    try:
        built.captions(expect=2)
        assert "from the store" in built.captions(SIGHTREAD_VENVS=str(moved), CARRIED="along")
        assert "expected an absolute folder" in built.captions(expect=2, SIGHTREAD_VENVS="elsewhere")
    finally:
        shutil.move(moved, built.folder / ".venvs")


def test_status_and_signals_reach_the_caller(built: Tiny) -> None:
    built.set(refuse=True)
    assert "error: not today" in built.captions(expect=2)
    built.set(wait=True)
    for sent, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        (built.folder / "waiting").unlink(missing_ok=True)
        with built.start("-m", "stages.captions", "--images", "pictures", "--output", "out.jsonl") as process:
            wait_for(lambda process=process: (built.folder / "waiting").exists() or process.poll() is not None)
            process.send_signal(sent)
            _, errors = process.communicate()
        assert process.returncode == expected, errors
        assert "Traceback" not in errors


def test_an_environment_that_starts_another_python_is_not_entered_forever(built: Tiny) -> None:
    built.set()
    settings = built.venv / "pyvenv.cfg"
    kept = settings.read_text()
    settings.rename(built.folder / "pyvenv.cfg")
    try:
        found = built.captions(expect=2, PYTHONPATH=sysconfig.get_path("purelib"))
        assert f"instead of that of {built.venv}; delete the folder" in found
    finally:
        settings.write_text(kept)


@pytest.mark.slow  # an experiment of DVC
def test_an_experiment_in_a_folder_of_its_own_finds_it(built: Tiny) -> None:
    """`dvc exp run --temp` copies what git tracks, which the interpreters are not."""
    built.set()
    (built.folder / "dvc.yaml").write_text(
        yaml.dump(
            {
                "stages": {
                    "captions": {
                        "cmd": "python -m stages.captions --images pictures --output out.jsonl",
                        "deps": ["pictures"],
                        "params": ["captions"],
                        "outs": ["out.jsonl"],
                    }
                }
            }
        )
    )
    (built.folder / ".gitignore").write_text(".venvs/\nstore/\n__pycache__/\nwaiting\n")
    (built.folder / "out.jsonl").unlink(missing_ok=True)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        whole = command if command[0] == sys.executable else [*git, *command]
        subprocess.run(whole, cwd=built.folder, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = built.run(
        "-m",
        "dvc",
        "exp",
        "run",
        "--temp",
        PATH=path,
        GIT_AUTHOR_NAME="t",
        GIT_AUTHOR_EMAIL="t@x",
        GIT_COMMITTER_NAME="t",
        GIT_COMMITTER_EMAIL="t@x",
    )
    assert "Running stage 'captions'" in found
    assert "1 read, 0 from the store, 0 failed" in found or "1 from the store" in found
    assert not (built.folder / "out.jsonl").exists(), "it ran elsewhere"


def test_every_environment_has_exact_pins_and_no_index() -> None:
    assert environments.names() == ["detectron2", "easyocr", "flair", "lavis", "vlm"]
    for name in environments.names():
        text = environments.environment(name).pins.read_text(encoding="utf-8")
        pins = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert all("==" in pin and "://" not in pin and not pin.startswith("-") for pin in pins), name
        wanted = (ROOT / "envs" / f"{name}.in").read_text(encoding="utf-8").splitlines()
        assert {
            line.split("<")[0].split(">")[0].split("=")[0].replace(".", "-")
            for line in wanted
            if line and line[0] != "#"
        } <= {pin.split("==")[0].replace(".", "-") for pin in pins}, "compiled from what stands beside it"


def test_what_ray_needs_has_exact_pins_that_replace_none_of_the_environments() -> None:
    locked = (ROOT / "requirements-ray.lock").read_text(encoding="utf-8")
    [ray] = [line.split(" ")[0] for line in locked.splitlines() if line.startswith("ray==")]
    for path in sorted((ROOT / "envs" / "ray").iterdir()):
        wanted = environments.environment(path.stem)
        assert wanted.ray_pins == path
        pins = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert ray in pins, "one Ray on a cluster"
        base = [line for line in wanted.pins.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert any(pin.startswith("pyarrow==") for pin in [*pins, *base]), path
        assert all("==" in pin and "://" not in pin for pin in pins), path
        assert not {pin.split("==")[0] for pin in pins} & {pin.split("==")[0] for pin in base}, path


def wheel(folder: Path) -> Path:
    """One that has nothing in it."""
    with zipfile.ZipFile(folder / "nothing-1-py3-none-any.whl", "w") as file:
        file.writestr("nothing-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1\n")
        file.writestr("nothing-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("nothing-1.dist-info/RECORD", "")
        return Path(str(file.filename))


def test_what_ray_needs_is_added_and_stays(tmp_path: Path) -> None:
    project = Tiny(tmp_path)
    assert "--ray: nothing in tiny reads" in project.environments("sync", "tiny", "--ray", expect=2)
    assert not project.venv.exists()
    pins = project.folder / "envs" / "ray" / "tiny.txt"
    pins.parent.mkdir()
    pins.write_text("# nothing yet\n")
    project.build()
    project.set({"engine": "ray"})
    message = f"tiny runs in a separate environment, {project.venv}, which has no Ray; run, on every node: python -m "
    assert message in project.captions(expect=2)
    assert message in project.run("-m", "pipeline.params", "check", expect=2)
    (project.venv / "kept").touch()
    project.environments("sync", "tiny", "--ray")
    assert (project.venv / "kept").exists(), "it was not built anew"
    assert f"ready, {project.venv}, with Ray" in project.environments("status")
    (project.folder / "envs" / "tiny.txt").write_text(f"{wheel(tmp_path)}\n")
    project.build()
    assert not (project.venv / "kept").exists()
    assert f"ready, {project.venv}, with Ray" in project.environments("status"), "built anew, it has it again"
    pins.write_text("no-such-package-as-this==1.0\n")
    assert "with Ray" not in project.environments("status")
    assert f"has another Ray than {pins} now names" in project.captions(expect=2)
    assert "failed with status" in project.environments("sync", "tiny", "--ray", expect=2)
    assert "which has no Ray" in project.captions(expect=2)
    assert f"ready, {project.venv}" in project.environments("status"), "without Ray it can be used"


def test_a_package_that_is_on_no_index_needs_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGHTREAD_VENVS", str(tmp_path))
    monkeypatch.delenv("SIGHTREAD_DETECTRON2", raising=False)
    with pytest.raises(UserError, match=r"on no package index.*sync detectron2 --source PATH_OR_URL, or SIGHTREAD_"):
        environments.sync("detectron2")
    assert not (tmp_path / "detectron2").exists()
    with pytest.raises(UserError, match="--source: lavis gets all its packages from the index"):
        environments.sync("lavis", "somewhere")
    with pytest.raises(UserError, match="the environments are detectron2, easyocr, flair, lavis, vlm"):
        environments.environment("other")
