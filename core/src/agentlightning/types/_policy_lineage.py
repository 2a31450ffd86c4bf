"""From which weights those of each policy version were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec


class PolicyLineage(msgspec.Struct, frozen=True, kw_only=True):
    """The policy versions of one run: each is one update of the one before, but for those that were loaded.

    Versions are given once and never fall, so weights that come back, on a rollback or because a run went on, have a
    number of their own; a difference of numbers is then no number of updates.

    Attributes:
        loaded: Versions whose weights were loaded, with the version of the run that they had been; None if they were
            none of it.
    """

    loaded: Mapping[int, int | None] = {}

    def updates_between(self, one: int, other: int) -> int | None:
        """How many updates lie between two versions, by way of the newest weights that both were made from.

        None if nothing is known that both were made from.
        """
        found = {first: (version, updates) for first, version, updates in self._stretches(one)}
        for first, version, updates in self._stretches(other):
            if first in found:
                reached, before = found[first]
                return before + updates + abs(reached - version)
        return None

    def _stretches(self, version: int) -> Iterator[tuple[int, int, int]]:
        """Backwards: where each stretch without loading began, the version in it, and the updates to there."""
        updates = 0
        while True:
            first = max((loaded for loaded in self.loaded if loaded <= version), default=0)
            yield first, version, updates
            before = self.loaded.get(first)
            if before is None or not 0 <= before < first:
                return
            version, updates = before, updates + version - first
