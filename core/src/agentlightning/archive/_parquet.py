"""The layout `parquet`: a table per kind, that any tool for tables can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, cast

import msgspec

from agentlightning.archive._arrow import arrow_module
from agentlightning.archive._kinds import Item, Kind
from agentlightning.archive._manifest import ArchiveFile, damaged, describe
from agentlightning.archive._medium import FileNames, Sized
from agentlightning.archive._tables import TABLES, TOKENS, Shape, Table
from agentlightning.archive._token_columns import token_columns, token_fields, token_records
from agentlightning.errors import ConfigError
from agentlightning.types import TokenRecord

if TYPE_CHECKING:
    from typing import Any

    Batch: TypeAlias = Any  # pyarrow has no types

_Row = TypeVar("_Row", bound=msgspec.Struct)

SUFFIX: Final = ".parquet"
FILE_NAMES: Final[FileNames] = {f"{kind}{SUFFIX}": kind for kind in TABLES}
_GROUP_ROWS: Final = 50_000
_GROUP_BYTES: Final = 32 * 2**20
_READ_ROWS: Final = 1_000


class ParquetWriter:
    """Writes tables, compressed with zstd, in groups of rows that are no larger than a few dozen megabytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {kind: _TableFile(folder / f"{kind}{SUFFIX}", table) for kind, table in TABLES.items()}

    def write(self, kind: Kind, items: Sequence[Item]) -> None:
        """Adds items."""
        self._files[kind].add(items)

    def finish(self) -> tuple[ArchiveFile, ...]:
        """Closes the files and describes them."""
        for file in self._files.values():
            file.flush()
        self.close()
        return tuple(
            describe(self._folder, name=f"{kind}{SUFFIX}", kind=kind, records=file.rows)
            for kind, file in self._files.items()
        )

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


class _TableFile(Generic[_Row]):
    """A file in the making, with the rows that wait for their group to be full."""

    def __init__(self, path: Path, table: Table[_Row]) -> None:
        self.rows = 0
        self._path = path
        self._table = table
        self._shapes = table.shapes()
        self._schema = _schema(table)
        self._writer = arrow_module("pyarrow.parquet").ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[Batch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0

    def add(self, items: Sequence[Item]) -> None:
        arrow = arrow_module()
        rows = [self._table.row_of(item) for item in items]
        try:
            columns = {name: _column(rows, name, shape) for name, shape in self._shapes.items()}
            if TOKENS in self._table.row.__struct_fields__:
                columns |= token_columns([getattr(row, TOKENS) for row in rows])
        except (arrow.ArrowException, OverflowError) as error:
            raise ConfigError(
                f"{self._path.name} cannot hold something in the store: {error}; choose --format jsonl"
            ) from error
        batch = arrow.RecordBatch.from_pydict(columns, schema=self._schema)
        self._waiting.append(batch)
        self._waiting_rows += len(rows)
        self._waiting_bytes += batch.nbytes
        self.rows += len(rows)
        if self._waiting_rows >= _GROUP_ROWS or self._waiting_bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._writer.write_table(arrow_module().Table.from_batches(self._waiting, self._schema))
            self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def close(self) -> None:
        self._writer.close()


class ParquetReader:
    """Reads the tables of an archive, some rows at a time."""

    def __init__(self, folder: Path, files: Sequence[ArchiveFile]) -> None:
        self.rejected: Counter[str] = Counter()
        self._paths = {file.kind: folder / file.name for file in files}
        arrow_module()

    def read(self, kind: Kind) -> Iterator[Sized]:
        """The records of a kind; a kind without a file has none."""
        path, table = self._paths.get(kind), TABLES[kind]
        if path is None or table.record_of is None:
            return
        arrow = arrow_module()
        try:
            with arrow_module("pyarrow.parquet").ParquetFile(path) as file:
                _check_schema(path, found=file.schema_arrow, expected=_schema(table))
                for batch in _batches(file):
                    size_bytes = batch.nbytes // max(1, len(batch))
                    for row in _rows(batch, table):
                        yield Sized(table.record_of(row), size_bytes)
        except (arrow.ArrowException, msgspec.DecodeError, RecursionError, OSError) as error:
            raise damaged(path, str(error)) from error

    def close(self) -> None:
        """There is nothing to let go of: a file is open only while it is read."""


def _batches(file: Batch) -> Iterator[Batch]:
    for group in range(file.num_row_groups):  # read in one go, a file keeps every group that it has passed
        yield from file.iter_batches(batch_size=_READ_ROWS, row_groups=[group])


def _schema(table: Table[_Row]) -> Batch:
    arrow = arrow_module()
    kinds = {
        Shape.TEXT: arrow.string(),
        Shape.JSON: arrow.string(),
        Shape.INTEGER: arrow.int64(),
        Shape.NUMBER: arrow.float64(),
        Shape.FLAG: arrow.bool_(),
    }
    fields = [(name, kinds[shape]) for name, shape in table.shapes().items()]
    if TOKENS in table.row.__struct_fields__:
        fields += token_fields()
    return arrow.schema(fields)


def _check_schema(path: Path, *, found: Batch, expected: Batch) -> None:
    for field in expected:
        index = found.get_field_index(field.name)
        kind = found.field(index).type if index >= 0 else None
        if kind != field.type:
            raise damaged(path, f"its column {field.name!r} is {str(kind)!r}, expected {str(field.type)!r}")


def _column(rows: Sequence[msgspec.Struct], name: str, shape: Shape) -> Batch:
    arrow = arrow_module()
    values = [getattr(row, name) for row in rows]
    match shape:
        case Shape.JSON:
            texts = [None if value is None else msgspec.json.encode(value).decode() for value in values]
            return arrow.array(texts, arrow.string())
        case Shape.TEXT:
            return arrow.array([None if value is None else str(value) for value in values], arrow.string())
        case Shape.INTEGER:
            return arrow.array(values, arrow.int64())
        case Shape.NUMBER:
            return arrow.array(values, arrow.float64())
        case Shape.FLAG:
            return arrow.array(values, arrow.bool_())


def _rows(batch: Batch, table: Table[_Row]) -> Iterator[_Row]:
    shapes = table.shapes()
    columns = [_values(batch.column(name).to_pylist(), shape) for name, shape in shapes.items()]
    names = [*shapes]
    if TOKENS in table.row.__struct_fields__:
        names.append(TOKENS)
        columns.append(cast("list[object]", _tokens(batch)))
    for values in zip(*columns, strict=True):
        yield msgspec.convert(dict(zip(names, values, strict=True)), table.row)


def _values(column: list[object], shape: Shape) -> list[object]:
    if shape is not Shape.JSON:
        return column
    return [None if text is None else msgspec.json.decode(cast("str", text)) for text in column]


def _tokens(batch: Batch) -> list[tuple[TokenRecord, ...]]:
    columns: Mapping[str, Batch] = {name: batch.column(name) for name, _ in token_fields()}
    return token_records(columns)
