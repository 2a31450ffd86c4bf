"""Writes completions and chunks of the OpenAI wire."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from tokenizers import Tokenizer

from agentlightning.engine import ChatChunk, ChatCompletion
from agentlightning.types import Json
from lightning_plugin_torch._answer import Answer, Token
from lightning_plugin_torch._codec import Codec
from lightning_plugin_torch._format import Delta
from lightning_plugin_torch._messages import Call, Message
from lightning_plugin_torch._request import Request


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer to one request says.

    Attributes:
        id: Id of the completion; the ids of its tool calls derive from it.
        created: Seconds since the epoch.
    """

    id: str
    created: int
    model: str
    request: Request
    prompt: list[int]

    def call_id(self, choice: int, call: int) -> str:
        """Id of a tool call."""
        return f"call_{self.id.removeprefix('chatcmpl-')}_{choice}_{call}"


def read_answer(envelope: Envelope, answer: Answer, codec: Codec) -> tuple[Message, bool]:
    """The message that an answer says, and whether a stop string cut it."""
    reader = codec.reader(envelope.request.stop)
    deltas = [delta for token in answer.tokens for delta in reader.push(token.id)] + reader.finish()
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for delta in deltas:
        if delta.call >= 0:
            names[delta.call] = names.get(delta.call, "") + delta.name
            arguments[delta.call] = arguments.get(delta.call, "") + delta.arguments
    choice = answer.params.choice
    calls = tuple(Call(envelope.call_id(choice, call), names[call], arguments[call]) for call in names)
    text = "".join(delta.text for delta in deltas)
    return Message(role="assistant", content=text, calls=calls), reader.stopped


def completion(
    envelope: Envelope, answers: Sequence[tuple[Answer, Message]], tokenizer: Tokenizer
) -> ChatCompletion:
    """A whole chat completion."""
    body: ChatCompletion = {
        "id": envelope.id,
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [_choice(envelope, answer, message, tokenizer) for answer, message in answers],
        **closing(envelope, [answer for answer, _ in answers]),
    }
    if envelope.request.token_ids:
        body["prompt_token_ids"] = list(envelope.prompt)
    return body


def closing(envelope: Envelope, answers: Sequence[Answer]) -> dict[str, Json]:
    """Usage and policy version; `policy_versions` only if weights changed while the answer was sampled."""
    produced = sum(len(answer.tokens) for answer in answers)
    versions = sorted({version for answer in answers for version in answer.versions})
    closing: dict[str, Json] = {
        "usage": {
            "prompt_tokens": len(envelope.prompt),
            "completion_tokens": produced,
            "total_tokens": len(envelope.prompt) + produced,
        },
        "policy_version": versions[0],
    }
    if len(versions) > 1:
        closing["policy_versions"] = list(versions)
    return closing


def finish_reason(answer: Answer, *, calls: bool) -> str:
    """Why the answer ended, in the words of the wire."""
    return "tool_calls" if calls and answer.finished == "stop" else answer.finished


def chunk(envelope: Envelope, *, choices: list[Json], **more: Json) -> ChatChunk:
    """A chunk."""
    return {
        "id": envelope.id,
        "object": "chat.completion.chunk",
        "created": envelope.created,
        "model": envelope.model,
        "choices": choices,
        **more,
    }


def chunk_choice(
    envelope: Envelope,
    index: int,
    delta: dict[str, Json],
    tokens: Sequence[Token],
    tokenizer: Tokenizer,
    *,
    finish: str | None = None,
) -> Json:
    """One choice of a chunk, with the tokens that were sampled since the last."""
    choice: dict[str, Json] = {"index": index, "delta": delta, "finish_reason": finish}
    choice["logprobs"] = token_logprobs(tokens, tokenizer) if envelope.request.logprobs and tokens else None
    if envelope.request.token_ids:
        choice["token_ids"] = [token.id for token in tokens]
    return choice


def delta_body(envelope: Envelope, index: int, delta: Delta) -> dict[str, Json]:
    """The wire's form of a part of an answer."""
    if delta.call < 0:
        return {"content": delta.text}
    function: dict[str, Json] = {"arguments": delta.arguments}
    call: dict[str, Json] = {"index": delta.call, "function": function}
    if delta.name:
        function["name"] = delta.name
        call |= {"id": envelope.call_id(index, delta.call), "type": "function"}
    return {"tool_calls": [call]}


def token_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> Json:
    """The wire's `logprobs`."""
    return {"content": [_logprob(token, tokenizer) for token in tokens], "refusal": None}


def _choice(envelope: Envelope, answer: Answer, message: Message, tokenizer: Tokenizer) -> Json:
    body: dict[str, Json] = {"role": "assistant", "content": message.content or None, "refusal": None}
    if not message.calls:
        body["content"] = message.content
    else:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    choice: dict[str, Json] = {
        "index": answer.params.choice,
        "message": body,
        "finish_reason": finish_reason(answer, calls=bool(message.calls)),
        "logprobs": token_logprobs(answer.tokens, tokenizer) if envelope.request.logprobs else None,
    }
    if envelope.request.token_ids:
        choice["token_ids"] = [token.id for token in answer.tokens]
    return choice


def _logprob(token: Token, tokenizer: Tokenizer) -> Json:
    top: list[Json] = [_entry(other, logprob, tokenizer) for other, logprob in token.top]
    return {**_entry(token.id, token.logprob, tokenizer), "top_logprobs": top}


def _entry(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Json]:
    text = tokenizer.decode([token], skip_special_tokens=False)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
