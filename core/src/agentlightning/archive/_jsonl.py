"""The layout `jsonl`: a file of lines per kind, each line a record as JSON, optionally compressed."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from agentlightning.archive._kinds import RECORDS, Item, Kind
from agentlightning.archive._manifest import ArchiveFile, damaged, describe
from agentlightning.archive._medium import FileNames, Sized

SUFFIX: Final = ".jsonl"
GZIP: Final = ".gz"
LONGEST_LINE: Final = 256 * 2**20
"""Bytes of one line, at most: a line is read as a whole."""
_LEVEL: Final = 1  # higher ones take several times as long for a few per cent

FILE_NAMES: Final[FileNames] = {f"{kind}{SUFFIX}{end}": kind for kind in RECORDS for end in ("", GZIP)}


class JsonlWriter:
    """Writes lines.

    Args:
        compress: With gzip.
    """

    def __init__(self, folder: Path, *, compress: bool) -> None:
        self._folder = folder
        self._names = {kind: f"{kind}{SUFFIX}{GZIP if compress else ''}" for kind in RECORDS}
        self._files = {kind: create(folder / name) for kind, name in self._names.items()}
        self._counts = dict.fromkeys(self._names, 0)
        self._encoder = msgspec.json.Encoder()

    def write(self, kind: Kind, items: Sequence[Item]) -> None:
        """Adds items; rewards are with their spans already."""
        if kind in self._files:
            self._files[kind].write(self._encoder.encode_lines(items))
            self._counts[kind] += len(items)

    def finish(self) -> tuple[ArchiveFile, ...]:
        """Closes the files and describes them."""
        self.close()
        return tuple(
            describe(self._folder, name=name, kind=kind, records=self._counts[kind])
            for kind, name in self._names.items()
        )

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


class JsonlReader:
    """Reads the lines of an archive."""

    def __init__(self, folder: Path, files: Sequence[ArchiveFile]) -> None:
        self.rejected: Counter[str] = Counter()
        self._paths = {file.kind: folder / file.name for file in files}

    def read(self, kind: Kind) -> Iterator[Sized]:
        """The records of a kind; a kind without a file has none."""
        path = self._paths.get(kind)
        if path is None:
            return
        decoder = msgspec.json.Decoder(RECORDS[kind])
        for number, line in lines_of(path):
            try:
                record = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise damaged(path, f"line {number}: {error}") from error
            yield Sized(record, len(line))

    def close(self) -> None:
        """There is nothing to let go of: a file is open only while it is read."""


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, compressed or not, with their numbers from 1; empty ones are left out.

    Raises:
        ConfigError: A line is longer than anything that is written, or the compression is broken.
    """
    with _opened(path) as file:
        number = 0
        while True:
            try:
                line = file.readline(LONGEST_LINE + 1)
            except (EOFError, OSError, zlib.error) as error:
                raise damaged(path, f"after line {number}: {error}") from error
            if not line:
                return
            number += 1
            if len(line) > LONGEST_LINE:
                raise damaged(path, f"line {number} is longer than {LONGEST_LINE} bytes")
            if not line.isspace():
                yield number, line


def whole_file(path: Path, *, most: int) -> bytes:
    """All bytes of a file, compressed or not.

    Raises:
        ConfigError: There are more than `most`, or the compression is broken.
    """
    with _opened(path) as file:
        try:
            data = file.read(most + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise damaged(path, str(error)) from error
    if len(data) > most:
        raise damaged(path, f"it is longer than {most} bytes")
    return data


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == GZIP:
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def create(path: Path) -> IO[bytes]:
    """A new file to write to, compressed if its name says so."""
    if path.suffix == GZIP:
        return gzip.GzipFile(path, "wb", compresslevel=_LEVEL, mtime=0)  # type: ignore[return-value]
    return path.open("wb")
