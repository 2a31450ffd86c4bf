"""Files of tasks: JSONL and CSV, with errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from agentlightning.errors import ConfigError
from agentlightning.types import Json


def read_tasks(path: str | Path) -> list[Json]:
    """Reads tasks: any JSON value a line (`.jsonl`, `.ndjson`), or a row under a header (`.csv`, values are text).

    Raises:
        ConfigError: The file cannot be read, holds no task, or a line of it is no task; the message names the line.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{str(path)!r} is not a file of tasks; {_advice(path)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the tasks in {str(path)!r} cannot be read: {error.strerror or error}") from error
    tasks = reader(path, data.removeprefix(b"\xef\xbb\xbf"))
    if not tasks:
        raise ConfigError(f"{str(path)!r} holds no task; write one a line")
    return tasks


def _advice(path: Path) -> str:
    if path.suffix.lower() == ".parquet":
        return (
            "Parquet is not read; install pandas with pyarrow and convert it: "
            "pandas.read_parquet(FILE).to_json('tasks.jsonl', orient='records', lines=True)"
        )
    return f"{', '.join(sorted(_READERS))} are read"


def _read_jsonl(path: Path, data: bytes) -> list[Json]:
    tasks: list[Json] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            tasks.append(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}:{number} is not JSON: {error}; each line is one task") from error
    return tasks


def _read_csv(path: Path, data: bytes) -> list[Json]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line} is not UTF-8: {error.reason}; save the file as UTF-8") from error
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        return _records(path, rows=[(rows.line_num, row) for row in rows if row])
    except csv.Error as error:
        raise ConfigError(f"{path}:{rows.line_num} is not CSV: {error}") from error


def _records(path: Path, *, rows: list[tuple[int, list[str]]]) -> list[Json]:
    if not rows:
        return []
    (_, header), *body = rows
    if len(set(header)) != len(header) or not all(header):
        raise ConfigError(f"{path}:1 is no header: the names {header!r} must be given and differ")
    for number, row in body:
        if len(row) != len(header):
            raise ConfigError(f"{path}:{number} has {len(row)} values, the header names {len(header)}")
    return [dict(zip(header, row, strict=True)) for _, row in body]


_READERS: Final[Mapping[str, Callable[[Path, bytes], list[Json]]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}
