"""Bodies of a scripted model: an OpenAI chat completion, or the chunks of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from agentlightning.testing._scripted_answer import ScriptedAnswer
from agentlightning.types import Json

Object = dict[str, Json]


def completion(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Object:
    """The whole completion."""
    body = _frame(answer, request, ident=ident, kind="chat.completion")
    body["choices"] = [_choice(answer, request, index) for index in range(_count(request))]
    if answer.usage:
        body["usage"] = _usage(answer, request)
    if request.get("return_token_ids") and answer.prompt_token_ids != ():
        body["prompt_token_ids"] = answer.prompt_ids(_messages(request))
    return body


def stream_events(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Iterator[bytes]:
    """Server-sent events of a streamed completion, each with its blank line."""
    end = answer.newline * 2
    if answer.preamble:
        yield answer.preamble.encode()
    chunks = list(_chunks(answer, request, ident=ident))
    if answer.error_event:
        chunks[-1] = {"error": {"message": answer.error_event, "type": "server_error", "code": None}}
    for chunk in chunks:
        yield b"data: " + msgspec.json.encode(chunk) + end.encode()
    if answer.done and not answer.error_event:
        yield f"data: [DONE]{end}".encode()


def _chunks(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str) -> Iterator[Object]:
    options = request.get("stream_options")
    include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    deltas = list(_deltas(answer))
    ids, logprobs = answer.ids, answer.ids_logprobs
    for index in range(_count(request)):
        for place, delta in enumerate(deltas):
            last = place == len(deltas) - 1
            chunk = _frame(answer, request, ident=ident, kind="chat.completion.chunk")
            choice: Object = {
                "index": index,
                "delta": delta,
                "finish_reason": answer.finish if last else None,
            }
            low, high = _share(len(ids), place, len(deltas))
            if request.get("return_token_ids"):
                choice["token_ids"] = ids[low:high] if ids else None
                if place == 0 and answer.prompt_token_ids != ():
                    chunk["prompt_token_ids"] = answer.prompt_ids(_messages(request))
            low, high = _share(len(logprobs), place, len(deltas))
            if request.get("logprobs"):
                choice["logprobs"] = _logprobs(ids[low:high], logprobs[low:high])
            chunk["choices"] = [choice]
            if include_usage:
                chunk["usage"] = None
            yield chunk
    if include_usage and answer.usage:
        yield {
            **_frame(answer, request, ident=ident, kind="chat.completion.chunk"),
            "choices": [],
            "usage": _usage(answer, request),
        }


def _deltas(answer: ScriptedAnswer) -> Iterator[Object]:
    yield {"role": "assistant", "content": "" if answer.text or not answer.tool_calls else None}
    for piece in _pieces(answer.reasoning, answer.chunk_chars):
        yield {"reasoning_content": piece}
    for piece in _pieces(answer.text, answer.chunk_chars):
        yield {"content": piece}
    for index, call in enumerate(answer.tool_calls):
        head = {"name": call.name, "arguments": ""}
        yield {
            "tool_calls": [
                {"index": index, "id": call.id or f"call_{index}", "type": "function", "function": head}
            ]
        }
        for piece in _pieces(call.text, answer.chunk_chars):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
    yield {}


def _choice(answer: ScriptedAnswer, request: Mapping[str, Json], index: int) -> Object:
    message: Object = {
        "role": "assistant",
        "content": answer.text if answer.text or not answer.tool_calls else None,
    }
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id or f"call_{place}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.text},
            }
            for place, call in enumerate(answer.tool_calls)
        ]
    choice: Object = {"index": index, "message": message, "finish_reason": answer.finish, "logprobs": None}
    ids = answer.ids
    if request.get("return_token_ids") and ids:
        choice["token_ids"] = ids
    if request.get("logprobs") and answer.ids_logprobs:
        choice["logprobs"] = _logprobs(ids, answer.ids_logprobs)
    return choice


def _frame(answer: ScriptedAnswer, request: Mapping[str, Json], *, ident: str, kind: str) -> Object:
    frame: Object = {"id": ident, "object": kind, "created": 1_700_000_000, "model": request.get("model")}
    if answer.policy_version is not None:
        frame["policy_version"] = answer.policy_version
    return frame


def _logprobs(ids: list[int], logprobs: list[float]) -> Object:
    tokens = [f"token_id:{ident}" for ident in ids] + ["?"] * max(len(logprobs) - len(ids), 0)
    return {
        "content": [
            {"token": token, "logprob": logprob, "bytes": None, "top_logprobs": []}
            for token, logprob in zip(tokens, logprobs, strict=False)
        ],
        "refusal": None,
    }


def _usage(answer: ScriptedAnswer, request: Mapping[str, Json]) -> Object:
    prompt, sampled = len(answer.prompt_ids(_messages(request))), len(answer.ids) * _count(request)
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def _messages(request: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    messages = request.get("messages")
    return (
        [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    )


def _count(request: Mapping[str, Json]) -> int:
    count = request.get("n")
    return count if isinstance(count, int) and count > 0 else 1


def _pieces(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _share(total: int, place: int, count: int) -> tuple[int, int]:
    """Bounds of the tokens that travel with one of `count` chunks; the first, which names the role, has none."""
    if count <= 1:
        return 0, total
    return total * max(place - 1, 0) // (count - 1), total * place // (count - 1)
