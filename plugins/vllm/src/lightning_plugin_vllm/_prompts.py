"""Chat requests whose prompt is given as ids: vLLM takes those as completions, so they are asked and read as such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agentlightning.engine import ChatChunk, ChatCompletion, ChatRequest
from agentlightning.errors import ConfigError
from agentlightning.types import Json

_SAID_BY_THE_PROMPT: Final = frozenset(
    (
        "add_generation_prompt", "chat_template", "chat_template_kwargs", "continue_final_message", "documents",
        "logprobs", "max_completion_tokens", "max_tokens", "messages", "metadata", "parallel_tool_calls",
        "prompt_token_ids", "reasoning_effort", "store", "tool_choice", "tools", "top_logprobs",
    )
)  # fmt: skip
"""Fields of a chat request that a completion says otherwise, or not at all."""


def prompt_of(request: ChatRequest) -> list[int] | None:
    """The ids that a request is to be answered after; None renders its messages.

    Raises:
        ConfigError: They are no ids.
    """
    prompt = request.get("prompt_token_ids")
    if prompt is None:
        return None
    if not isinstance(prompt, list) or not prompt or not all(type(token) is int for token in prompt):
        raise ConfigError(f"prompt_token_ids must be a list of at least one id, found {prompt!r:.80}")
    return prompt


def offers_tools(request: ChatRequest) -> bool:
    """Whether the answer may call tools."""
    return bool(request.get("tools")) and request.get("tool_choice") != "none"


def as_completion(request: ChatRequest, prompt: Sequence[int]) -> dict[str, Json]:
    """The completion that samples what a chat request would after this prompt; its ids are always told."""
    most = request.get("max_completion_tokens")
    asked = {name: value for name, value in request.items() if name not in _SAID_BY_THE_PROMPT}
    asked["prompt"] = list(prompt)
    # a completion that does not say how long it may be is short; null is as long as a chat completion's
    asked["max_tokens"] = request.get("max_tokens") if most is None else most
    if request.get("logprobs"):
        asked["logprobs"] = request.get("top_logprobs") or 0
    asked["return_token_ids"] = True
    return asked


def as_chat(
    completion: Mapping[str, Json], request: ChatRequest, *, prompt: Sequence[int], stream: bool = False
) -> dict[str, Json]:
    """A completion, or a chunk of one, as the chat request's."""
    wanted = bool(request.get("return_token_ids"))
    found = {name: value for name, value in completion.items() if name != "prompt_token_ids"}
    found["object"] = "chat.completion.chunk" if stream else "chat.completion"
    given = objects(completion.get("choices"))
    found["choices"] = [
        _choice(choice, ids=wanted, kind="delta" if stream else "message") for choice in given
    ]
    if wanted and given and (not stream or any("prompt_token_ids" in choice for choice in given)):
        found["prompt_token_ids"] = list(prompt)
    return found


def chunks_of(completion: ChatCompletion) -> Iterator[ChatChunk]:
    """A whole answer as a stream: what could only be read as a whole."""
    kept = ("id", "created", "model", "system_fingerprint")
    frame: dict[str, Json] = {name: value for name, value in completion.items() if name in kept}
    frame["object"] = "chat.completion.chunk"
    choices: list[Json] = []
    for choice in objects(completion.get("choices")):
        found = choice.get("message")
        message = dict(found) if isinstance(found, dict) else {}
        if calls := objects(message.get("tool_calls")):
            message["tool_calls"] = [{**call, "index": place} for place, call in enumerate(calls)]
        choices.append({**{key: choice[key] for key in choice if key != "message"}, "delta": message})
    first = {"prompt_token_ids": completion["prompt_token_ids"]} if "prompt_token_ids" in completion else {}
    yield {**frame, **first, "choices": choices}
    yield {**frame, "choices": [], "usage": completion.get("usage")}


def objects(value: Json) -> list[dict[str, Json]]:
    """The objects of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def spoken_ids(choice: Mapping[str, Json]) -> list[int]:
    """Ids of an answer without the token that ended it, which is no part of the message."""
    ids = choice.get("token_ids")
    sampled = ids if isinstance(ids, list) else []
    return sampled[:-1] if choice.get("finish_reason") == "stop" else sampled


def with_message(choice: Mapping[str, Json], read: Mapping[str, Json]) -> dict[str, Json]:
    """A choice with its text read as chat: reasoning and tool calls."""
    message = read.get("message")
    called = isinstance(message, dict) and message.get("tool_calls") and choice.get("finish_reason") == "stop"
    return {**choice, "message": message, **({"finish_reason": "tool_calls"} if called else {})}


def without_ids(answer: ChatCompletion) -> ChatCompletion:
    """An answer to somebody who asked for no ids."""
    bare = [
        {name: choice[name] for name in choice if name != "token_ids"}
        for choice in objects(answer.get("choices"))
    ]
    return {name: answer[name] for name in answer if name != "prompt_token_ids"} | {"choices": bare}


def _choice(choice: Mapping[str, Json], *, ids: bool, kind: str) -> dict[str, Json]:
    found = {name: choice[name] for name in ("index", "finish_reason", "stop_reason") if name in choice}
    found[kind] = {"role": "assistant", "content": choice.get("text")}
    found["logprobs"] = _logprobs(choice.get("logprobs"))
    if ids and "token_ids" in choice:
        found["token_ids"] = choice["token_ids"]
    return found


def _logprobs(logprobs: Json) -> Json:
    if not isinstance(logprobs, dict):
        return None
    tokens, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(values)
    return {
        "content": [
            {"token": token, "logprob": value, "bytes": None, "top_logprobs": _tops(top)}
            for token, value, top in zip(tokens, values, tops, strict=True)
        ]
    }


def _tops(top: Json) -> list[Json]:
    found = top if isinstance(top, dict) else {}
    return [{"token": token, "logprob": value, "bytes": None} for token, value in found.items()]
