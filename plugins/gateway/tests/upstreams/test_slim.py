"""A completion read slim says the same as one read whole, but for what nobody asked for."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_plugin_gateway._record import token_record
from lightning_plugin_gateway.upstreams._slim import slim_completion

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
IDS = st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=6)
ENTRIES = st.fixed_dictionaries(
    {"token": st.text(max_size=4), "logprob": st.floats(-9, 0)},
    optional={"bytes": st.lists(st.integers(0, 255), max_size=4), "top_logprobs": st.just([])},
)
CHOICES = st.fixed_dictionaries(
    {"index": st.integers(0, 3), "message": st.fixed_dictionaries({"content": st.text(max_size=9)})},
    optional={
        "finish_reason": st.sampled_from(["stop", None]),
        "token_ids": IDS,
        "logprobs": st.none()
        | st.fixed_dictionaries(
            {"content": st.none() | st.lists(ENTRIES, max_size=6)}, optional={"refusal": VALUES}
        ),
        "more": VALUES,
    },
)
COMPLETIONS = st.fixed_dictionaries(
    {"id": st.text(max_size=5), "choices": st.lists(CHOICES, max_size=3)},
    optional={"prompt_token_ids": IDS, "usage": VALUES, "system_fingerprint": VALUES},
)


@given(completion=COMPLETIONS)
def test_everything_but_the_entries_is_the_same(completion: dict[str, object]) -> None:
    slim = slim_completion(msgspec.json.encode(completion))
    assert list(slim) == list(completion)
    for mine, whole in zip(slim["choices"], completion["choices"], strict=True):  # type: ignore[arg-type]
        assert list(mine) == list(whole)
        assert {k: v for k, v in mine.items() if k != "logprobs"} == {
            k: v for k, v in whole.items() if k != "logprobs"
        }
        prompt = completion.get("prompt_token_ids")
        assert token_record(prompt, mine, version=1, finish_reason="") == token_record(
            prompt, whole, version=1, finish_reason=""
        )


@pytest.mark.parametrize(
    "raw", [b"null", b"[]", b'{"choices": 1}', b'{"choices": [1]}', b'{"choices": [{"token_ids": "x"}]}']
)
def test_another_shape_is_left_to_others(raw: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        slim_completion(raw)
