"""A streamed chat completion put together from the bytes that went by."""

from __future__ import annotations

from agentlightning.capture.http import decode, events
from agentlightning.types import Json

_Body = dict[str, Json]


def fold(data: bytes) -> tuple[_Body, bool]:
    """Puts a response body together.

    Args:
        data: The body: server-sent events, or plain JSON.

    Returns:
        The completion as far as it came, with the `error` of an error event; and whether it came to its end.
    """
    if data.lstrip()[:1] == b"{":
        body = decode(data)
        return body, bool(body)
    folded = _Folded()
    for event in events(data):
        folded.add(event)
    return folded.completion(), folded.complete


class _Folded:
    def __init__(self) -> None:
        self._head: _Body = {}
        self._choices: dict[int, _Choice] = {}

    @property
    def complete(self) -> bool:
        finished = bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())
        return finished and "error" not in self._head

    def add(self, event: _Body) -> None:
        for name in ("id", "model", "usage", "error"):
            if event.get(name) is not None:
                self._head[name] = event[name]
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._choices.setdefault(_index(choice), _Choice()).add(choice)

    def completion(self) -> _Body:
        return {**self._head, "choices": [choice.plain() for _, choice in sorted(self._choices.items())]}


class _Choice:
    def __init__(self) -> None:
        self.finish_reason = ""
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, list[str]] = {}

    def add(self, choice: _Body) -> None:
        self.finish_reason = str(choice.get("finish_reason") or self.finish_reason)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        for name in ("content", "reasoning_content", "refusal"):
            if isinstance(text := delta.get(name), str):
                self._texts.setdefault(name, []).append(text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._add_call(call)

    def _add_call(self, call: _Body) -> None:
        found = self._calls.setdefault(_index(call), ["", "", ""])
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        found[0] = str(call.get("id") or found[0])
        found[1] += str(function.get("name") or "")
        found[2] += str(function.get("arguments") or "")

    def plain(self) -> _Body:
        message: _Body = {"role": "assistant"}
        message |= {name: "".join(texts) for name, texts in self._texts.items()}
        if self._calls:
            message["tool_calls"] = [
                {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}
                for _, (ident, name, arguments) in sorted(self._calls.items())
            ]
        return {"message": message, "finish_reason": self.finish_reason or None}


def _index(found: _Body) -> int:
    index = found.get("index")
    return index if isinstance(index, int) else 0
