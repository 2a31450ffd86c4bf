"""Writes completions and chunks of the OpenAI wire."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from agentlightning.engine import ChatChunk, ChatCompletion
from agentlightning.types import Json
from lightning_plugin_torch._answer import Token
from lightning_plugin_torch._exchange import Choice, Exchange
from lightning_plugin_torch._format import Delta


def completion(exchange: Exchange, choices: Sequence[Choice]) -> ChatCompletion:
    """A whole chat completion."""
    body: ChatCompletion = {
        "id": exchange.id,
        "object": "chat.completion",
        "created": exchange.created,
        "model": exchange.model,
        "choices": [_choice(exchange, choice) for choice in choices],
        **closing(exchange, choices),
    }
    if exchange.request.token_ids:
        body["prompt_token_ids"] = list(exchange.prompt)
    return body


def closing(exchange: Exchange, choices: Sequence[Choice]) -> dict[str, Json]:
    """Usage and policy version; `policy_versions` only if weights changed while the answers were sampled."""
    prompt = len(exchange.prompt)
    produced = sum(len(choice.answer.tokens) for choice in choices)
    versions = sorted({version for choice in choices for version, _ in choice.answer.runs})
    closing: dict[str, Json] = {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": produced,
            "total_tokens": prompt + produced,
        },
        "policy_version": versions[0],
    }
    if len(versions) > 1:
        closing["policy_versions"] = list(versions)
    return closing


def chunk(exchange: Exchange, choices: Sequence[Json], **more: Json) -> ChatChunk:
    """A chunk."""
    return {
        "id": exchange.id,
        "object": "chat.completion.chunk",
        "created": exchange.created,
        "model": exchange.model,
        "choices": list(choices),
        **more,
    }


def chunk_choice(
    exchange: Exchange,
    index: int,
    *,
    delta: dict[str, Json],
    tokens: Sequence[Token] = (),
    finish: str | None = None,
) -> dict[str, Json]:
    """One choice of a chunk, with the tokens that were sampled since the last."""
    choice: dict[str, Json] = {"index": index, "delta": delta, "finish_reason": finish}
    wanted = exchange.request.logprobs and tokens
    choice["logprobs"] = _logprobs(tokens, exchange.tokenizer) if wanted else None
    if exchange.request.token_ids:
        choice["token_ids"] = [token.id for token in tokens]
    return choice


def delta_body(delta: Delta, *, call_id: str) -> dict[str, Json]:
    """The wire's form of a part of an answer."""
    if delta.call < 0:
        return {"content": delta.text}
    function: dict[str, Json] = {"arguments": delta.arguments}
    call: dict[str, Json] = {"index": delta.call, "function": function}
    if delta.name:
        function["name"] = delta.name
        call |= {"id": call_id, "type": "function"}
    return {"tool_calls": [call]}


def _choice(exchange: Exchange, choice: Choice) -> Json:
    said, tokens = choice.message, choice.answer.tokens
    message: dict[str, Json] = {"role": "assistant", "content": said.content, "refusal": None}
    if said.calls:
        message["content"] = said.content or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in said.calls
        ]
    body: dict[str, Json] = {
        "index": choice.index,
        "message": message,
        "finish_reason": choice.finish_reason,
        "logprobs": _logprobs(tokens, exchange.tokenizer) if exchange.request.logprobs else None,
    }
    if exchange.request.token_ids:
        body["token_ids"] = [token.id for token in tokens]
    return body | _runs(choice)


def closing_choice(exchange: Exchange, choice: Choice, *, tokens: Sequence[Token]) -> Json:
    """The end of one choice of a stream, with the tokens that were sampled since its last chunk."""
    body = chunk_choice(exchange, choice.index, delta={}, tokens=tokens, finish=choice.finish_reason)
    return body | _runs(choice)


def _runs(choice: Choice) -> dict[str, Json]:
    """How many tokens each policy version sampled, in order; nothing if it was one."""
    runs: list[Json] = [[version, count] for version, count in choice.answer.runs]
    return {"policy_versions": runs} if len(runs) > 1 else {}


def _logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> Json:
    def entry(token: int, logprob: float) -> dict[str, Json]:
        text = tokenizer.decode([token], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content: list[Json] = [
        {**entry(token.id, token.logprob), "top_logprobs": [entry(*other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
