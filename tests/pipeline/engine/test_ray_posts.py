"""Posts and views on a cluster: the bytes of the local engine, whatever is lost, and no views of another file."""

import json
import os
import platform
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.contexts.found import FoundWords, file_of
from pipeline.core import files, records
from pipeline.core.errors import UserError
from pipeline.core.files import Piece
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Caption, Post
from pipeline.corpus.dataset import settled
from pipeline.corpus.report import Report
from pipeline.corpus.sources import Source
from pipeline.engine import in_order, posts, views
from pipeline.settings.params import DataParams, PostSplit, RayExecution
from tests.pipeline.contexts.test_template import views as template
from tests.pipeline.engine.clustered import NEEDED

COUNT = 400
TEMPLATE = template(("captions",))
DEADLY = 150


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE_BYTES", 2000)
    monkeypatch.setattr(in_order, "LEAST_BYTES", 0)


class Project:
    """Posts and captions of their pictures, of which some have none, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.posts = folder, folder / "posts.jsonl"
        rng = random.Random(1)
        (folder / "a.txt").write_text(
            "".join(f"IMGID:{rng.randrange(300)}\nAda\tB-PER\nn{number % 70}\tO\n\n" for number in range(COUNT)),
            encoding="utf-8",
        )
        self.data = DataParams(root=folder, train=["a.txt", "a.txt"])
        kind = TEXT_KINDS["captions"]
        with kind.writing(file_of(folder, "captions"), None) as sink:
            for name in sorted(f"{number}.jpg" for number in range(0, 300, 2)):
                sink.add({"image": name, "sha256": None}, "ok", None, kind.dump([Caption(f"a picture {name}")]))
        records.write(
            self.posts, [Post(f"{number:04}", ["x"], None, [f"{rng.randrange(300)}.jpg"]) for number in range(COUNT)]
        )

    def read(self, ray: RayExecution | None) -> Any:
        odd, report = Counter[str](), Report()
        given = posts.posts(self.data, "train", odd, report.counts("train"), ray)
        return [post.line for post in report.noted("train", settled(given, "train", odd))], report.found({"train": odd})

    def view(self, ray: RayExecution | None) -> tuple[list[str], int]:
        made = list(views.views(self.posts, "train", FoundWords(self.folder, TEMPLATE), ray))
        return [line for shard in made for line in shard.lines], sum(shard.with_context for shard in made)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def order(project: Project, folder: str) -> views.Order:
    return views.Order(folder, project.posts, "train", project.folder, TEMPLATE, {}, 60.0)


def read_or_die(source: Source, split: PostSplit, piece: Piece, max_seconds: float) -> posts.Read:
    """As of the engine, but that the first worker with a certain piece dies of it."""
    mark = source.path.with_name("mark")
    if piece.number > DEADLY and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return posts.read(source, split, piece, max_seconds)


def make_alone(order: views.Order, piece: Piece) -> views.Made:
    """As of the engine, on a node that has another file of captions."""
    (path,) = order.told
    return views.make(order._replace(told={path: "of another node"}), piece)


def test_without_ray_there_is_one_message(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for work in (project.read, project.view):
        with pytest.raises(UserError, match=r"ray: it is not installed here .*requirements-ray\.lock"):
            work(RayExecution(address="127.0.0.1:1"))


def test_a_small_file_needs_no_cluster(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(in_order, "LEAST_BYTES", 1_000_000)
    assert project.read(RayExecution()) == project.read(None)
    assert project.view(RayExecution()) == project.view(None)


def test_views_are_made_in_shards_of_the_file(project: Project) -> None:
    lines, with_context = project.view(None)
    assert len(lines) == COUNT
    rows = [json.loads(line) for line in lines]
    assert (
        with_context
        == sum(bool(row["context"]) for row in rows)
        == sum(int(row["images"][0].removesuffix(".jpg")) % 2 == 0 for row in rows)
    )
    assert all(row["context"] in ("", f"a picture {row['images'][0]}") for row in rows)


def test_a_worker_without_the_project_says_so(project: Project) -> None:
    made = views.make(order(project, "/no/such/folder"), Piece(1, b""))
    assert "has no folder /no/such/folder" in made.error
    assert made.lines == []


def test_what_is_wrong_with_a_line_of_posts_is_said_with_its_number(project: Project) -> None:
    piece = Piece(41, b'{"id": "1"}\n')
    made = views.make(order(project, os.getcwd()), piece)
    assert made.error.startswith(f"{project.posts}:41: tokens: missing")


def test_posts_that_are_not_there_are_said_with_their_stage(project: Project) -> None:
    project.posts.unlink()
    for ray in (None, RayExecution()):
        with pytest.raises(UserError, match=r"posts\.jsonl: no such file; run the stage .*: dvc repro posts$"):
            project.view(ray)


@NEEDED
@pytest.mark.slow
def test_two_nodes_give_the_bytes_of_the_local_engine(project: Project, cluster: Any) -> None:
    ray = RayExecution(address=cluster.address)
    assert project.read(ray) == project.read(None)
    assert project.view(ray) == project.view(None)
    path = project.folder / "a.txt"
    path.write_text(path.read_text() + "IMGID:9\nx\tB-\n\n")
    for place in (ray, None):
        with pytest.raises(UserError, match=rf"^{path}:{4 * COUNT + 2}: .*'B-'"):
            project.read(place)


@NEEDED
@pytest.mark.slow
def test_a_node_without_the_modules_is_said_in_one_message(
    project: Project, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    with pytest.raises(
        UserError, match=rf"^posts: a worker has none of Sightread's .* Put the project in {os.getcwd()}"
    ):
        project.read(RayExecution(address=cluster.address))


@NEEDED
@pytest.mark.slow
def test_a_worker_that_dies_is_tried_again(project: Project, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = project.read(None)
    monkeypatch.setattr(posts, "read", read_or_die)
    assert project.read(RayExecution(address=cluster.address)) == expected
    (project.folder / "mark").unlink()
    message = r"^posts: 1 of 1 workers were lost under one shard, of .*a\.txt from line \d+ on; the last has ended"
    with pytest.raises(UserError, match=message):
        project.read(RayExecution(address=cluster.address, retries=0))


@NEEDED
@pytest.mark.slow
def test_a_node_that_sees_another_file_of_contexts_makes_no_view_of_it(
    project: Project, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "make", make_alone)
    message = rf"^views: node {platform.node()} does not see the .*captions\.jsonl that this machine sees"
    with pytest.raises(UserError, match=message):
        project.view(RayExecution(address=cluster.address))
