"""Traces in OpenTelemetry's JSON, ours or anybody's, as records: each attempt that they name, else each trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from agentlightning.archive._jsonl import GZIP, LONGEST_LINE, lines_of, whole_file
from agentlightning.archive._kinds import Kind
from agentlightning.archive._medium import FileNames, Sized
from agentlightning.archive._trace_spool import TraceSpool
from agentlightning.capture.otlp import JSON, MalformedTelemetry, decode_traces
from agentlightning.errors import ConfigError
from agentlightning.store import AttemptRecord, RolloutRecord, SpanRecord
from agentlightning.types import Span

TRACES: Final = "traces.jsonl"
_MOST_REASONS: Final = 20
FILE_NAMES: Final[FileNames] = {TRACES: Kind.SPANS, f"{TRACES}{GZIP}": Kind.SPANS}


class OtlpReader:
    """Reads files of traces: a request a line, or one request alone.

    Spans of a trace may be anywhere in the files; they are sorted on disk.

    Args:
        some: There must be a span, as in a file that somebody chose; an archive may be of an empty store.

    Raises:
        ConfigError: A file is no such thing, or no span of it can be used.
    """

    def __init__(self, paths: Sequence[Path], *, some: bool) -> None:
        self.rejected: Counter[str] = Counter()
        self._spool = TraceSpool()
        try:
            self._fill(paths, some=some)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Deletes what was sorted."""
        self._spool.close()

    def _fill(self, paths: Sequence[Path], *, some: bool) -> None:
        count = 0
        for path in paths:
            for where, request in _requests(path):
                count += self._add(where, request)
        if some and not count:
            reasons = "; ".join(f"{reason} ({many})" for reason, many in self.rejected.most_common(3))
            raise ConfigError(
                f"{', '.join(map(repr, map(str, paths)))} has no span that can be used"
                f"{': ' + reasons if reasons else ''}; it should be an ExportTraceServiceRequest, or one a line"
            )

    def read(self, kind: Kind) -> Iterator[Sized]:
        """The records of a kind; of most there are none."""
        match kind:
            case Kind.ROLLOUTS:
                yield from (Sized(RolloutRecord(rollout=one), 0) for one in self._spool.rollouts())
            case Kind.ATTEMPTS:
                yield from (Sized(AttemptRecord(attempt=one), 0) for one in self._spool.attempts())
            case Kind.SPANS:
                for span, size_bytes in self._spool.spans():
                    yield Sized(SpanRecord(span=span), size_bytes)
            case _:
                return

    def _add(self, where: str, request: bytes) -> int:
        try:
            decoded = decode_traces(request, JSON)
        except MalformedTelemetry as error:
            raise ConfigError(f"{where}: {error}") from error
        for one in decoded.rejected:
            known = one.reason in self.rejected or len(self.rejected) < _MOST_REASONS
            self.rejected[one.reason if known else "other reasons"] += 1
        self._spool.add([_owned(span) for span in decoded.spans])
        return len(decoded.spans)


def _owned(span: Span) -> Span:
    """The span of the attempt that it names, else of the only attempt of its trace."""
    rollout_id = span.rollout_id or f"trace-{span.trace_id}"
    return msgspec.structs.replace(
        span, rollout_id=rollout_id, attempt_id=span.attempt_id or f"{rollout_id}.1"
    )


def _requests(path: Path) -> Iterator[tuple[str, bytes]]:
    """The requests of a file with their places."""
    first = next(lines_of(path), None)
    if first is None:
        return
    try:
        msgspec.json.decode(first[1], type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # one request over many lines
        yield str(path), whole_file(path, most=LONGEST_LINE)
        return
    for number, line in lines_of(path):
        yield f"{path}, line {number}", line
