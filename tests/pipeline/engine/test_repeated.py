"""Digests that several rows have, found without holding them all in memory."""

import random
import tracemalloc

import pytest

from pipeline.engine.repeated import Repeated


def found(digests: list[str]) -> Repeated:
    return Repeated((digest, number, f"n{number}") for number, digest in enumerate(digests))


def test_what_occurs_twice_is_found_with_who_has_it_and_a_shared_head_is_no_repetition() -> None:
    digests = [f"{number % 900:064x}"[::-1] for number in range(1000)]
    repeated = found(digests)
    assert repeated.first(digests) == {digest: number for number, digest in enumerate(digests[:100])}
    assert repeated.names(digests[50:102]) == {
        digest: [f"n{number}", f"n{number + 900}"] for number, digest in enumerate(digests[50:100], start=50)
    }
    heads = ["ab" * 8 + "0" * 48, "ab" * 8 + "1" * 48]
    assert found(heads).first(heads) == {}
    assert found([]).names(heads) == {}


@pytest.mark.parametrize("share", [0, 0.5])
def test_memory_stays_flat(share: float) -> None:
    peaks = []
    for count in (2_000, 20_000):
        rng = random.Random(1)
        tracemalloc.start()
        repeated = Repeated(
            (f"{rng.randrange(int(count * (1 - share)) or 1) if rng.random() < share else number:064x}", number, "n")
            for number in range(count)
        )
        assert (len(repeated.first(f"{number:064x}" for number in range(500))) > 50) == bool(share)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 50_000  # bytes; keys that are kept would be a million more
