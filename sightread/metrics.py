"""What a server counts, in Prometheus' text format (version 0.0.4)."""

import threading
from collections import Counter
from collections.abc import Iterator

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of times, in seconds."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Requests by path and status, the time they took, posts and pictures by status; safe from several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._pictures: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0
        self._timed = self._posts = self.in_flight = 0

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request to a path that the server knows."""
        with self._guard:
            self._requests[path, status] += 1
            self._seconds += seconds
            self._timed += 1
            for bound in BUCKETS:
                self._buckets[bound] += seconds <= bound

    def tagged(self, posts: int, pictures: Counter[str]) -> None:
        """Count posts, and pictures by status."""
        with self._guard:
            self._posts += posts
            self._pictures.update(pictures)

    def text(self) -> str:
        """All of it."""
        with self._guard:
            return "\n".join([*self._lines(), ""])

    def _lines(self) -> Iterator[str]:
        yield "# HELP sightread_requests_total Requests by path and status."
        yield "# TYPE sightread_requests_total counter"
        for (path, status), count in sorted(self._requests.items()):
            yield f'sightread_requests_total{{path="{path}",status="{status}"}} {count}'
        yield "# HELP sightread_request_seconds Time from a request's first byte to the end of its answer."
        yield "# TYPE sightread_request_seconds histogram"
        for bound in BUCKETS:
            yield f'sightread_request_seconds_bucket{{le="{bound:g}"}} {self._buckets[bound]}'
        yield f'sightread_request_seconds_bucket{{le="+Inf"}} {self._timed}'
        yield f"sightread_request_seconds_sum {self._seconds:.6f}"
        yield f"sightread_request_seconds_count {self._timed}"
        yield "# HELP sightread_posts_total Posts tagged."
        yield "# TYPE sightread_posts_total counter"
        yield f"sightread_posts_total {self._posts}"
        yield "# HELP sightread_pictures_total Pictures by what became of them."
        yield "# TYPE sightread_pictures_total counter"
        for what, count in sorted(self._pictures.items()):
            yield f'sightread_pictures_total{{status="{what}"}} {count}'
        yield "# HELP sightread_requests_in_flight Requests that are being answered or wait for it."
        yield "# TYPE sightread_requests_in_flight gauge"
        yield f"sightread_requests_in_flight {self.in_flight}"
