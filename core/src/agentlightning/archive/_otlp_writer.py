"""The layout `otlp`: spans alone as OpenTelemetry's JSON, a line per request, as its collectors write files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from agentlightning.archive._jsonl import GZIP, create
from agentlightning.archive._kinds import Item, Kind
from agentlightning.archive._manifest import ArchiveFile, describe
from agentlightning.archive._otlp_reader import TRACES
from agentlightning.capture.otlp import encode_traces
from agentlightning.store import SpanRecord


class OtlpWriter:
    """Writes lines, each an `ExportTraceServiceRequest` with spans of one attempt.

    Args:
        compress: With gzip.
    """

    def __init__(self, folder: Path, *, compress: bool) -> None:
        self._folder = folder
        self._name = f"{TRACES}{GZIP if compress else ''}"
        self._file = create(folder / self._name)
        self._count = 0

    def write(self, kind: Kind, items: Sequence[Item]) -> None:
        """Adds spans; OpenTelemetry has no word for anything else."""
        if kind is not Kind.SPANS:
            return
        spans = (item.span for item in items if isinstance(item, SpanRecord))
        for _, some in groupby(spans, key=lambda span: span.attempt_id):
            self._file.write(encode_traces(list(some)) + b"\n")
        self._count += len(items)

    def finish(self) -> tuple[ArchiveFile, ...]:
        """Closes the file and describes it."""
        self.close()
        return (describe(self._folder, name=self._name, kind=Kind.SPANS, records=self._count),)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
