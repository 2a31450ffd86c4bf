"""Stores that are broken on purpose: each fails exactly the contract test that is about what it breaks."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import pytest

from agentlightning.store import Limits, MemoryStore, Store
from agentlightning.testing._manual_clock import ManualClock
from agentlightning.testing._store_contract import StoreContract

Fault = Callable[..., Awaitable[Any]]
"""Stands in for a method; it gets the part of the real store first, which has the whole one as `store`."""

PARTS: Final = ("rollouts", "spans", "resources", "runs")
_WHOLE: Final = ("sweep", "statistics", "trim", "load")
_FIXTURES: Final = frozenset({"self", "store", "clock", "tmp_path"})
_PATIENCE_S: Final = 2.0
_HEAVY: Final = frozenset(
    {"test_a_page_of_large_spans_has_fewer_of_them", "test_a_span_that_is_too_large_is_refused"}
)
"""Tests that are left out unless a fault is about spans: they move tens of megabytes."""


class BrokenStore:
    """A memory store with faults.

    Args:
        faults: By `part.method`; of the store itself by `store.method`, and `store.close` for the end of a context.
        calls: Takes the names of what was called.
    """

    def __init__(
        self,
        clock: ManualClock,
        faults: Mapping[str, Fault],
        *,
        limits: Limits | None = None,
        calls: set[str] | None = None,
    ) -> None:
        self._real = MemoryStore(clock=clock, limits=limits)
        self._faults = faults
        self.url = self._real.url
        noted: set[str] = set() if calls is None else calls
        whole = _Part(self._real, "store", faults, noted)
        for name in _WHOLE:
            setattr(self, name, getattr(whole, name))
        for part in PARTS:
            real = getattr(self._real, part)
            real.store = self._real
            setattr(self, part, _Part(real, part, faults, noted))

    async def __aenter__(self) -> Self:
        """Opens the real one."""
        await self._real.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Closes it."""
        close = self._faults.get("store.close")
        await (self._real.__aexit__(*exc) if close is None else close(self._real))


class _Part:
    """One part of a store, with some of its methods replaced."""

    def __init__(self, real: object, name: str, faults: Mapping[str, Fault], calls: set[str]) -> None:
        self._real, self._name, self._faults, self._calls = real, name, faults, calls

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - a method of any kind
        name = f"{self._name}.{method}"
        self._calls.add(name)
        fault = self._faults.get(name)
        return getattr(self._real, method) if fault is None else functools.partial(fault, self._real)


def swallowing(name: str, error: type[Exception], words: str, *, answer: object = None) -> Fault:
    """A fault that keeps an error to itself."""

    async def fault(real: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - of any method
        try:
            return await getattr(real, name)(*arguments, **options)
        except error as found:
            if words not in str(found):
                raise
            return answer

    return fault


async def failures(faults: Mapping[str, Fault], *, calls: Mapping[str, set[str]]) -> list[str]:
    """The contract tests that a store with these faults fails, of those that call what is broken.

    Args:
        faults: As for `BrokenStore`.
        calls: What `calls_by_test` found.
    """
    broken = set(faults)
    spans = any(name.startswith("spans.") for name in broken)
    found = []
    for name, called in calls.items():
        concerned = bool(broken & called) or "store.close" in broken
        if concerned and (spans or name not in _HEAVY) and not await passes(name, faults):
            found.append(name)
    return found


async def passes(name: str, faults: Mapping[str, Fault], *, calls: set[str] | None = None) -> bool:
    """Whether a store with faults passes a contract test, with all of its parameters."""
    test = _TESTS[name]
    for parameters in _parameters(test):
        clock = ManualClock()
        with tempfile.TemporaryDirectory() as folder:
            async with BrokenStore(clock, faults, calls=calls) as store:
                chosen = {"store": store, "clock": clock, "tmp_path": Path(folder)}
                needed = {key: chosen[key] for key in inspect.signature(test).parameters if key in chosen}
                try:
                    case = _Case(faults, calls)
                    await asyncio.wait_for(test(case, **needed, **parameters), _PATIENCE_S)
                except (Exception, pytest.fail.Exception):  # noqa: BLE001 - a contract test may fail in any way
                    return False
    return True


class _Case(StoreContract):
    def __init__(self, faults: Mapping[str, Fault], calls: set[str] | None) -> None:
        self._faults, self._calls = faults, calls

    def make_store(self, folder: Path, *, clock: ManualClock) -> Store:
        del folder
        return BrokenStore(clock, self._faults, calls=self._calls)  # type: ignore[return-value]

    def make_limited_store(self, folder: Path, *, clock: ManualClock, limits: Limits) -> Store:
        del folder
        return BrokenStore(clock, self._faults, limits=limits, calls=self._calls)  # type: ignore[return-value]


_TESTS: Final = {
    name: test
    for name, test in inspect.getmembers(StoreContract, inspect.isfunction)
    if name.startswith("test_")
}


async def calls_by_test() -> dict[str, set[str]]:
    """What each contract test calls, as it turns out with a store that is whole.

    Raises:
        AssertionError: That store fails one.
    """
    found: dict[str, set[str]] = {}
    for name in _TESTS:
        found[name] = set()
        if not await passes(name, {}, calls=found[name]):
            raise AssertionError(f"{name} fails with a store that is not broken")
    return found


def contract_tests() -> frozenset[str]:
    """The names of all contract tests."""
    return frozenset(_TESTS)


def _parameters(test: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - a function with marks
    marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
    choices = [[dict(zip(mark.args[0], values, strict=True)) for values in mark.args[1]] for mark in marks]
    for chosen in itertools.product(*choices):
        yield {name: value for one in chosen for name, value in one.items()}
