"""The tokens of an answer are packed as they came, or the record says why they were not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.types import TokenRecord
from lightning_plugin_gateway._record import token_record

some = settings(max_examples=100, deadline=None, derandomize=True)
IDS = st.lists(st.integers(0, 2**31 - 1) | st.sampled_from([127, 128, 255, 2**24, 2**31 - 1]), min_size=1)
LOGPROBS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def recorded(*, prompt: object = (1,), ids: object = (2,), logprobs: object = (-0.5,)) -> TokenRecord:
    entries: Any = [{"logprob": value} for value in logprobs]  # type: ignore[attr-defined]
    choice: Any = {"token_ids": _listed(ids), "logprobs": {"content": entries}}
    return token_record(_listed(prompt), choice, version=3, finish_reason="stop")


def _listed(values: Any) -> Any:
    return list(values) if isinstance(values, tuple) else values


@some
@given(prompt=IDS, pairs=st.lists(st.tuples(st.integers(0, 2**31 - 1), LOGPROBS), min_size=1))
def test_what_is_packed_is_what_came(prompt: list[int], pairs: list[tuple[int, float]]) -> None:
    ids, logprobs = [one for one, _ in pairs], [one for _, one in pairs]
    record = recorded(prompt=prompt, ids=ids, logprobs=logprobs)
    assert record == TokenRecord.pack(prompt, ids, logprobs, version=3, finish_reason="stop")


@some
@given(before=IDS, wrong=st.integers(-(2**40), -1) | st.integers(2**31, 2**40), after=IDS)
def test_ids_of_other_than_31_bits_are_out_of_range(before: list[int], wrong: int, after: list[int]) -> None:
    values = [*before, wrong, *after]
    assert recorded(prompt=values).incomplete == "prompt token ids out of range"
    assert recorded(ids=values).incomplete == "token ids out of range"


@pytest.mark.parametrize("wrong", [1.5, "1", None, [1], {}])
def test_ids_that_are_no_numbers_are_refused(wrong: object) -> None:
    assert recorded(ids=[1, wrong]).incomplete == "token ids out of range"


@pytest.mark.parametrize(
    ("logprobs", "reason"),
    [
        ((), "the upstream returned no log-probabilities"),
        ((-0.5, None), "the upstream returned no log-probabilities"),
        (("x", None), "the upstream returned no log-probabilities"),
        (("x", -0.5), "log-probabilities are not numbers"),
        (([], -0.5), "log-probabilities are not numbers"),
        ((float("nan"), -0.5), "log-probabilities are not finite"),
        ((float("-inf"), -0.5), "log-probabilities are not finite"),
        ((float("-inf"), float("inf")), "log-probabilities are not finite"),
        ((-1e39, -0.5), "log-probabilities are not finite"),
    ],
)
def test_logprobs_that_cannot_be_kept_are_named(logprobs: object, reason: str) -> None:
    record = recorded(ids=(1, 2), logprobs=logprobs)
    assert (record.incomplete, record.logprobs) == (reason, b"")
