"""What every layout of an archive can do: write items, and read records again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from agentlightning.archive._kinds import Item, Kind
from agentlightning.archive._manifest import ArchiveFile
from agentlightning.store import Record


class Sized(NamedTuple):
    """A record with about the bytes that it takes."""

    record: Record
    size_bytes: int


class Writer(Protocol):
    """Writes items into files of a folder."""

    def write(self, kind: Kind, items: Sequence[Item]) -> None:
        """Adds items; a kind that the layout does not have is left out."""
        ...

    def finish(self) -> tuple[ArchiveFile, ...]:
        """Closes the files and describes them."""
        ...

    def close(self) -> None:
        """Closes the files, whole or not; may be called twice."""
        ...


class Reader(Protocol):
    """Reads the records of an archive whose files are those that its manifest says.

    Attributes:
        rejected: What could not be taken, counted by reason.
    """

    rejected: Counter[str]

    def read(self, kind: Kind) -> Iterator[Sized]:
        """The records of a kind, in the order in which they were written.

        Raises:
            ConfigError: A record cannot be read; the message has its place.
        """
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


FileNames = Mapping[str, Kind]
"""Names that files of a layout may have."""
