"""The sample data set: what issue and README promise of it, and that it is rebuilt byte for byte."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.labels import entities, orphans
from pipeline.core.records import Post
from pipeline.corpus import conll
from pipeline.corpus.counts import is_invisible
from sample import dataset, render, text
from sample.dataset import KINDS, OBJECT_CUES, SCENE_CUES, SIGN_CUES, SIZES_OF_SPLITS, Item

DATA = Path(dataset.__file__).parent / "data"

# The four types by name, and other names for the things that they hold.
TYPE_NAMES = """per person persons people human man men woman women guy girl boy lady singer actor actress player
    celebrity artist musician politician president name loc location locations place places city town village country
    state region land island river mountain org organization organisation organizations company companies business firm
    corporation corp inc team club brand band group agency bank school university office shop store misc miscellaneous
    other event events festival product work title film movie series show game song album novel"""
TYPE_WORDS = set(TYPE_NAMES.split())


@pytest.fixture(scope="module")
def items() -> dict[str, list[Item]]:
    return {split: dataset.build_split(split) for split in SIZES_OF_SPLITS}


@pytest.fixture(scope="module")
def posts() -> dict[str, list[Post]]:
    return {split: conll.read(DATA / f"{split}.txt") for split in SIZES_OF_SPLITS}


@pytest.fixture(scope="module")
def types(posts: dict[str, list[Post]]) -> dict[str, dict[str, set[str]]]:
    """Split → entity text → its types."""
    found: dict[str, dict[str, set[str]]] = {}
    for split, of_split in posts.items():
        found[split] = defaultdict(set)
        for post in of_split:
            for entity in entities(post.labels or [], "strict"):
                found[split][" ".join(post.tokens[entity.start : entity.end])].add(entity.type)
    return found


def test_the_command_rebuilds_the_data_set_byte_for_byte(tmp_path: Path) -> None:
    dataset.write(tmp_path / "data")
    built = {path.relative_to(tmp_path / "data") for path in (tmp_path / "data").rglob("*")}
    assert built == {path.relative_to(DATA) for path in DATA.rglob("*")}
    assert dataset.digest(tmp_path / "data") == dataset.digest(DATA)


def test_a_data_set_of_another_seed_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"train": 12}
    dataset.write(tmp_path / "a", few)
    monkeypatch.setattr(dataset, "SEED", dataset.SEED + 1)
    dataset.write(tmp_path / "b", few)
    assert dataset.digest(tmp_path / "a") != dataset.digest(tmp_path / "b")


def test_it_is_large_enough_to_train_on_and_small_enough_for_git(posts: dict[str, list[Post]]) -> None:
    assert len(posts["train"]) >= 600
    assert len(posts["valid"]) >= 150
    assert len(posts["test"]) >= 150
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= 15e6


def test_ids_are_unique_and_of_the_published_shapes(posts: dict[str, list[Post]]) -> None:
    ids = [post.id for of_split in posts.values() for post in of_split]
    assert len(set(ids)) == len(ids)
    shapes = {"".join("N" if part.isdigit() else part for part in name.replace("_", " _ ").split()) for name in ids}
    assert shapes == {"N", "O_N", "N_N_N", "N_N_N_N"}


def test_posts_look_like_tweets(posts: dict[str, list[Post]]) -> None:
    tokens = Counter(token for of_split in posts.values() for post in of_split for token in post.tokens)
    for start in ("@", "#", "http://t.co/"):
        assert sum(count for token, count in tokens.items() if token.startswith(start)) > 200
    assert tokens["RT"] > 100
    assert sum(tokens[emoji] for emoji in text.EMOJI) > 200
    assert {"encanta", "las", "ce", "j'"} <= tokens.keys()  # Spanish, French
    assert len([slang for slang in text.SLANG.values() if tokens[slang]]) > 5


def test_types_are_the_four_and_each_is_frequent(posts: dict[str, list[Post]]) -> None:
    for of_split in posts.values():
        counts = Counter(entity.type for post in of_split for entity in entities(post.labels or [], "strict"))
        assert counts.keys() == set(text.TYPES)
        assert min(counts.values()) > 0.15 * counts.total()


def test_each_ambiguous_name_takes_two_types_or_more(types: dict[str, dict[str, set[str]]]) -> None:
    assert all(len(types["train"][name]) >= 2 for name in text.AMBIGUOUS)
    assert all(len(types["test"][name]) >= 2 for name in text.AMBIGUOUS_UNSEEN)


def test_some_names_of_the_test_split_do_not_occur_in_train(posts: dict[str, list[Post]]) -> None:
    def padded(split: str) -> str:
        return "\t".join(f" {' '.join(post.tokens)} " for post in posts[split]).lower()

    train, test = padded("train"), padded("test")
    unseen = {name for names in text.UNAMBIGUOUS_UNSEEN.values() for name in names}
    for name in {*text.AMBIGUOUS_UNSEEN, *text.UNSEEN_LAST, *unseen}:
        assert f" {name.lower()} " not in train
    for names in (text.AMBIGUOUS_UNSEEN, text.UNSEEN_LAST, *text.UNAMBIGUOUS_UNSEEN.values()):
        assert sum(f" {name.lower()} " in test for name in names) >= len(names) / 2


def test_what_a_picture_says_never_names_a_type() -> None:
    said = [*render.CLASSES, *render.COLOURS, *dataset.NEUTRAL_SIGNS, *sum(SIGN_CUES.values(), ())]
    said += [phrase for scene in render.SCENES for phrase in (scene, render.SCENE_PHRASES[scene])]
    words = {word.lower() for phrase in said for word in phrase.split()}
    assert not words & TYPE_WORDS


def _told(item: Item) -> dict[str, set[str]]:
    """Kind → the types that the picture tells by it."""
    assert item.spec is not None
    shown = [thing.label for thing in item.spec.things]
    return {
        "objects": {kind for kind, labels in OBJECT_CUES.items() for label in labels if label in shown},
        "captions": {kind for kind, scenes in SCENE_CUES.items() if item.spec.scene in scenes},
        "ocr": {kind for kind, signs in SIGN_CUES.items() if item.spec.sign in signs},
    }


def test_in_a_decided_post_one_kind_alone_tells_the_type(items: dict[str, list[Item]]) -> None:
    for of_split in items.values():
        for item in (item for item in of_split if item.decides in KINDS):
            told = _told(item)
            assert told.pop(item.decides) == {item.post.open_type}
            assert not any(told.values())


def test_the_object_that_decides_is_not_the_one_that_the_caption_names(items: dict[str, list[Item]]) -> None:
    cues = set(sum(OBJECT_CUES.values(), ()))
    decided = [item for of_split in items.values() for item in of_split if item.decides == "objects"]
    for item in decided:
        assert item.spec is not None
        assert item.spec.things[0].label not in cues
        assert not cues & set(render.caption(item.spec).split())


def test_each_kind_decides_enough_posts_to_measure_it(items: dict[str, list[Item]]) -> None:
    for of_split in items.values():
        counts = Counter(item.decides for item in of_split)
        assert all(counts[kind] > 0.12 * len(of_split) for kind in KINDS)
        assert counts["text"] > 0.4 * len(of_split)


def test_every_cue_is_seen_in_train(items: dict[str, list[Item]]) -> None:
    shown: Counter[str] = Counter()
    for item in (item for item in items["train"] if item.decides in KINDS):
        assert item.spec is not None
        shown.update({*(thing.label for thing in item.spec.things), item.spec.scene, item.spec.sign or ""})
    cues = [cue for table in (OBJECT_CUES, SCENE_CUES, SIGN_CUES) for of_type in table.values() for cue in of_type]
    assert min(shown[cue] for cue in cues) >= 5


def test_about_a_third_of_the_pictures_has_nothing_to_do_with_its_post(items: dict[str, list[Item]]) -> None:
    pictured = [item for of_split in items.values() for item in of_split if item.spec is not None]
    share = sum(item.role == "unrelated" for item in pictured) / len(pictured)
    assert 0.28 < share < 0.4


def test_the_sidecar_says_what_decides_each_post(items: dict[str, list[Item]]) -> None:
    decides = dataset.read_decides(DATA)
    assert decides == {item.id: item.decides for of_split in items.values() for item in of_split}


def test_things_are_broken_as_in_life(posts: dict[str, list[Post]]) -> None:
    for split, of_split in posts.items():
        assert any(orphans(post.labels or []) for post in of_split), split
        assert any(is_invisible(token) for post in of_split for token in post.tokens), split
        assert any(not (DATA / "images" / f"{post.id}.jpg").exists() for post in of_split), split
    truncated = 0
    formats: Counter[str | None] = Counter()
    for path in (DATA / "images").iterdir():
        with Image.open(path) as picture:
            formats[picture.format] += 1
            try:
                picture.load()
            except OSError:
                truncated += 1
    assert truncated == 5
    assert formats["PNG"] == 5


def test_what_is_broken_are_posts_that_need_no_picture(items: dict[str, list[Item]]) -> None:
    for split, of_split in items.items():
        decides = {item.id: item.decides for item in of_split}
        words, files = dataset.damage(split, of_split)
        assert {decides[name] for name in [*words, *files]} == {"text"}
