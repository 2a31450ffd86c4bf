"""What the gateway remembers is bounded."""

from __future__ import annotations

import pytest

from lightning_plugin_gateway import _attempts
from lightning_plugin_gateway._attempts import AttemptCalls, Attempts
from lightning_plugin_gateway._history import History


def call(attempts: Attempts, name: str, *, size_bytes: int, digest: bytes = b"d") -> AttemptCalls:
    calls = attempts.enter(name)
    calls.begin(digest, stream=False).keep(b"x" * size_bytes)
    attempts.leave(calls, name)
    return calls


async def test_attempts_that_were_silent_longest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attempts, "_MOST_ATTEMPTS", 3)
    attempts = Attempts(ttl_s=1000, clock=lambda: 0.0)
    kept = {name: call(attempts, name, size_bytes=1) for name in "abc"}
    call(attempts, "a", size_bytes=1)
    call(attempts, "d", size_bytes=1)
    assert attempts.enter("a") is kept["a"]
    assert attempts.enter("c") is kept["c"]
    assert attempts.enter("b") is not kept["b"]


async def test_answers_of_all_attempts_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attempts, "_MOST_BYTES", 100)
    attempts = Attempts(ttl_s=1000, clock=lambda: 0.0)
    first, second, third = (call(attempts, name, size_bytes=40) for name in "abc")
    assert [calls.kept_bytes for calls in (first, second, third)] == [0, 40, 40]
    await attempts.release("b")
    fourth = call(attempts, "d", size_bytes=50)
    assert [calls.kept_bytes for calls in (third, fourth)] == [40, 50]


async def test_answers_of_one_attempt_are_bounded_by_count_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attempts, "_KEPT_ANSWERS", 4)
    monkeypatch.setattr(_attempts, "_KEPT_BYTES", 100)
    attempts = Attempts(ttl_s=1000, clock=lambda: 0.0)
    for number in range(20):
        calls = call(attempts, "a", size_bytes=number, digest=bytes([number]))
    assert calls.kept_bytes == 16 + 17 + 18 + 19
    assert not calls.knows(bytes([1]))
    for number in range(20, 24):
        calls = call(attempts, "a", size_bytes=60, digest=bytes([number]))
    assert calls.kept_bytes <= 100 + 60


def test_conversations_are_bounded_by_count_and_size() -> None:
    history = History()
    for number in range(200):
        history.keep(f"r{number}", [{"role": "user", "content": str(number)}])
    assert history.find("r0") is None
    assert history.find("r199") == [{"role": "user", "content": "199"}]
    for number in range(20):
        history.keep(f"big{number}", [{"role": "user", "content": "x" * 2**20}])
    assert history.size_bytes <= 5 * 2**20
    history.keep("huge", [{"role": "user", "content": "x" * 2**23}])
    assert history.find("huge") is not None
