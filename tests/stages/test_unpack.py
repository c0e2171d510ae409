"""Pictures that are inside of Parquet files go to the folder of pictures, under the names that posts have."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.corpus.parquet import read
from stages import unpack
from tests.conftest import ROOT
from tests.pipeline.images.made import encoded, two_halves

pa = pytest.importorskip("pyarrow", reason="pyarrow is an extra (requirements-datasets.lock)")


def test_pictures_in_the_file_are_unpacked_under_the_names_that_posts_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [encoded(two_halves(side, side), "PNG") for side in (4, 5, 6)]
    rows = [
        {"id": "1", "tokens": ["a"], "image": {"bytes": pictures[0], "path": "../../up/a.png"}},
        {"id": "2", "tokens": ["b"], "image": {"bytes": pictures[1], "path": ".."}},
        {"id": "3", "tokens": ["c"], "image": {"bytes": pictures[2], "path": None}},
        {"id": "4", "tokens": ["d"], "image": None},
    ]
    (tmp_path / "set").mkdir()
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "set/part.parquet")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("root: sample/data", "root: set").replace("format: conll", "format: datasets")
    text = text.replace("- train.txt", "- part.parquet").replace("  - valid.txt\n", "").replace("  - test.txt\n", "")
    text = text.replace("  dev:\n", "  dev: []\n").replace("  test:\n  unl", "  test: []\n  unl")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages.unpack"])
    unpack.main()
    assert "set/images: 3 pictures" in capsys.readouterr().out
    posts = read(tmp_path / "set/part.parquet")
    assert [post.images for post in posts] == [["a.png"], ["part-2-1"], ["part-3-1"], []]
    for post, content in zip(posts, pictures, strict=False):
        assert (tmp_path / "set/images" / post.images[0]).read_bytes() == content
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        *("params.yaml", "part.parquet", "a.png", "part-2-1", "part-3-1")
    }


def test_another_format_has_nothing_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages.unpack"])
    with pytest.raises(UserError, match=r"expected data\.format: datasets"):
        unpack.main()
