"""A kind whose results are tensors goes through the engine and the store as the others do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.features import Features, Regions, as_bytes, from_bytes
from pipeline.core.store import digest
from pipeline.engine.run import Summary, extract
from pipeline.extractors.base import fingerprint_of
from tests.pipeline.engine.bench import Bench, colour, figures, rows_of
from tests.pipeline.extractors.cases import rows_of as written_rows


class ColourGrid:
    """Two regions of a picture, the upper half and the lower: their mean colours."""

    def __init__(self) -> None:
        self.seen: list[int] = []  # sizes of the batches

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "colour grid", "version": 1}

    def extract(self, images: Sequence[Image.Image]) -> list[Regions]:
        self.seen.append(len(images))
        return [self.of(image) for image in images]

    def of(self, image: Image.Image) -> Regions:
        half = image.height // 2
        boxes = ((0, 0, image.width, half), (0, half, image.width, image.height))
        return np.array([colour(image.crop(box)) for box in boxes], np.float16)


def run(bench: Bench, extractor: Any, **options: Any) -> Summary:
    rows = rows_of(bench.folder)
    return extract("features", extractor, rows, bench.folder, bench.output.parent / "features", bench.store, **options)


def files(bench: Bench) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (bench.output.parent / "features").iterdir()}


def test_every_picture_has_its_tensor_and_a_second_run_reads_nothing(bench: Bench) -> None:
    (bench.folder / "broken.png").write_bytes(b"no picture")
    (bench.folder / "twin.png").write_bytes((bench.folder / "0_0003.png").read_bytes())
    assert figures(run(bench, ColourGrid(), batch_size=4)) == (20, 1, 1)
    features = Features.open(bench.output.parent / "features")
    assert (features.regions, features.width) == (2, 3)
    assert features.fingerprint == digest(fingerprint_of(ColourGrid()))
    for path in bench.folder.iterdir():
        if path.name == "broken.png":
            assert features.get(path.name) is None
        else:
            np.testing.assert_array_equal(features[path.name], ColourGrid().of(Image.open(path)))
    before = files(bench)
    again = ColourGrid()
    assert figures(run(bench, again)) == (0, 21, 1)
    assert again.seen == []
    assert files(bench) == before


def test_ten_new_pictures_cost_ten(bench: Bench) -> None:
    run(bench, ColourGrid())
    for path in list(bench.folder.iterdir())[:10]:
        Image.open(path).rotate(90, expand=True).save(bench.folder / f"turned {path.name}")
    assert figures(run(bench, ColourGrid())) == (10, 20, 0)


def test_a_tensor_that_is_not_finite_is_its_pictures_failure(bench: Bench) -> None:
    class Overflowing(ColourGrid):
        def of(self, image: Image.Image) -> Regions:
            found = super().of(image)
            return found * np.float16(np.inf) if found[0, 0] > 120 else found

    with np.errstate(all="ignore"):
        summary = run(bench, Overflowing())
    rows = written_rows("features", bench.output.parent / "features")
    failed = [error for _, status, error, found in rows if status == "failed" and found is None]
    assert 0 < len(failed) == summary.failed < 20
    assert set(failed) == {"ValueError: features that are NaN, or too large for float16 (65,504 at most)"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.astype(np.float32), "features: .*Grid gave float32 array of shape .*expected a float16"),
        (lambda found: found.tolist(), "Grid gave list"),
        (lambda found: found[: int(found[0, 0] > 120) + 1], r"features of . × 3, those of the pictures before"),
    ],
)
def test_an_extractor_that_gives_no_such_tensor_ends_the_run(bench: Bench, change: Any, message: str) -> None:
    class Grid(ColourGrid):
        def of(self, image: Image.Image) -> Regions:
            return change(super().of(image))

    with pytest.raises(UserError, match=message):
        run(bench, Grid())


def test_features_that_others_computed_are_looked_up(bench: Bench) -> None:
    class Published:
        def lookup(self, image_name: str) -> Regions | None:
            return None if image_name < "0_0010" else np.full((1, 2), int(image_name[-6:-4]), np.float16)

    assert figures(run(bench, Published())) == (10, 0, 10)
    features = Features.open(bench.output.parent / "features")
    assert (features.fingerprint, len(features)) == (None, 10)
    np.testing.assert_array_equal(features["0_0012.png"], [[12, 12]])


def test_the_store_keeps_shape_and_type_and_they_are_checked() -> None:
    regions = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float16)
    value = as_bytes(regions)
    found = from_bytes(value)
    np.testing.assert_array_equal(found, regions)
    assert found.dtype == np.float16
    for wrong in (b"", b"[]", value[:-1], value + b"\0", value.replace(b"F16", b"F32"), value.replace(b"5,7", b"5,8")):
        with pytest.raises(ValueError, match="bytes that are not the features of a picture"):
            from_bytes(wrong)
