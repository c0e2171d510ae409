"""A copy of the project with a small cut of the sample, for tests that run the real `dvc repro` on it."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.settings import yaml
from tests.conftest import ROOT

STAGES = (
    *("check", "posts", "images", "objects", "captions", "ocr", "features", "knowledge", "views"),
    *("train", "evaluate", "report"),
)
CUT = {"train": 30, "valid": 10, "test": 12}


@dataclass
class Project:
    """A checkout in a folder of its own, with a store of its own."""

    folder: Path
    store: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, cut: Mapping[str, int] = CUT) -> "Project":
        """Copy what git would track, the sample cut to so many posts a split."""
        listing = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        kept = [name for name in listing.split("\0") if name and not name.startswith("sample/data/")]
        for name in kept:
            if (ROOT / name).is_file() and not name.startswith("tests/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        project = cls(folder, folder.parent / f"{folder.name}-store")
        for split, count in cut.items():
            project.take("sample/data", f"{split}.txt", count)
        project.edit(train={"epochs": 2})
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "cut"]):
            subprocess.run([*git, *command], cwd=folder, check=True)
        return project

    def take(self, root: str, name: str, count: int) -> list[str]:
        """Put the first `count` posts of a sample file, with their pictures, in the file's place; return their ids."""
        posts = (ROOT / root / name).read_text(encoding="utf-8").split("IMGID:")[1:][:count]
        target = self.folder / root
        (target / "images").mkdir(parents=True, exist_ok=True)
        (target / name).write_text("".join(f"IMGID:{post}" for post in posts), encoding="utf-8")
        ids = [post.split("\n", 1)[0] for post in posts]
        for identifier in ids:
            picture = ROOT / root / "images" / f"{identifier}.jpg"
            if picture.exists():
                shutil.copy2(picture, target / "images" / picture.name)
        return ids

    def edit(self, **sections: Mapping[str, Any]) -> None:
        """Change keys of params.yaml, section by section; a mapping changes the keys of a mapping."""
        path = self.folder / "params.yaml"
        params = yaml.load(path).values
        for section, changes in sections.items():
            for key, value in changes.items():
                if isinstance(value, Mapping):
                    params[section][key].update(value)
                else:
                    params[section][key] = value
        path.write_text(yaml.dump(params), encoding="utf-8")

    def command(self, *arguments: str) -> tuple[list[str], dict[str, Any]]:
        """Arguments and environment of a command in the project: `dvc …`, or `python …`."""
        bin_folder = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "SIGHTREAD_STORE": str(self.store),
            "PYTHONPATH": "",
            **self.environment,
        }
        program = [sys.executable, "-m", "dvc"] if arguments[0] == "dvc" else [sys.executable]
        return [*program, *arguments[1:]], {"cwd": self.folder, "env": environment}

    def run(self, *arguments: str, expect: int | None = 0) -> str:
        """Run a command to its end and return its output, stdout and stderr together."""
        command, options = self.command(*arguments)
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
        )
        assert expect is None or done.returncode == expect, done.stdout
        return done.stdout

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own."""
        command, options = self.command(*arguments)
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True, **options
        )

    def repro(self, *arguments: str) -> list[str]:
        """`dvc repro`; return the stages that it ran."""
        return stages_run(self.run("dvc", "repro", *arguments))

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A JSON Lines file of the project."""
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").split("\n") if line]

    def results_kept(self) -> int:
        """How many results the project's store holds, of whatever kind."""
        total = 0
        for path in (self.store / "results").glob("*.sqlite3"):
            with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.OperationalError):  # no table yet
                total += connection.execute("SELECT count(*) FROM results").fetchone()[0]
        return total

    def outputs(self) -> dict[str, bytes]:
        """Name → content of what the data stages wrote."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted((self.folder / "data").rglob("*.jsonl"))
        }


def stages_run(output: str) -> list[str]:
    """The stages that DVC says it ran."""
    return re.findall(r"Running stage '(\w+)'", output)


def kill_group(process: "subprocess.Popen[str]") -> None:
    """SIGKILL a command started by :meth:`Project.start` and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Poll until `condition()` holds.

    Raises:
        TimeoutError: it does not within the time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come to hold in {seconds} s")
        time.sleep(0.05)
