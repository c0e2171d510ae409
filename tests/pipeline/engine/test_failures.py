"""What fails: pictures that an extractor fails on are rows, one that is broken ends the run, and no text is lost."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.files import write_jsonl
from pipeline.core.records import Caption, Item, ObjectTag, TextLine
from pipeline.engine.run import extract
from pipeline.extractors.base import UnavailableError
from tests.pipeline.engine.bench import Bench, MeanColour, colour, figures, make_pictures, reddish, rows_of


class Touchy(MeanColour):
    """Fails in some way on whatever batch has a red picture in it."""

    def __init__(self, failure: Callable[[], object]) -> None:
        super().__init__()
        self.failure = failure

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        if any(map(reddish, images)):
            self.seen.append(-len(images))
            given = self.failure()
            return [
                [Caption("x", given)] if reddish(image) else [Caption(f"version 1: {colour(image)}", 0.5)]  # type: ignore[arg-type]
                for image in images
            ]
        return super().extract(images)


def raises(error: Exception) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (raises(ValueError("chokes on\nred")), "ValueError: chokes on red"),
        (raises(KeyError()), "KeyError"),
        (raises(MemoryError()), "MemoryError"),
        (raises(RuntimeError("CUDA out of memory")), "out of memory"),
        (lambda: float("nan"), "finite number"),
        (lambda: float("inf"), "finite number"),
        (raises(ValueError("no \ud83d here")), r"ValueError: no \ud83d here"),
    ],
    ids=["error", "bare error", "MemoryError", "CUDA out of memory", "NaN", "infinity", "unpaired surrogate"],
)
def test_a_picture_that_the_extractor_fails_on_is_a_row(
    bench: Bench, failure: Callable[[], object], message: str
) -> None:
    for number in (6, 13):
        Image.new("RGB", (9, 9), (255, 0, number)).save(bench.folder / f"0_{number:04}.png")
    assert figures(bench.run(Touchy(failure))) == (18, 0, 2)
    rows = bench.rows()
    for name in ("0_0006.png", "0_0013.png"):
        assert rows[name]["status"] == "failed"
        assert message in rows[name]["error"]
        assert rows[name]["captions"] == []
        assert rows[name]["sha256"]
    assert figures(bench.run(Touchy(failure))) == (0, 18, 2), "what failed is tried again, the rest is not"
    assert figures(bench.run(MeanColour())) == (2, 18, 0), "failures are not kept"


def test_out_of_memory_halves_the_batch_and_goes_on(bench: Bench) -> None:
    class Small(MeanColour):
        def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
            if len(images) > 3:
                self.seen.append(-len(images))
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return super().extract(images)

    extractor = Small()
    assert figures(bench.run(extractor, batch_size=10)) == (20, 0, 0)
    assert [size for size in extractor.seen if size < 0] == [-10, -5], "later batches are no larger than what fits"


def test_an_error_on_one_batch_alone_costs_nothing(bench: Bench) -> None:
    class Hiccup(MeanColour):
        def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
            result = super().extract(images)
            if len(self.seen) == 3:
                raise OSError("once")
            return result

    assert figures(bench.run(Hiccup())) == (20, 0, 0)


class AlwaysBroken(MeanColour):
    """Its model fails on every picture."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        raise RuntimeError("broken")


class NeverPrepared(MeanColour):
    """Its preparation does, which is where OCR loads its models."""

    def prepare(self, image: Image.Image) -> Image.Image:
        raise RuntimeError("broken")

    def extract_prepared(self, prepared: Sequence[Image.Image]) -> list[list[Caption]]:
        return self.extract(prepared)


@pytest.mark.parametrize("broken", [AlwaysBroken, NeverPrepared])
def test_an_extractor_that_fails_on_everything_is_stopped(broken: type[MeanColour], tmp_path: Path) -> None:
    bench = Bench(tmp_path, 100)
    with pytest.raises(UserError, match=r"64 pictures in a row, lastly on 0_0063\.png: RuntimeError: broken"):
        bench.run(broken())
    assert not bench.output.exists()


class EverySecond(MeanColour):
    """Fails on dark pictures."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        if any(image.getpixel((0, 0)) == (0, 0, 0) for image in images):
            raise RuntimeError("too dark")
        return super().extract(images)


def test_pictures_that_failed_before_stand_in_a_row_and_speak_against_themselves_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 0)
    for number in range(140):
        Image.new("RGB", (8, 8), (0, 0, 0) if number % 2 else (200, number, 9)).save(bench.folder / f"{number:03}.png")
        if number % 2:
            with open(bench.folder / f"{number:03}.png", "ab") as file:  # bytes of its own
                file.write(str(number).encode())
    assert figures(bench.run(EverySecond())) == (70, 0, 70)
    assert figures(bench.run(EverySecond())) == (0, 70, 70)
    with pytest.raises(UserError, match="64 pictures in a row"):
        bench.run(AlwaysBroken())  # it fails on what it has read before, too


def test_an_extractor_that_breaks_on_the_way_is_stopped(tmp_path: Path) -> None:
    class Dies(MeanColour):
        def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
            if len(self.seen) >= 3:
                raise RuntimeError("device lost")
            return super().extract(images)

    bench = Bench(tmp_path, 100)
    with pytest.raises(UserError, match=r"64 pictures in a row.*device lost\. What was read before is kept"):
        bench.run(Dies())
    assert figures(bench.run(MeanColour()))[1] > 0


@pytest.mark.parametrize("broken", [AlwaysBroken, NeverPrepared])
def test_a_run_that_reads_nothing_is_an_error_and_no_rows(broken: type[MeanColour], tmp_path: Path) -> None:
    """Rows would be kept for good: nothing that a stage depends on changes when its extractor is mended."""
    for count in (2, 20):
        bench = Bench(tmp_path / str(count), count)
        (bench.folder / "0_0000.png").write_bytes(b"no picture")
        make_pictures(bench.folder, 1, seed=5)
        with pytest.raises(
            UserError,
            match=rf"^captions: the extractor failed on each of the {count} pictures .* on "
            r"5_0000\.png: RuntimeError: broken\. Nothing was read",
        ):
            bench.run(broken())
        assert not bench.output.exists()


@pytest.mark.parametrize("broken", [AlwaysBroken, NeverPrepared])
def test_failures_are_rows_where_anything_speaks_for_the_extractor(broken: type[MeanColour], tmp_path: Path) -> None:
    alone = Bench(tmp_path / "alone", 1)
    assert figures(alone.run(broken())) == (0, 0, 1), "one picture may be to blame itself"
    bench = Bench(tmp_path / "more", 1)
    bench.run(MeanColour())
    make_pictures(bench.folder, 5, seed=7)
    assert figures(bench.run(broken())) == (0, 1, 5), "it has read a picture before"
    gone = Bench(tmp_path / "gone", 5)
    rows = rows_of(gone.folder)
    for row in rows:
        (gone.folder / row.image).unlink()
    summary = extract("captions", broken(), rows, gone.folder, gone.output, gone.store)
    assert figures(summary) == (0, 0, 5), "it was not asked"
    assert summary.again is None


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([[Caption("x")]], "gave 1 results for 4"),
        ([["x"]] * 4, "expected a list of Caption"),
        ([None] * 4, "expected a list"),
        ([[ObjectTag("x")]] * 4, "expected a list of Caption"),
    ],
)
def test_an_extractor_that_keeps_no_contract_is_named(bench: Bench, result: Any, message: str) -> None:
    class Wrong(MeanColour):
        def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
            return result

    with pytest.raises(UserError, match=f"Wrong.*{message}"):
        bench.run(Wrong())


HALF = "a dog \ud83d"


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("captions", Caption(HALF)),
        ("objects", ObjectTag(HALF)),
        ("objects", ObjectTag("dog", HALF)),
        ("ocr", TextLine(HALF)),
    ],
    ids=["caption", "label", "attribute", "line"],
)
def test_an_unpaired_surrogate_costs_its_picture_alone(kind: str, item: Item, bench: Bench) -> None:
    """A lone surrogate cannot be written as UTF-8, neither to the store nor to the output."""
    Image.new("RGB", (9, 9), (255, 0, 0)).save(bench.folder / "0_0006.png")

    class Halving(MeanColour):
        def extract(self, images: Sequence[Image.Image]) -> list[list[Item]]:  # type: ignore[override]
            return [[item] if reddish(image) else [] for image in images]

    class Published:
        def lookup(self, image_name: str) -> list[Item]:
            return [item] if image_name == "0_0006.png" else []

    for extractor in (Halving(), Published()):
        summary = extract(kind, extractor, rows_of(bench.folder), bench.folder, bench.output, bench.store, 4)
        assert figures(summary) == (19, 0, 1)
        found = [json.loads(line) for line in bench.output.read_text(encoding="utf-8").splitlines()]
        assert [(row["image"], row["status"], row[kind]) for row in found if row["error"]] == [
            ("0_0006.png", "failed", [])
        ]
        assert "unpaired surrogate" in found[6]["error"]


def test_the_closing_line_says_how_failures_are_tried_again(bench: Bench, tmp_path: Path) -> None:
    """Where the extractor failed; a picture that is no picture is none the better for another try."""
    manifest_file = tmp_path / "images.jsonl"

    def line(extractor: MeanColour) -> str:
        write_jsonl(manifest_file, map(asdict, rows_of(bench.folder)))
        return str(extract("captions", extractor, manifest_file, bench.folder, bench.output, bench.store))

    (bench.folder / "0_0001.png").write_bytes(b"")
    assert line(MeanColour()) == "20 pictures: 19 read, 0 from the store, 1 failed"
    Image.new("RGB", (9, 9), (255, 0, 0)).save(bench.folder / "0_0002.png")
    broken = Touchy(raises(RuntimeError("a kernel failed")))
    assert line(broken) == (
        "20 pictures: 0 read, 18 from the store, 2 failed; to try again what failed here: "
        "dvc repro --force --single-item captions"
    )
    assert str(bench.run(broken)).endswith("2 failed; to try again what failed here: run the same command once more")
    assert line(MeanColour()) == "20 pictures: 1 read, 18 from the store, 1 failed"


class Leaving(MeanColour):
    """Reads by threads of its own, as a served model does, and is gone for the pictures from the `last` on."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last, self.prepared = last, 0

    def prepare(self, image: Image.Image) -> Any:
        self.prepared += 1
        return None if self.prepared > self.last else image

    def extract_prepared(self, prepared: Sequence[Any]) -> list[list[Caption]]:
        if None in prepared:
            raise UnavailableError("captions: the server is gone")
        return self.extract(prepared)


def test_what_was_read_before_an_extractor_is_gone_is_stored(bench: Bench) -> None:
    """Of the batch in hand, and of those that are with the extractor already; no row says that it is a picture's
    fault, and no more pictures are decoded."""
    leaving = Leaving(last=6)
    with pytest.raises(UnavailableError, match=r"^captions: the server is gone$"):
        bench.run(leaving, workers=1)
    assert not bench.output.exists()
    assert leaving.prepared <= 16, "those ahead, and no others"
    assert figures(bench.run(MeanColour())) == (14, 6, 0)


def test_the_first_exception_of_a_class_of_ones_own_is_shown_with_where_it_happened_once(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    class Odd(MeanColour):
        def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
            if any(image.width % 2 for image in images):
                raise KeyError("a typing error")
            return super().extract(images)

    bench.run(Odd())
    told = capsys.readouterr().err
    assert told.count("Traceback (most recent call last)") == 1
    assert 'raise KeyError("a typing error")' in told
    assert "captions: Odd failed, as here for the first time:" in told
