"""Features on disk: written and read back, damage named, memory that does not grow with the number of pictures."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.core.errors import UserError
from pipeline.core.features import FeatureRow, Features, FeatureWriter, Regions, writing
from pipeline.core.records import read
from tests.conftest import ROOT


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def some(seed: int, shape: tuple[int, int] = (4, 3)) -> Regions:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def fill(writer: FeatureWriter) -> None:
    """Five pictures in shards of two rows: one of them unreadable, two of the same bytes."""
    writer.add("a.jpg", sha256("a"), regions=some(0))
    writer.add("b.jpg", None, "missing", "no such file")
    writer.add("c.jpg", sha256("c"), regions=some(1))
    writer.add("d.jpg", sha256("a"), regions=some(0))
    writer.add("é.jpg", sha256("e"), regions=some(2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with writing(tmp_path / "features", "f" * 64, shard_bytes=2 * 4 * 3 * 2) as writer:
        fill(writer)
    return tmp_path / "features"


def test_features_come_back_as_they_were_written(folder: Path) -> None:
    features = Features.open(folder)
    assert (features.regions, features.width, features.fingerprint) == (4, 3, "f" * 64)
    assert list(features) == ["a.jpg", "c.jpg", "d.jpg", "é.jpg"]
    assert len(features) == 4
    for name, seed in (("a.jpg", 0), ("c.jpg", 1), ("d.jpg", 0), ("é.jpg", 2)):
        found = features.get(name)
        assert name in features
        assert type(found) is np.ndarray
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, some(seed))
        assert not found.flags.writeable
    for name in ("b.jpg", "", "a", "a.jpgx", "zzz", "\ud83d"):
        assert name not in features
        assert features.get(name) is None


def test_the_index_has_a_row_for_every_picture_and_twins_share_theirs(folder: Path) -> None:
    rows = list(read(folder / "index.jsonl", FeatureRow, "features"))
    assert [(row.image, row.status, row.shard, row.row) for row in rows] == [
        ("a.jpg", "ok", 0, 0),
        ("b.jpg", "missing", None, None),
        ("c.jpg", "ok", 0, 1),
        ("d.jpg", "ok", 0, 0),
        ("é.jpg", "ok", 1, 0),
    ]
    first = json.loads((folder / "index.jsonl").read_text().splitlines()[1])
    assert first == {
        "image": "b.jpg", "sha256": None, "status": "missing", "error": "no such file", "shard": None, "row": None,
    }  # fmt: skip


def test_shards_are_safetensors(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "facts.json", "features-00000.safetensors", "features-00001.safetensors", "index.jsonl",
    ]  # fmt: skip
    [(name, tensor)] = load_file(folder / "features-00000.safetensors").items()
    assert name == "regions"
    np.testing.assert_array_equal(tensor, [some(0), some(1)])
    np.testing.assert_array_equal(load_file(folder / "features-00001.safetensors")["regions"], [some(2)])


def test_the_same_rows_give_the_same_bytes_and_nothing_else_is_touched(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "notes.txt").write_text("mine")
    (folder / "features-00002.safetensors").write_bytes(b"of an earlier run")
    with writing(folder, "f" * 64, shard_bytes=2 * 4 * 3 * 2) as writer:
        fill(writer)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before | {"notes.txt": b"mine"}


def test_a_folder_without_features_has_no_shape(tmp_path: Path) -> None:
    with writing(tmp_path, None):
        pass
    features = Features.open(tmp_path)
    assert (features.regions, features.width, features.fingerprint, len(features)) == (None, None, None, 0)
    assert features.get("a.jpg") is None


def test_a_picture_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    with writing(tmp_path, "", shard_bytes=1) as writer:
        writer.add("a", sha256("a"), regions=some(0))
        writer.add("b", sha256("b"), regions=some(1))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    np.testing.assert_array_equal(Features.open(tmp_path)["b"], some(1))


def test_a_run_that_fails_leaves_no_index(folder: Path) -> None:
    def failing() -> None:
        with writing(folder, None) as writer:
            writer.add("a.jpg", sha256("a"), regions=some(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert not [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".tmp", ".jsonl")]
    with pytest.raises(UserError, match=r"index\.jsonl: no such file; .*dvc repro features"):
        Features.open(folder)


@pytest.mark.parametrize(
    ("regions", "error", "message"),
    [
        (some(0).astype(np.float32), TypeError, "float32 array of shape"),
        (some(0)[0], TypeError, r"shape \[3\] for a picture; expected"),
        (some(0)[:0], TypeError, r"shape \[0, 3\]"),
        ([[1.0]], TypeError, "list"),
        (np.full((4, 3), np.inf, np.float16), ValueError, "too large for float16"),
        (np.full((4, 3), np.nan, np.float16), ValueError, "NaN"),
        (some(0, (3, 4)), UserError, "b: features of 3 × 4, those of the pictures before are of 4 × 3"),
    ],
)
def test_what_are_no_features_is_refused(tmp_path: Path, regions: object, error: type[Exception], message: str) -> None:
    def failing() -> None:
        with writing(tmp_path, None) as writer:
            writer.add("a", sha256("a"), regions=some(0))
            writer.add("b", sha256("b"), regions=regions)

    with pytest.raises(error, match=message):
        failing()


SHARD = "features-00001.safetensors"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SHARD, None, "cannot be read: No such file"),
        (SHARD, lambda old: old[:-1], "279 bytes; expected 280"),
        (SHARD, lambda old: old[:20], "its beginning is not that"),
        (SHARD, lambda old: old.replace(b"[1,4,3]", b"[1,3,4]"), r"of shape \[1, 4, 3\]"),
        ("facts.json", lambda old: old.replace(b'"width": 3', b'"width": 6'), r"00000.*of shape \[2, 4, 6\]"),
        ("facts.json", lambda old: old.replace(b'"width": 3', b'"width": null'), "expected numbers where there are"),
        ("facts.json", None, "no such file; run the stage that writes it"),
        ("index.jsonl", None, "no such file; run the stage that writes it"),
        ("index.jsonl", lambda old: old.replace(b'"row": 1', b'"row": 2'), "row 2 of shard 0, which facts.json"),
        ("index.jsonl", lambda old: old.replace(b'"row": 1', b'"row": null'), ":3: shard and row: expected numbers"),
        ("index.jsonl", lambda old: old.replace(b"c.jpg", b"A.jpg"), "'A.jpg' stands behind 'b.jpg'"),
    ],
)
def test_damage_is_named_with_its_file_and_remedy(folder: Path, name: str, content: object, message: str) -> None:
    file = folder / name
    if content is None:
        file.unlink()
    else:
        assert callable(content)
        file.write_bytes(content(file.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        Features.open(folder)
    assert str(caught.value).startswith(str(folder))
    assert "dvc repro" in str(caught.value)


def test_another_process_maps_the_same_files(folder: Path) -> None:
    handed = pickle.dumps(Features.open(folder))
    assert len(handed) < 500
    np.testing.assert_array_equal(pickle.loads(handed)["c.jpg"], some(1))  # noqa: S301  (our own)


_READ_ALL = """
import sys
from pipeline.core.features import Features
features = Features.open(sys.argv[1])
total = sum(float(features[f"{number:06}.jpg"][0, 0]) for number in range(int(sys.argv[2])))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")), total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc, which Linux has")
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """Of 20,000 pictures with 4 KB each (80 MB) as of 1,000: their names and places are all that is held."""
    kilobytes = []
    for count in (1_000, 20_000):
        with writing(tmp_path / str(count), None, shard_bytes=16 * 2**20) as writer:
            for number in range(count):
                regions = np.full((2, 1024), number % 1000, np.float16)
                writer.add(f"{number:06}.jpg", sha256(str(number)), regions=regions)
        command = [sys.executable, "-c", _READ_ALL, str(tmp_path / str(count)), str(count)]
        run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        taken, total = run.stdout.split()
        assert float(total) == sum(number % 1000 for number in range(count))
        kilobytes.append(int(taken))
    assert kilobytes[1] - kilobytes[0] < 2_000
