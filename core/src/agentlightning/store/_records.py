"""What the store hands out and takes in as a whole: statistics, retention, reward summaries, records."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from agentlightning.types import (
    Attempt,
    MetricPoint,
    ResourceSet,
    Rollout,
    RolloutStatus,
    Run,
    RunEvent,
    Span,
)


class RewardKey(StrEnum):
    """What rewards are summarised by, besides their dimension."""

    DIMENSION = "dimension"
    GROUP = "group"
    RUN = "run"
    RESOURCES = "resources"
    MODE = "mode"


class RewardSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The rewards of one key and dimension.

    Attributes:
        key: The group, run, resource set or mode; None for rollouts without one, and where nothing else than the
            dimension was asked for.
        count: Rewards.
        std: Population standard deviation of the rewards.
    """

    key: str | None
    dimension: str
    count: int
    mean: float
    std: float
    low: float
    high: float


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is of everything.

    Attributes:
        rollouts: Count by status; a status without any is there as 0.
        attempts: Attempts ever made.
        spans: Spans, late ones included.
        span_bytes: Their size as stored.
        resource_sets: Resource sets.
        runs: Runs.
        oldest_queued_at: When the rollout was enqueued that has been queued for longest; None without any.
    """

    rollouts: dict[RolloutStatus, int]
    attempts: int
    spans: int
    span_bytes: int
    resource_sets: int
    runs: int
    oldest_queued_at: float | None = None


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept; a field that is None does not limit.

    Attributes:
        max_age_s: Terminal rollouts that finished longer ago go, in seconds.
        max_rollouts: Most terminal rollouts.
        max_bytes: Most bytes of spans in the store; open rollouts count, but stay.
    """

    max_age_s: float | None = None
    max_rollouts: int | None = None
    max_bytes: int | None = None


class Trimmed(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted."""

    rollouts: int
    spans: int
    size_bytes: int


class RolloutRecord(msgspec.Struct, frozen=True, kw_only=True, tag="rollout"):
    """A rollout as it was; should it be tried again, it is on the resource set that it had."""

    rollout: Rollout


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True, tag="attempt"):
    """An attempt as it was."""

    attempt: Attempt


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True, tag="span"):
    """A span as it was, with its sequence and whether it was late."""

    span: Span


class ResourceSetRecord(msgspec.Struct, frozen=True, kw_only=True, tag="resource_set"):
    """A resource set as it was. Its version is given anew; live ones become retired where another is live."""

    resource_set: ResourceSet


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """A run as it was; a running one is interrupted."""

    run: Run


class MetricRecord(msgspec.Struct, frozen=True, kw_only=True, tag="metric"):
    """A metric point of a run."""

    run_id: str
    point: MetricPoint


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, tag="event"):
    """An event of a run, with its place among the run's events, from 0."""

    run_id: str
    index: int
    event: RunEvent


Record: TypeAlias = (
    RolloutRecord | AttemptRecord | SpanRecord | ResourceSetRecord | RunRecord | MetricRecord | EventRecord
)
"""Anything that a store keeps, on its way from one store to another."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of loaded records."""

    added: int
    skipped: int
