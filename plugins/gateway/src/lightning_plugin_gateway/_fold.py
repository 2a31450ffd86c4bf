"""Puts the chunks of a streamed answer together into the completion that they are parts of."""

from __future__ import annotations

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway._request import Body

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_LISTS = ("annotations", "thinking_blocks")
_CALLED = {"function": ("name", "arguments"), "custom": ("name", "input")}


class StreamFold:
    """Collects chunks. What it makes of them has the shape of a completion that was not streamed."""

    def __init__(self) -> None:
        self._top: Body = {}
        self._choices: dict[int, _Choice] = {}

    @property
    def finished(self) -> bool:
        """Every choice that was begun has its finish reason, and there is one."""
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    def add(self, chunk: Body) -> None:
        """Takes the next chunk, which stays as it is."""
        for name in ("id", "model", "created", "usage", "policy_version", "prompt_token_ids"):
            if chunk.get(name) is not None:
                self._top[name] = chunk[name]
        choices = chunk.get("choices")
        for part in choices if isinstance(choices, list) else ():
            if isinstance(part, dict):
                index = part.get("index")
                place = index if isinstance(index, int) else 0
                self._choices.setdefault(place, _Choice()).add(part)

    def completion(self) -> Body:
        """What has come so far."""
        choices = [{"index": index, **self._choices[index].whole()} for index in sorted(self._choices)]
        return {**self._top, "object": "chat.completion", "choices": choices}


class _Choice:
    def __init__(self) -> None:
        self.finish_reason = ""
        self._stop_reason: Json = None
        self._lists: dict[str, list[Json]] = {}
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, Body] = {}
        self._called: Body = {}
        self._prompt: Json = None
        self._token_ids: list[Json] = []
        self._logprobs: list[Json] = []
        self._versions: Json = None

    def add(self, part: Body) -> None:
        if isinstance(part.get("finish_reason"), str):
            self.finish_reason = str(part["finish_reason"])
        if part.get("stop_reason") is not None:
            self._stop_reason = part["stop_reason"]
        if (versions := part.get("policy_versions")) is not None:
            self._versions = versions
        if (prompt := part.get("prompt_token_ids")) is not None:
            self._prompt = prompt
        if isinstance(ids := part.get("token_ids"), list):
            self._token_ids += ids
        logprobs = part.get("logprobs")
        if isinstance(logprobs, dict) and isinstance(content := logprobs.get("content"), list):
            self._logprobs += content
        if isinstance(delta := part.get("delta"), dict):
            self._add_delta(delta)

    def _add_delta(self, delta: Body) -> None:
        for name in _TEXTS:
            if isinstance(text := delta.get(name), str):
                self._texts.setdefault(name, []).append(text)
        for name in _LISTS:
            if isinstance(found := delta.get(name), list):
                self._lists.setdefault(name, []).extend(found)
        if delta.get("function_call"):  # what came before `tool_calls`
            self._add_call(self._called, {"function": delta["function_call"]})
        calls = delta.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                index = call.get("index", place)
                self._add_call(self._calls.setdefault(index if isinstance(index, int) else place, {}), call)

    @staticmethod
    def _add_call(whole: Body, part: Body) -> None:
        for name in ("id", "type"):
            if part.get(name):
                whole[name] = part[name]
        kind = "custom" if "custom" in part or "custom" in whole else "function"
        names = _CALLED[kind]
        called = whole.setdefault(kind, dict.fromkeys(names, ""))
        piece = part.get(kind)
        if isinstance(piece, dict) and isinstance(called, dict):
            for name in names:
                called[name] += _text(piece.get(name))

    def whole(self) -> Body:
        message: Body = {"role": "assistant", "content": None}
        message.update({name: "".join(parts) for name, parts in self._texts.items()})
        message.update(self._lists)
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
            message["content"] = message["content"] or None
        if self._called:
            message["function_call"] = self._called["function"]
        choice: Body = {"message": message, "finish_reason": self.finish_reason or None}
        if self._stop_reason is not None:
            choice["stop_reason"] = self._stop_reason
        if self._prompt is not None:
            choice["prompt_token_ids"] = self._prompt
        if self._token_ids:
            choice["token_ids"] = self._token_ids
        if self._versions is not None:
            choice["policy_versions"] = self._versions
        choice["logprobs"] = {"content": self._logprobs} if self._logprobs else None
        return choice


def _text(value: Json) -> str:
    """A piece of a tool call; some servers send arguments as what they should be the JSON of."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else ""
