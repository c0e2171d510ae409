"""The renderer: the same seed gives the same bytes, boxes hold their things, captions tell no more than they should."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sample import render, scenes, shapes
from sample.render import CLASSES, COLOURS, SCENES, Spec, Thing

ENTITY_TYPES = {"person", "people", "man", "woman", "location", "place", "city", "country", "organisation",
                "organization", "company", "team", "misc", "miscellaneous", "per", "loc", "org"}  # fmt: skip


def drawn(seed: int) -> tuple[Spec, render.Scene]:
    rng = np.random.default_rng([99, seed])
    spec = render.random_spec(rng)
    return spec, render.render(spec, rng)


def test_the_same_seed_gives_the_same_bytes() -> None:
    for seed in range(12):
        (first_spec, first), (second_spec, second) = drawn(seed), drawn(seed)
        assert first_spec == second_spec
        assert first.boxes == second.boxes
        assert render.jpeg(first.image) == render.jpeg(second.image)


def test_another_seed_gives_another_picture_of_the_same_spec() -> None:
    spec = Spec("beach", [Thing("kite", "red", "large")])
    pictures = {render.jpeg(render.render(spec, np.random.default_rng(seed)).image) for seed in range(5)}
    assert len(pictures) == 5


def test_seed_spaces_are_disjoint() -> None:
    spaces = {render.DATA_SPACE, render.TRAINING_SPACE, render.HELD_OUT_SPACE}
    assert len(spaces) == 3


def test_pictures_are_small_rgb() -> None:
    sizes = []
    for seed in range(20):
        _, scene = drawn(seed)
        assert scene.image.size == (render.WIDTH, render.HEIGHT)
        assert scene.image.mode == "RGB"
        sizes.append(len(render.jpeg(scene.image)))
    assert 7_000 < sum(sizes) / len(sizes) < 13_000


def test_boxes_lie_inside_the_picture_and_the_main_thing_is_the_largest() -> None:
    for seed in range(60):
        spec, scene = drawn(seed)
        assert len(scene.boxes) == len(spec.things)
        for x0, y0, x1, y1 in scene.boxes:
            assert 0 <= x0 < x1 <= render.WIDTH
            assert 0 <= y0 < y1 <= render.HEIGHT
        longest = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in scene.boxes]
        assert longest[0] == max(longest)


def test_a_box_holds_its_thing() -> None:
    """Against a reference that knows nothing of places: where a picture with the thing differs from one without."""
    thing = Thing("car", "purple", "large")
    for seed in range(6):
        scene = render.render(Spec("desert", [thing]), np.random.default_rng(seed))
        background = np.asarray(scenes.paint("desert", np.random.default_rng(seed))).astype(int)
        # Exposure is changed after drawing; a purple thing on sand has far more blue than red allows.
        pixels = np.asarray(scene.image).astype(int)
        differs = np.abs((pixels[..., 2] - pixels[..., 0]) - (background[..., 2] - background[..., 0])) > 60
        rows, columns = np.nonzero(differs)
        x0, y0, x1, y1 = scene.boxes[0]
        assert abs(columns.min() - x0) <= 3
        assert abs(columns.max() + 1 - x1) <= 3
        assert abs(rows.min() - y0) <= 3
        assert abs(rows.max() + 1 - y1) <= 3


def test_things_cover_little_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing is painted in one flat colour of its own: what is left of it is counted in the finished picture."""
    flat = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    draw = shapes.draw

    def silhouette(colours: list[tuple[int, int, int]], areas: list[int]) -> Callable[..., Image.Image]:
        def one(*args: object) -> Image.Image:
            alpha = draw(*args).getchannel("A").point(lambda a: 255 if a > 96 else 0)  # type: ignore[arg-type]
            sprite = Image.new("RGBA", alpha.size, (*colours[len(areas)], 255))
            sprite.putalpha(alpha)
            areas.append(alpha.histogram()[255])
            return sprite

        return one

    monkeypatch.setattr(render, "_photograph", lambda picture, rng: picture)
    shares = []
    for seed in range(60):
        areas: list[int] = []
        monkeypatch.setattr(shapes, "draw", silhouette(flat, areas))
        pixels = np.asarray(drawn(seed)[1].image)
        shares += [float((pixels == colour).all(-1).sum()) / area for colour, area in zip(flat, areas, strict=False)]
    assert min(shares) >= 0.6


def test_there_is_enough_to_tell_apart() -> None:
    assert len(CLASSES) >= 16
    assert len(COLOURS) >= 6
    assert len(SCENES) >= 6
    captions = {render.caption(Spec(scene, [Thing(label, colour)]))
                for scene in SCENES for label in CLASSES for colour in COLOURS}  # fmt: skip
    assert len(captions) == len(SCENES) * len(CLASSES) * len(COLOURS) >= 800


def test_no_caption_names_an_entity_type() -> None:
    words = set(CLASSES) | set(COLOURS) | {w for phrase in render.SCENE_PHRASES.values() for w in phrase.split()}
    assert not words & ENTITY_TYPES


def test_a_caption_names_main_thing_and_scene_only() -> None:
    alone = Spec("night", [Thing("lamp", "orange", "large")])
    full = Spec("night", [*alone.things, Thing("fish", "red"), Thing("key", "blue")], "Grand Final")
    assert render.caption(full) == render.caption(alone) == "an orange lamp at night"
    for seed in range(40):
        spec, scene = drawn(seed)
        words = set(scene.caption.split())
        assert words & set(CLASSES) == {spec.things[0].label}
        assert words & set(COLOURS) == {spec.things[0].colour}
        if spec.sign:
            assert not words & set(spec.sign.split())


def test_a_sign_changes_only_its_own_board() -> None:
    """With the thing's places drawn from the same generator, two signs of one length differ on the board alone."""
    first, second = (render.render(Spec("snow", [Thing("cup", "blue", "large")], sign), np.random.default_rng(4))
                     for sign in ("OO", "00"))  # fmt: skip
    differs = (np.asarray(first.image) != np.asarray(second.image)).any(-1)
    assert 0 < differs.sum() < 0.2 * differs.size


@pytest.mark.parametrize(("spec", "named"), [
    (Spec("moon", [Thing("cup", "red")]), "moon"),
    (Spec("snow", [Thing("house", "red")]), "house"),
    (Spec("snow", [Thing("cup", "pink")]), "pink"),
    (Spec("snow", [Thing("cup", "red", "tiny")]), "tiny"),
    (Spec("snow", []), "0"),
    (Spec("snow", [Thing("cup", "red", "large")], "Donaudampfschifffahrtsgesellschaftskapitän"), "too long"),
])  # fmt: skip
def test_a_wrong_spec_is_named(spec: Spec, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        render.render(spec, np.random.default_rng(0))
