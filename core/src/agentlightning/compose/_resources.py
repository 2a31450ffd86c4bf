"""Resource sets of several parts as one: whose each resource is, and what a set of all of them has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from agentlightning.errors import ConfigError
from agentlightning.types import Resource, ResourceRecord

Records = Mapping[str, ResourceRecord]


def recorded(resources: Mapping[str, Resource]) -> dict[str, ResourceRecord]:
    """Resources as a store keeps them; those that are records already stay as they are."""
    return {
        name: found if isinstance(found, ResourceRecord) else ResourceRecord.of(found)
        for name, found in cast("Mapping[str, Resource | ResourceRecord]", resources).items()
    }


class Owners:
    """Whose each resource is: of the part that first published it other than it was live.

    Args:
        parts: Names of the parts.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts
        self._owners: dict[str, int] = {}
        self._published: dict[str, set[bytes]] = {}

    def of(self, part: int) -> list[str]:
        """The resources of a part."""
        return sorted(name for name, owner in self._owners.items() if owner == part)

    def restore(self, part: int, names: Sequence[str]) -> None:
        """Takes up what was a part's at a checkpoint."""
        self._owners |= dict.fromkeys(names, part)

    def claim(self, part: int, published: Records, *, live: Records) -> None:
        """Takes in what a part publishes. Copies of others' resources, however old, are no claim.

        Raises:
            ConfigError: It changes a resource of another part.
        """
        for name, record in published.items():
            if record == live.get(name):
                continue
            owner = self._owners.setdefault(name, part)
            seen = self._published.setdefault(name, set())
            if owner == part:
                seen.add(_digest(record))
            elif seen and _digest(record) not in seen:
                raise ConfigError(
                    f"{self._parts[part]!r} and {self._parts[owner]!r} both change resource {name!r}; give one of "
                    "them another name for it, or other resources = […]"
                )

    def merged(
        self, chosen: Mapping[int, Records], *, rest: Mapping[int, Records]
    ) -> dict[str, ResourceRecord]:
        """One set of all parts.

        Args:
            chosen: What some parts publish or ask for.
            rest: What all others are at.

        Returns:
            Every resource as its owner has it, and what is nobody's as the first of `chosen` that has it.
        """
        found: dict[str, ResourceRecord] = {}
        for part, records in chosen.items():
            for name, record in records.items():
                if self._owners.get(name, part) == part:
                    found.setdefault(name, record)
        for name, owner in self._owners.items():
            if owner not in chosen and name in rest[owner]:
                found[name] = rest[owner][name]
        return found


def _digest(record: ResourceRecord) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(record, order="deterministic"), digest_size=16).digest()
