"""Every system predicts through the command: with pictures and without, long tweets, several pictures, torn ones."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ner.models.registry import SYSTEMS
from ner.predict import main
from ner.tagger import Tagger
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import View
from tests.ner.conftest import ambiguous_views, pictured, synthetic_pictures, synthetic_visuals, system_folder

LONG = View("long", ["love", "Jordan", "Paris"] * 40, None, "photo of court")
POSTS = pictured([*(replace(post, labels=None) for post in ambiguous_views(14, seed=3)), LONG, LONG, LONG])


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_command_reads_pictures_for_the_systems_that_do(
    system: str,
    xlm_r_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = system_folder(system, xlm_r_folder, tmp_path / "tagger")
    shown, objects = synthetic_pictures(tmp_path)
    posts = tmp_path / "views.jsonl"
    posts.write_text("".join(json.dumps(asdict(post)) + "\n" for post in POSTS), encoding="utf-8")

    def command(*options: object) -> tuple[int, list[dict[str, object]], str]:
        arguments = [folder, posts, "--format", "jsonl", "--device", "cpu", "--batch-size", 4, *options]
        monkeypatch.setattr(sys, "argv", ["ner.predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run_cli(main)
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), [json.loads(line) for line in out.splitlines()], err

    seeing = command("--features", shown, "--objects", objects)
    if system == "ita":
        assert seeing[0] == 2
        assert "a tagger of system 'ita', or one exported without --pictures, reads no features" in seeing[2]
        assert command()[0] == 0
        return
    blind = command()
    assert (seeing[0], blind[0]) == (0, 0), (seeing[2], blind[2])
    assert blind[1] == command("--text-only", "--features", shown, "--objects", objects)[1]
    assert [len(row["predicted"]) for row in seeing[1]] == [len(post.tokens) for post in POSTS]  # type: ignore[arg-type]
    readable = [any(image != "torn.jpg" for image in post.images) for post in POSTS]
    assert 0 < sum(readable) < len(POSTS)
    changed = [one["entities"] != other["entities"] for one, other in zip(seeing[1], blind[1], strict=True)]
    assert [here for here, sees in zip(changed, readable, strict=True) if not sees] == [False] * readable.count(False)
    assert sum(changed) > 3


@pytest.mark.parametrize("system", ["rpbert", "iie4mner"])
def test_a_second_picture_counts_and_a_long_tweet_sees_it_to_its_end(
    system: str, xlm_r_folder: Path, tmp_path: Path
) -> None:
    tagger = Tagger.load(system_folder(system, xlm_r_folder, tmp_path / "tagger"), "cpu")
    tagger.show(synthetic_visuals(tmp_path))
    long = replace(LONG, context="")
    views = [replace(long, images=images) for images in ([], ["court.jpg"], ["court.jpg", "desert.jpg"])]
    assert len(tagger.encoder.encode(views, with_context=True)[0].windows) > 3
    none, one, two = tagger.predict(views)
    for prediction, other in ((none, one), (one, two)):
        sureness = [{found.start: found.confidence for found in each.entities} for each in (prediction, other)]
        differing = [start for start in sureness[0] if sureness[0][start] != sureness[1].get(start)]
        assert min(differing) < 30
        assert max(differing) > 90


def test_features_of_another_shape_are_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    tagger = Tagger.load(system_folder("iie4mner", xlm_r_folder, tmp_path / "tagger"), "cpu")
    assert tagger.model.config.facts is not None
    tagger.model.config.facts["n_cells"] = 49
    with pytest.raises(UserError, match="found 4 regions of width 6 per picture, but the tagger was trained with 49"):
        tagger.show(synthetic_visuals(tmp_path))
