"""docs/extractors.md: an extractor of one's own, made just as the page says, and no extractor or option left out."""

import json
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from pipeline.extractors.registry import REGISTRY, choose
from pipeline.settings import yaml
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "extractors.md").read_text(encoding="utf-8")


def block(language: str, section: str) -> str:
    """The one block of code in that language below a heading."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    [code] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(code)


def test_an_extractor_of_ones_own_is_made_as_the_page_says(tmp_path: Path) -> None:
    code, change = block("python", "Your own"), yaml.parse(block("yaml", "Your own"), "the block").values
    module = tmp_path / re.findall(r"Save this as `(.*?)`", PAGE)[0]
    module.parent.mkdir()
    module.write_text(code)
    assert len([line for line in code.split("class ")[1].splitlines() if line.strip()]) < 20
    params = yaml.load(ROOT / "params.yaml").values
    params["captions"].update(change["captions"])
    (tmp_path / "params.yaml").write_text(yaml.dump(params))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (20, 10), (110, 110, 110)).save(tmp_path / "pictures" / "a.png")
    Image.new("RGB", (10, 20), (90, 90, 90)).save(tmp_path / "pictures" / "b.png")
    for folder in ("pipeline", "stages"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    [command] = [line for line in block("sh", "Your own").splitlines() if "--images" in line]
    program, *arguments = command.replace("DIR", "pictures").split()
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [(row["image"], row["status"], row["captions"]) for row in rows] == [
        ("a.png", "ok", [{"text": "a wide, bright picture", "score": 1.0}]),
        ("b.png", "ok", [{"text": "a tall, dark picture", "score": 1.0}]),
    ]


def test_every_extractor_and_option_is_on_the_page() -> None:
    params = yaml.load(ROOT / "params.yaml").values
    for kind, extractors in REGISTRY.items():
        for name in extractors:
            assert f"`{kind}.extractor: {name}`" in PAGE
            options = type(choose(kind, {**params[kind], "extractor": name}).create()).Options  # type: ignore[union-attr]
            if name != "rapidocr":  # whose options params.yaml explains
                for option in options.model_fields:
                    assert re.search(rf"`{option}[`:]", PAGE), f"{kind}.{name}.{option}"
