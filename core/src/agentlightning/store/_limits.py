"""Limits: what a store takes at most, so that one client cannot fill it for all."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Most that is taken, more raises `LimitExceeded`; and most that is given at once.

    Attributes:
        span_bytes: Bytes of one span.
        attempt_spans: Spans of one attempt.
        attempt_bytes: Bytes of the spans of one attempt.
        task_bytes: Bytes of one task, with its metadata, and of one output.
        queued: Rollouts in the queue; where several processes enqueue at once, each counts for itself.
        batch: Rollouts, spans or records of one call.
        page_bytes: Bytes of the spans of one page as stored, large payloads included each time they are used; the page
            ends before the span that would be too much, but has at least one.
    """

    span_bytes: int = 16 * 2**20
    attempt_spans: int = 100_000
    attempt_bytes: int = 2**30
    task_bytes: int = 16 * 2**20
    queued: int = 1_000_000
    batch: int = 100_000
    page_bytes: int = 32 * 2**20
