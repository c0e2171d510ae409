"""The README and docs/ do as they say: their commands run, their params are valid, their links lead somewhere.

Every `bash`, `sh` and `python` block of a page is run, in order, in a copy of a project that has been through
`dvc repro`. A block that needs what is not here (a network, real tweets, another interpreter) has the comment
`<!-- needs: … -->` on the line above; what it names is looked up all the same.
"""

import ast
import copy
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.core.records import Post
from pipeline.corpus import conll, csv, jsonl
from pipeline.corpus.dataset import each_of_split
from pipeline.corpus.digests import label_digest, text_digest
from pipeline.corpus.report import report
from pipeline.extractors import registry
from pipeline.settings import params, yaml
from pipeline.settings import presets as preset
from tests.conftest import ROOT
from tests.project import Project
from tests.test_imports import is_main_block

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "sample" / "README.md"]  # looked up, not run
ROOMS = ("pipeline", "ner", "reporting", "stages", "sightread", "sample", "benchmarks")
# What stands for the reader's own in a command, and what is taken for it.
STAND_INS = {"--images DIR": "--images sample/data/images", "FILE.jsonl": "read.jsonl"}
BREAKS = {"|", "&&", ";", "||", ">", "<"}


@dataclass(frozen=True)
class Block:
    """A fenced block: where its code begins, its language, what it needs (None: nothing), its code."""

    page: Path
    line: int
    language: str
    needs: str | None
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?:^<!-- needs: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(page, text.count("\n", 0, match.start(3)) + 1, match[2], match[1], match[3])


ALL = [block for page in [*PAGES, *OTHERS] for block in blocks(page)]
SHELL = [block for block in ALL if block.language in ("bash", "sh")]


def commands(code: str) -> Iterator[list[str]]:
    """The simple commands of a shell block, as words."""
    rest = code.replace("\\\n", " ").splitlines()
    while rest:
        line = rest.pop(0)
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that goes on in the next line
            rest[0] = f"{line}\n{rest[0]}"
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if word not in BREAKS:
                command.append(word)
            elif command:
                yield command
                command = []


def source_of(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def trees(module: str) -> Iterator[ast.Module]:
    """The code that reads a module's command line: its own, what stages share, and what its main block imports."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    yield tree
    in_main = {inner for node in tree.body if is_main_block(node) for inner in ast.walk(node)}
    for node in [*tree.body, *in_main]:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                if source_of(name).is_file() and (node in in_main or name.startswith("stages.shared.")):
                    yield ast.parse(source_of(name).read_text(encoding="utf-8"))


def given_to(module: str, method: str) -> set[str]:
    """The texts that a module's command line gives to argparse's `add_argument` or `add_parser`."""
    return {
        argument.value
        for tree in trees(module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def problems(command: list[str]) -> Iterator[str]:
    """What a command names that is not there."""
    match command:
        case ["python", "-m", module, *arguments] if module.split(".")[0] in ROOMS:
            if not source_of(module).is_file():
                yield f"no module {module}"
                return
            known, subcommands = given_to(module, "add_argument"), given_to(module, "add_parser")
            yield from (
                f"{module} has no option {word}"
                for word in arguments
                if word.startswith("--") and word.partition("=")[0] not in known
            )
            if subcommands and arguments and arguments[0] not in subcommands:
                yield f"{module} has no command {arguments[0]}"
            if module == "pipeline.preset" and arguments and arguments[0] not in preset.names():
                yield f"no preset {arguments[0]}"
        case ["dvc", "repro", *arguments]:
            stages = yaml.load(ROOT / "dvc.yaml").values["stages"]
            yield from (f"no stage {word}" for word in arguments if not word.startswith("-") and word not in stages)
        case ["dvc", "exp", "run", *arguments]:
            changes = [
                word for place, word in enumerate(arguments) if place and arguments[place - 1] in ("-S", "--set-param")
            ]
            settings = shipped()
            for key, _, value in (change.partition("=") for change in changes):
                *parents, name = key.split(".")
                section = settings
                for parent in parents:
                    section = section[parent]
                section[name] = yaml.parse(value, "the command").values
            yield from invalid(settings)
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            yield from (
                f"no target {word}"
                for word in targets
                if "=" not in word and not re.search(rf"^{word}:", makefile, re.MULTILINE)
            )
        case ["pytest", *arguments]:
            yield from (
                f"no file {word}"
                for word in arguments
                if word.startswith("tests/") and not (ROOT / word.partition("::")[0]).exists()
            )


def shipped() -> dict[str, Any]:
    return copy.deepcopy(params.load(ROOT / "params.yaml").model_dump(mode="json"))


def invalid(settings: dict[str, Any]) -> Iterator[str]:
    try:
        params.parse(yaml.dump(settings), "the block")
        for kind in KINDS:
            section = settings[kind]
            named = section["extractor"]
            if named is None or named in registry.REGISTRY[kind]:
                registry.choose(kind, section, "the block")
            else:
                assert re.fullmatch(r"[\w.]+:\w+", named), f"{kind}.extractor: {named}"
    except (UserError, AssertionError) as error:
        yield str(error)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_what_a_command_names_is_there(block: Block) -> None:
    assert [problem for command in commands(block.code) for problem in problems(command)] == []


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "yaml"], ids=str)
def test_params_of_a_block_are_valid(block: Block) -> None:
    settings = shipped()
    list(preset.merge(settings, yaml.parse(block.code, "the block").values))
    assert list(invalid(settings)) == []


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            dead.append(target)
    assert dead == []


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_check_finds_what_is_not_there() -> None:
    code = """
    python -m ner.nothing            # a comment with 'a quote
    echo x | python -m ner.predict models/tagger --no-such-option
    python -m pipeline.checkpoints unpack x && make nothing
    dvc repro nothing
    dvc exp run -S captions.blip.num_beans=3
    python -m pipeline.preset nothing
    pytest tests/nothing.py -k 'x
    y'
    """
    found = [problem for command in commands(code) for problem in problems(command)]
    for expected in (
        "no module ner.nothing",
        "ner.predict has no option --no-such-option",
        "no target nothing",
        "pipeline.checkpoints has no command unpack",
        "no stage nothing",
        "no preset nothing",
        "no file tests/nothing.py",
    ):
        assert expected in found
    assert any("num_beans: unknown key" in problem for problem in found)
    assert len(found) == 8


YOUR_DATA = ROOT / "docs" / "your-data.md"


@pytest.mark.parametrize(("language", "reader"), [("conll", conll.read), ("json", jsonl.read), ("csv", csv.read)])
def test_an_example_of_a_format_is_read(tmp_path: Path, language: str, reader: Callable[[Path], list[Post]]) -> None:
    [block] = [block for block in blocks(YOUR_DATA) if block.language == language]
    (tmp_path / "example").write_text(block.code, encoding="utf-8")
    assert reader(tmp_path / "example")[0] == Post("790", ["Finally", "Jordan", "!"], ["O", "B-LOC", "O"], ["790.jpg"])


def test_what_the_sample_is_said_to_hold() -> None:
    page = YOUR_DATA.read_text(encoding="utf-8")
    data = params.load(ROOT / "params.yaml").data.model_copy(update={"root": ROOT / "sample" / "data"})
    for split, found in report({split: list(each_of_split(data, split)) for split in params.SPLITS})["splits"].items():
        entities = found["entities"]["conlleval"]["total"]
        assert f"{split}: {found['posts']:,} posts, {found['tokens']:,} tokens, {entities:,} entities" in page
        assert f" {split} {found['label_digest']}" in page
        assert f" {split} {found['text_digest']}" in page


@pytest.mark.real_data
def test_the_hashes_are_those_of_the_files(real_data: Path) -> None:
    page = YOUR_DATA.read_text(encoding="utf-8")
    for path in (real_data / "twitter2015").glob("*.txt"):
        content = path.read_bytes()
        assert f"`{path.name}` | {len(content):,} | `{hashlib.sha256(content).hexdigest()}` |" in page


@pytest.mark.real_data
def test_the_digests_are_those_of_the_labels(real_data: Path) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    files = [conll.read(real_data / "twitter2015" / f"{name}.txt") for name in ("train", "valid", "test")]
    assert f"| Twitter-2015, UMT | {', '.join(f'`{label_digest(posts)}`' for posts in files)} |" in page
    assert ", ".join(f"`{text_digest(posts)}`" for posts in files) in page


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run, with the files that the reader is supposed to have."""
    project = Project.make(tmp_path_factory.mktemp("docs") / "project")
    project.repro()
    for name, source in (
        ("tweets.conll", "sample/data/test.txt"),
        ("gold.conll", "sample/data/test.txt"),
        ("predicted.conll", "data/predictions/test.text_only.conll"),
    ):
        shutil.copy(project.folder / source, project.folder / name)
    return project


@pytest.mark.slow  # trainings, and a start of Python for every command
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if any(block.needs is None and block.language in ("bash", "sh", "python") for block in blocks(page))
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_what_can_run_offline_runs(finished: Project, tmp_path: Path, page: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    project = Project(
        tmp_path / "project",
        finished.store,
        {
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.org",
        },
    )
    _, options = project.command("python")
    for block in blocks(page):
        if block.needs is not None or block.language not in ("bash", "sh", "python"):
            continue
        code = block.code
        for name, ours in STAND_INS.items():
            code = code.replace(name, ours)
        program = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*program, code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
        )
        assert done.returncode == 0, f"{block}:\n{done.stdout}"
