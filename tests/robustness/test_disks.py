"""Disks that are full, read-only or hold a damaged store, through the real stage command."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.files import atomic_write, write_jsonl
from pipeline.core.store import SCHEMA
from tests.project import Project
from tests.robustness.conftest import CAPTIONS, COUNT, use
from tests.robustness.test_kills import STAGE, beside_output, undisturbed

SMALL = 400_000  # bytes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small tmpfs here; run as root to test full disks")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written, for root too."""
    place = tmp_path / "read only"
    (place / "sub").mkdir(parents=True)
    mounted = False
    if os.geteuid() == 0:
        mounted = (
            bool(shutil.which("mount"))
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], capture_output=True
            ).returncode
        )
        if not mounted:
            pytest.skip("root writes everywhere, and may mount nothing here")
    else:
        place.chmod(0o500)
    yield place
    if mounted:
        subprocess.run(["umount", str(place)], check=True)
    else:
        place.chmod(0o700)


def test_a_full_disk_under_the_store(project: Project, small_disk: Path) -> None:
    """What was kept before it was full is kept; with room made, the next run goes on from there."""
    undisturbed(project)
    words = 800  # of some 20 bytes: 48 captions do not fit
    use(project, "MeanColour", words=words)
    project.environment = {"SIGHTREAD_STORE": str(small_disk / "store")}
    output = project.run(*STAGE, expect=2)
    assert "\nerror: " in f"\n{output}", output
    assert "the disk is full" in output
    assert "Traceback" not in output
    assert beside_output(project) == []
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    closing = project.run(*STAGE)
    assert "0 failed" in closing
    assert " 0 from the store" not in closing
    on_small = (project.folder / CAPTIONS).read_bytes()
    project.environment = {}
    project.run(*STAGE)
    assert (project.folder / CAPTIONS).read_bytes() == on_small
    assert len(project.rows(CAPTIONS)) == COUNT


def test_a_full_disk_under_the_output(project: Project, small_disk: Path) -> None:
    use(project, "MeanColour", words=800)
    folder = "set/images"
    target = small_disk / "captions.jsonl"
    target.write_text("what was there before\n")
    output = project.run(*STAGE, "--images", folder, "--output", str(target), expect=2)
    assert f"error: {target}: cannot be written: No space left on device" in output
    assert "Traceback" not in output
    assert [path.name for path in small_disk.iterdir()] == ["captions.jsonl"]
    assert target.read_text() == "what was there before\n"
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert f"0 read, {COUNT} from the store" in project.run(*STAGE, "--images", folder, "--output", str(target))


def test_a_full_disk_under_the_images_stage(project: Project, small_disk: Path) -> None:
    (project.folder / "data/images.jsonl").unlink()
    for path in (project.folder / "set/images").iterdir():
        os.utime(path, (1e9, 1e9))  # what has just been written is not kept
    project.environment = {"SIGHTREAD_STORE": str(small_disk / "store")}
    with (small_disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    (small_disk / "filler").open("r+b").truncate((small_disk / "filler").stat().st_size - 4 * 4096)
    output = project.run("python", "-m", "stages.images", expect=2)
    assert "error: " in output
    assert "full" in output
    assert "Traceback" not in output
    assert not (project.folder / "data/images.jsonl").exists()
    (small_disk / "filler").unlink()
    assert f"{COUNT} ok" in project.run("python", "-m", "stages.images")


@pytest.mark.parametrize(
    ("stage", "folder"), [("posts", "data/posts"), ("captions", "data/contexts"), ("views", "data/views")]
)
def test_a_read_only_output_folder(project: Project, read_only: Path, stage: str, folder: str) -> None:
    undisturbed(project)
    project.edit(views={"kinds": []})
    shutil.rmtree(project.folder / folder, ignore_errors=True)
    (project.folder / folder).symlink_to(read_only)
    output = project.run("python", "-m", f"stages.{stage}", expect=2)
    assert output.startswith(f"error: {folder}/")
    assert "cannot be written: " in output
    assert "Traceback" not in output


def test_a_read_only_output_of_a_folders_pictures(project: Project, read_only: Path) -> None:
    target = read_only / "x.jsonl"
    output = project.run(*STAGE, "--images", "set/images", "--output", str(target), expect=2)
    assert f"error: {target}: cannot be written: " in output
    assert "Traceback" not in output


def test_a_read_only_store(project: Project, read_only: Path) -> None:
    project.environment = {"SIGHTREAD_STORE": str(read_only / "store")}
    output = project.run(*STAGE, expect=2)
    assert "SIGHTREAD_STORE" in output
    assert "Traceback" not in output


def captions_file(project: Project) -> Path:
    """The store's file of the captions: the one that came last."""
    return max((project.store / "results").glob("*.sqlite3"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("damage", ["torn", "truncated", "garbage", "a flipped byte"])
def test_a_damaged_store_is_named_and_deleting_it_is_all_that_it_takes(project: Project, damage: str) -> None:
    expected = undisturbed(project)
    use(project, "MeanColour")
    project.run(*STAGE)
    (project.folder / CAPTIONS).unlink()
    file = captions_file(project)
    content = file.read_bytes()
    place = content.rindex(b'"text"') + 12
    file.write_bytes(
        {
            "torn": content[:4096] + b"\0" * 4096 + content[8192:],
            "truncated": content[: len(content) // 2],
            "garbage": b"garbage" * 1000,
            "a flipped byte": content[:place] + b"x" + content[place + 1 :],
        }[damage]
    )
    output = project.run(*STAGE, expect=2)
    assert str(file) in output
    assert "damaged" in output
    assert "delete it" in output
    assert "Traceback" not in output
    assert beside_output(project) == []
    for leftover in file.parent.glob(f"{file.name}*"):
        leftover.unlink()
    assert f"{COUNT} read" in project.run(*STAGE)
    assert (project.folder / CAPTIONS).read_bytes() == expected


def test_a_store_of_a_newer_version_is_left_as_it_is(project: Project) -> None:
    undisturbed(project)
    use(project, "MeanColour")
    project.run(*STAGE)
    file = captions_file(project)
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    before = file.read_bytes()
    output = project.run(*STAGE, expect=2)
    assert "is newer than this Sightread knows" in output
    assert "SIGHTREAD_STORE" in output
    assert "Traceback" not in output
    assert file.read_bytes() == before


WRITE = """
import sys, time
from pipeline.core.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    print("open", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_leaves_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    (tmp_path / ".rows.jsonl.mine.txt").write_text("of the user's own")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(target)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "open\n"
    writers[0].kill()
    writers[0].wait()
    assert len(list(tmp_path.glob(".rows.jsonl.*.tmp"))) == 2
    write_jsonl(target, [{"a": 1}])
    assert len(list(tmp_path.glob(".rows.jsonl.*.tmp"))) == 1, "that of the one who lives stays"
    writers[1].kill()
    writers[1].wait()
    write_jsonl(target, [{"a": 2}])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".rows.jsonl.mine.txt", "rows.jsonl"]
    assert target.read_text() == '{"a": 2}\n'


def test_an_error_of_the_body_is_not_taken_for_the_disks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "x"):
        (tmp_path / "absent").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "x"):
        raise AssertionError
