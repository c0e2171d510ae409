"""A project with a separate environment called `tiny`, and an extractor that runs there."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.settings import yaml
from tests.conftest import ROOT

EXTRACTOR = '''
"""A captioner that says where it runs, and waits or refuses where it is asked to."""

import os
import sys
import time
from pathlib import Path

from pipeline.core.records import Caption
from pipeline.core.errors import UserError


class Where:
    INTERPRETER = "tiny"

    def __init__(self, wait=False, refuse=False):
        self.wait, self.refuse = wait, refuse

    def fingerprint(self):
        return {"extractor": "where", "version": 1, "prefix": sys.prefix, "refuse": self.refuse, "wait": self.wait}

    def extract(self, images):
        if self.refuse:
            raise UserError("not today")
        if self.wait:
            Path("waiting").touch()
            time.sleep(60)
        light = "torch" not in sys.modules
        return [[Caption(f"{sys.prefix} {os.environ.get('CARRIED')} {light} {os.getpid()}")] for _ in images]
'''


class Tiny:
    """A project with an environment called `tiny`, which has the core's light packages and none of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("pipeline", "stages", "ner"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "envs").mkdir()
        (folder / "envs" / "tiny.txt").write_text("# nothing yet\n")
        (folder / "where.py").write_text(EXTRACTOR)
        (folder / "pictures").mkdir()
        Image.new("RGB", (20, 10)).save(folder / "pictures" / "a.png")
        self.set()

    @property
    def venv(self) -> Path:
        return self.folder / ".venvs" / "tiny"

    def set(self, execution: Mapping[str, Any] | None = None, **options: Any) -> None:
        """Options of the extractor, and of the section `execution`, in params.yaml."""
        params = yaml.load(ROOT / "params.yaml").values
        params["captions"] |= {"extractor": "where:Where", "where:Where": options}
        params["execution"] |= execution or {}
        params["data"] |= {"root": ".", "images": "pictures"}
        (self.folder / "params.yaml").write_text(yaml.dump(params))

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        settings = {**os.environ, "SIGHTREAD_STORE": str(self.folder / "store"), "UV_OFFLINE": "1", **environment}
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=settings,
            start_new_session=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        with self.start(*arguments, **environment) as process:
            output, errors = process.communicate()
        assert process.returncode == expect, output + errors
        return output + errors

    def environments(self, *arguments: str, expect: int = 0) -> str:
        return self.run("-m", "pipeline.environments", *arguments, expect=expect)

    def build(self, *options: str) -> None:
        self.environments("sync", "tiny", *options)
        # What its pins would bring; nothing is fetched in tests.
        for packages in self.venv.glob("lib/python*/site-packages"):
            (packages / "core.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def captions(self, expect: int = 0, **environment: str) -> str:
        return self.run(
            "-m", "stages.captions", "--images", "pictures", "--output", "out.jsonl", expect=expect, **environment
        )

    def rows(self) -> list[Mapping[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]
