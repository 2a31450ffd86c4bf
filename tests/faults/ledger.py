"""What writers asked and what was acknowledged: the promises that a store is held to."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import msgspec

_DECODER = msgspec.json.Decoder(list[Any])


class Ledger:
    """Adds up the lines of any number of writers, from any thread.

    Attributes:
        operations: How many were acknowledged, by verb; a batch counts each of its spans or rollouts.
        refused: Requests that the store refused, by verb.
        doubtful: Requests without an answer: (verb, name) and what was asked.
        enqueued: Ids by key.
        leased: Attempts by key.
        heard: Attempts whose heartbeat was acknowledged.
        batches: Numbers of the acknowledged batches by attempt.
        late: How many acknowledged spans were late, by attempt.
        finished: Whether it succeeded, by attempt.
        terminal: Status of each rollout that somebody was told had ended.
        published: (set id, version) by key.
        logged: (run, keys).
        runs: Created.
        spooled: Spans that wait on disk for their server.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.operations: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.doubtful: dict[tuple[str, str], list[Any]] = {}
        self.enqueued: dict[str, list[str]] = {}
        self.leased: dict[str, list[str]] = {}
        self.heard: set[str] = set()
        self.batches: dict[str, set[int]] = {}
        self.late: Counter[str] = Counter()
        self.finished: dict[str, bool] = {}
        self.terminal: dict[str, str] = {}
        self.published: dict[str, tuple[str, int]] = {}
        self.logged: dict[str, list[str]] = {}
        self.runs: set[str] = set()
        self.spooled = 0
        self.contradictions: list[str] = []

    @property
    def total(self) -> int:
        """Acknowledged operations."""
        return self.operations.total()

    def feed(self, line: bytes) -> None:
        """Takes one line of a writer."""
        mark, verb, name, *rest = _DECODER.decode(line)
        label = f"{name} {rest[0]}" if verb == "append" else name
        with self._lock:
            if mark == "?":
                self.doubtful[verb, label] = [name, *rest]
                return
            asked = self.doubtful.pop((verb, label), [])
            if mark == "x":
                self.refused[verb] += 1
            else:
                self.operations[verb] += getattr(self, f"_{verb}")(name, asked, *rest)

    def _enqueue(self, name: str, asked: list[Any], ids: list[str]) -> int:
        self.enqueued[name] = ids
        return len(ids)

    def _lease(self, name: str, asked: list[Any], attempts: list[str]) -> int:
        self.leased[name] = attempts
        return max(len(attempts), 1)

    def _heartbeat(self, name: str, asked: list[Any]) -> int:
        self.heard.add(name)
        return 1

    def _append(self, name: str, asked: list[Any], batch: int, *counts: int) -> int:
        stored, late, duplicates, spooled = counts
        self.batches.setdefault(name, set()).add(batch)
        self.late[name] += late
        self.spooled += spooled
        return stored + late + duplicates + spooled

    def _finish(self, name: str, asked: list[Any], status: str) -> int:
        succeeds = bool(asked[2])
        self.finished[name] = succeeds
        if succeeds:
            self._ended(name.rpartition(".")[0], "succeeded")
        elif status in {"failed", "cancelled", "succeeded"}:
            self._ended(name.rpartition(".")[0], status)
        return 1

    def _cancel(self, name: str, asked: list[Any], status: str) -> int:
        self._ended(name, status)
        return 1

    def _wait(self, name: str, asked: list[Any], done: list[list[str]]) -> int:
        for rollout_id, status in done:
            self._ended(rollout_id, status)
        return 1

    def _log(self, name: str, asked: list[Any]) -> int:
        self.logged.setdefault(asked[1], []).append(name)
        return 1

    def _publish(self, name: str, asked: list[Any], set_id: str, version: int) -> int:
        self.published[name] = (set_id, version)
        return 1

    def _create(self, name: str, asked: list[Any]) -> int:
        self.runs.add(name)
        return 1

    def _ended(self, rollout_id: str, status: str) -> None:
        if self.terminal.setdefault(rollout_id, status) != status:
            self.contradictions.append(
                f"rollout {rollout_id} had ended {self.terminal[rollout_id]}, then {status}"
            )
