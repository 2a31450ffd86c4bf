"""Answers that several policies sampled: each token's version is recorded, and the client sees none of it."""

from __future__ import annotations

import msgspec
import pytest

from agentlightning.types import unpack_ints
from lightning_plugin_gateway._fold import StreamFold
from lightning_plugin_gateway._native import NativeView
from lightning_plugin_gateway._record import token_record
from lightning_plugin_gateway._view import ClientView

LOGPROBS = {"content": [{"logprob": -0.5}] * 3}


def choice(runs: object) -> dict[str, object]:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": "abc"},
        "finish_reason": "stop",
        "token_ids": [5, 6, 7],
        "logprobs": LOGPROBS,
        "policy_versions": runs,
    }


def test_each_token_has_the_version_that_sampled_it() -> None:
    record = token_record([1, 2], choice([[3, 2], [4, 1]]), version=3, finish_reason="stop")
    assert (record.version, record.incomplete) == (3, "")
    assert list(unpack_ints(record.versions)) == [3, 3, 4]
    plain = token_record([1, 2], choice(None), version=3, finish_reason="stop")
    assert (plain.versions, plain.incomplete) == (b"", "")


@pytest.mark.parametrize(
    "runs", [[[3, 2]], [[3, 4]], [[3]], "x", [["a", 3]], [[3, -1], [4, 4]], [[2**40, 3]], [[3, 2**60]], {}]
)
def test_versions_that_do_not_fit_mark_the_record_incomplete(runs: object) -> None:
    record = token_record([1, 2], choice(runs), version=3, finish_reason="stop")
    assert record.incomplete == "policy versions do not fit the token ids"
    assert record.versions == b""


def test_a_stream_tells_them_with_its_last_chunk() -> None:
    fold = StreamFold()
    fold.add({"choices": [{"index": 0, "delta": {"content": "ab"}, "token_ids": [5, 6]}]})
    fold.add({"choices": [{**choice([[3, 2], [4, 1]]), "delta": {"content": "c"}, "token_ids": [7]}]})
    (whole,) = fold.completion()["choices"]  # type: ignore[misc]
    assert whole["policy_versions"] == [[3, 2], [4, 1]]


@pytest.mark.parametrize("ids", [False, True])
def test_clients_see_none_of_it(ids: bool) -> None:
    said = {"id": "x", "choices": [choice([[3, 2], [4, 1]])], "policy_version": 3}
    seen = ClientView({"logprobs": True, "return_token_ids": ids}).completion(said)
    assert b"policy_version" not in msgspec.json.encode(seen)
    if not ids:
        assert b"policy_version" not in msgspec.json.encode(NativeView({}).answer(said))
