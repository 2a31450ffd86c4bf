"""The tables of the layout `parquet`: a row per record, a column per field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Final, Generic, TypeVar, cast, get_args

import msgspec

from agentlightning.archive._kinds import Item, Kind
from agentlightning.store import (
    AttemptRecord,
    EventRecord,
    MetricRecord,
    Record,
    ResourceSetRecord,
    RolloutRecord,
    RunRecord,
    SpanRecord,
)
from agentlightning.types import Attempt, Json, MetricPoint, ResourceSet, Reward, Rollout, Run, RunEvent, Span

_Row = TypeVar("_Row", bound=msgspec.Struct)


class Shape(StrEnum):
    """How a field is kept in a column.

    Attributes:
        JSON: As text; JSON's null is a missing value.
    """

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "flag"
    JSON = "json"


_SHAPES: Final = {str: Shape.TEXT, int: Shape.INTEGER, float: Shape.NUMBER, bool: Shape.FLAG}
_WIDE: Final = frozenset({"seed"})
"""Integers that may need all 64 bits without a sign, and are kept as text: the columns' have one."""
TOKENS: Final = "tokens"
"""The field that has columns of its own."""


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """A metric point with the run that it is of."""

    run_id: str
    name: str
    step: int
    value: float
    time: float


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """An event with the run that it is of, and its place in it."""

    run_id: str
    index: int
    kind: str
    message: str
    time: float
    data: dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[_Row]):
    """How one kind of item is kept.

    Attributes:
        row: The struct whose fields are columns.
        row_of: The row of an item.
        record_of: The record of a row; None if it is not loaded.
    """

    row: type[_Row]
    row_of: Callable[[Item], _Row]
    record_of: Callable[[_Row], Record] | None

    def shapes(self) -> dict[str, Shape]:
        """The columns, but for those of tokens."""
        fields = msgspec.structs.fields(self.row)
        return {field.name: _shape(field.name, field.type) for field in fields if field.name != TOKENS}


def _shape(name: str, kind: object) -> Shape:
    kinds = [one for one in get_args(kind) if one is not type(None)] or [kind]
    if name in _WIDE or len(kinds) > 1 or not isinstance(kinds[0], type):
        return Shape.JSON
    if issubclass(kinds[0], Enum):
        return Shape.TEXT
    return _SHAPES.get(kinds[0], Shape.JSON)


def _metric_row(item: Item) -> MetricRow:
    record = cast("MetricRecord", item)
    return MetricRow(run_id=record.run_id, **msgspec.structs.asdict(record.point))


def _metric_record(row: MetricRow) -> MetricRecord:
    point = MetricPoint(name=row.name, step=row.step, value=row.value, time=row.time)
    return MetricRecord(run_id=row.run_id, point=point)


def _event_row(item: Item) -> EventRow:
    record = cast("EventRecord", item)
    return EventRow(run_id=record.run_id, index=record.index, **msgspec.structs.asdict(record.event))


def _event_record(row: EventRow) -> EventRecord:
    event = RunEvent(kind=row.kind, message=row.message, time=row.time, data=row.data)
    return EventRecord(run_id=row.run_id, index=row.index, event=event)


RUNS: Final = Table(
    row=Run, row_of=lambda item: cast("RunRecord", item).run, record_of=lambda run: RunRecord(run=run)
)
METRICS: Final = Table(row=MetricRow, row_of=_metric_row, record_of=_metric_record)
EVENTS: Final = Table(row=EventRow, row_of=_event_row, record_of=_event_record)
RESOURCE_SETS: Final = Table(
    row=ResourceSet,
    row_of=lambda item: cast("ResourceSetRecord", item).resource_set,
    record_of=lambda found: ResourceSetRecord(resource_set=found),
)
ROLLOUTS: Final = Table(
    row=Rollout,
    row_of=lambda item: cast("RolloutRecord", item).rollout,
    record_of=lambda rollout: RolloutRecord(rollout=rollout),
)
ATTEMPTS: Final = Table(
    row=Attempt,
    row_of=lambda item: cast("AttemptRecord", item).attempt,
    record_of=lambda attempt: AttemptRecord(attempt=attempt),
)
SPANS: Final = Table(
    row=Span, row_of=lambda item: cast("SpanRecord", item).span, record_of=lambda span: SpanRecord(span=span)
)
REWARDS: Final = Table(row=Reward, row_of=lambda item: cast("Reward", item), record_of=None)

TABLES: Final[dict[Kind, Table[Any]]] = {
    Kind.RUNS: RUNS,
    Kind.METRICS: METRICS,
    Kind.EVENTS: EVENTS,
    Kind.RESOURCE_SETS: RESOURCE_SETS,
    Kind.ROLLOUTS: ROLLOUTS,
    Kind.ATTEMPTS: ATTEMPTS,
    Kind.SPANS: SPANS,
    Kind.REWARDS: REWARDS,
}
