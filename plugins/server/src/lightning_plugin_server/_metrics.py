"""What the server counts of itself, and `/metrics` in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import Final

from agentlightning.store import Statistics

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts requests by path and status, and how long they took.

    Attributes:
        in_flight: Requests that are being answered.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, float] = {}
        self._buckets: dict[str, list[int]] = {}

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Counts one answer of an endpoint."""
        self._requests[path, status] += 1
        buckets = self._buckets.get(path)
        if buckets is None:
            buckets = self._buckets[path] = [0] * (len(_BUCKETS_S) + 1)
            self._seconds[path] = 0.0
        buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        self._seconds[path] += seconds

    def text(self, statistics: Statistics, *, now: float) -> bytes:
        """All metrics.

        Args:
            statistics: Of the store.
            now: Seconds since the epoch.
        """
        oldest = statistics.oldest_queued_at
        lines = [
            *_gauge(
                "agl_rollouts",
                "Rollouts by status.",
                [(f'{{status="{status}"}}', count) for status, count in statistics.rollouts.items()],
            ),
            *_gauge("agl_attempts", "Attempts.", [("", statistics.attempts)]),
            *_gauge("agl_spans", "Spans.", [("", statistics.spans)]),
            *_gauge("agl_span_bytes", "Bytes of spans.", [("", statistics.span_bytes)]),
            *_gauge("agl_resource_sets", "Resource sets.", [("", statistics.resource_sets)]),
            *_gauge("agl_runs", "Runs.", [("", statistics.runs)]),
            *_gauge(
                "agl_queue_age_seconds",
                "How long the oldest queued rollout has waited.",
                [("", 0.0 if oldest is None else max(0.0, now - oldest))],
            ),
            *_gauge("agl_http_requests_in_flight", "Requests being answered.", [("", self.in_flight)]),
            "# HELP agl_http_requests_total Requests by path and status.",
            "# TYPE agl_http_requests_total counter",
        ]
        lines += (
            f'agl_http_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._requests.items())
        )
        lines += [
            "# HELP agl_http_request_seconds How long requests took.",
            "# TYPE agl_http_request_seconds histogram",
        ]
        for path, buckets in sorted(self._buckets.items()):
            bounds = [*map(str, _BUCKETS_S), "+Inf"]
            for bound, count in zip(bounds, accumulate(buckets), strict=True):
                lines.append(f'agl_http_request_seconds_bucket{{path="{path}",le="{bound}"}} {count}')
            lines.append(f'agl_http_request_seconds_sum{{path="{path}"}} {self._seconds[path]:.6f}')
            lines.append(f'agl_http_request_seconds_count{{path="{path}"}} {sum(buckets)}')
        return ("\n".join(lines) + "\n").encode()


def _gauge(name: str, help_text: str, values: list[tuple[str, float]]) -> list[str]:
    return [
        f"# HELP {name} {help_text}",
        f"# TYPE {name} gauge",
        *(f"{name}{labels} {value}" for labels, value in values),
    ]
