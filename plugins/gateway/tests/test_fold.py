"""What a streamed answer is put together from, as far as chat completions of OpenAI alone do not show it."""

from __future__ import annotations

from lightning_plugin_gateway._fold import StreamFold
from lightning_plugin_gateway._request import Body


def folded(*deltas: Body, **choice: object) -> Body:
    fold = StreamFold()
    for delta in deltas:
        fold.add({"id": "c", "choices": [{"index": 0, "delta": delta}]})
    fold.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", **choice}]})
    (whole,) = fold.completion()["choices"]
    return whole


def test_custom_tool_calls_keep_their_input() -> None:
    call = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls "}}
    whole = folded({"tool_calls": [call]}, {"tool_calls": [{"index": 0, "custom": {"input": "-l"}}]})
    assert whole["message"]["tool_calls"] == [
        {"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    ]


def test_annotations_and_foreign_reasoning_are_kept_in_order() -> None:
    first, second = {"type": "url_citation", "n": 1}, {"type": "url_citation", "n": 2}
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    message = folded(
        {"content": "a", "annotations": [first]}, {"annotations": [second]}, {"thinking_blocks": [block]}
    )["message"]
    assert message["annotations"] == [first, second]
    assert message["thinking_blocks"] == [block]


def test_the_stop_that_was_matched_is_kept() -> None:
    assert folded({"content": "a"}, stop_reason="END")["stop_reason"] == "END"
    assert "stop_reason" not in folded({"content": "a"})
