"""The plan: which pictures are read, in which batches."""

import pickle
import random
from pathlib import Path

from pipeline.core.records import ImageRow
from pipeline.core.store import Store
from pipeline.engine.inputs import PictureInputs
from pipeline.engine.plan import Job, batches, lacking, stored
from pipeline.engine.shards import Part
from pipeline.settings.params import ImagesParams

KEY = "ab" * 32


def row(name: str, number: int | None) -> ImageRow:
    """A readable picture with the bytes that `number` stands for, or one that is missing."""
    if number is None:
        return ImageRow(name, status="missing", error="gone")
    return ImageRow(name, f"{number:064x}", 30, 20, "PNG")


def test_a_job_is_what_can_be_read_and_has_no_result(tmp_path: Path) -> None:
    rows = [row("d", 1), row("a", 1), row("b", 2), row("c", None), row("e", 3)]
    inputs = PictureInputs(rows, None, ImagesParams())
    with Store.open(tmp_path) as store:
        store.put_many(KEY, {f"{2:064x}": b"[]"})
        [shard] = lacking(inputs, store, KEY)
        assert shard.jobs == [Job(name, f"{n:064x}", 30, 20, f"{n:064x}") for name, n in (("a", 1), ("e", 3))]
        assert [job.name for job in stored(inputs, store, KEY)] == ["b"]
    assert pickle.loads(pickle.dumps(shard.jobs)) == shard.jobs  # noqa: S301  (our own)


def test_of_copies_in_several_shards_the_first_has_the_job(tmp_path: Path, small_shards: None) -> None:
    rng = random.Random(1)
    rows = [row(f"{number:03}", rng.choice([None, *range(60)])) for number in range(200)]
    inputs = PictureInputs(rows, None, ImagesParams())
    firsts: dict[str, str] = {}
    for each in rows:
        if each.sha256 is not None:
            firsts.setdefault(each.sha256, each.image)
    with Store.open(tmp_path) as store:
        every = list(lacking(inputs, store, KEY, repeated=inputs.repeated()))
        assert len(every) > 5
        assert {job.key: job.name for shard in every for job in shard.jobs} == firsts
        assert sum(len(shard.jobs) for shard in every) == len(firsts)
        halves = [list(lacking(inputs, store, KEY, repeated=inputs.repeated(), part=Part(n, 2))) for n in range(2)]
        assert sorted(shard.shard for half in halves for shard in half) == sorted(shard.shard for shard in every)


def test_batches_are_of_one_bucket_and_go_on_where_a_killed_run_stopped() -> None:
    rng = random.Random(3)
    jobs = [Job(f"{number:03}", f"{number:064x}", rng.choice([10, 20, 30]), 10) for number in range(100)]

    def bucket(width: int, _height: int) -> int:
        return width

    whole = list(batches(jobs, 7, bucket))
    assert sorted(job for batch in whole for job in batch) == jobs
    assert all(len({job.width for job in batch}) == 1 and len(batch) <= 7 for batch in whole)
    for killed_after in range(len(whole)):
        stored = {job for batch in whole[:killed_after] for job in batch}
        rest = list(batches([job for job in jobs if job not in stored], 7, bucket))
        assert sorted(rest) == sorted(whole[killed_after:])
    large = [Job(str(number), "0", 8000, 4000) for number in range(5)]
    assert [len(batch) for batch in batches(large, 16, bucket)] == [2, 2, 1]
