"""What a client asked for: checked once, then trusted; and what is asked of the upstream instead."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from agentlightning.gateway import AttemptGrant, Sampling
from agentlightning.types import Json, Mode
from lightning_plugin_gateway._errors import bad_request

Body = dict[str, Json]

_DEEPEST = 64
_MOST_CHOICES = 128
_MOST_TOP_LOGPROBS = 20
_SEED_BITS = 63
_DROPPED = (
    "api_base", "api_key", "base_url", "chat_template", "chat_template_kwargs", "extra_headers", "prompt_logprobs",
    "user_config",
)  # fmt: skip
"""Fields that would choose an upstream, its key or its template, or make answers of unbounded size."""

_decoder = msgspec.json.Decoder(dict[str, Json])
_canonical = msgspec.json.Encoder(order="sorted")


def parse_chat(raw: bytes) -> Body:
    """The body of a chat completion request.

    Raises:
        ApiError: 400 with the reason.
    """
    try:
        body = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the body is no JSON object that can be read: {error}") from error
    if raw.count(b"[") + raw.count(b"{") > _DEEPEST:
        _check_depth(body)
    if b"\\u0000" in raw and _has_nul(body):
        raise bad_request("the body has a NUL character in a string; remove it")
    _check_fields(body)
    return body


def _check_fields(body: Body) -> None:
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise bad_request(f"`model` must be the name of a model, not {body.get('model')!r:.40}")
    messages = body.get("messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(message, dict) for message in messages)
    ):
        raise bad_request("`messages` must be a list of at least one message object")
    _check_integer(body, "n", most=_MOST_CHOICES, least=1)
    _check_integer(body, "top_logprobs", most=_MOST_TOP_LOGPROBS)
    for name in ("max_tokens", "max_completion_tokens"):
        _check_integer(body, name, most=2**31 - 1, least=1)
    for name in ("stream", "logprobs", "return_token_ids"):
        if not isinstance(body.get(name), bool | None):
            raise bad_request(f"`{name}` must be true or false, not {body[name]!r:.40}")
    if not isinstance(body.get("stream_options"), dict | None):
        raise bad_request("`stream_options` must be an object")


def _check_integer(body: Body, name: str, *, most: int, least: int = 0) -> None:
    value = body.get(name)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise bad_request(f"`{name}` must be a whole number from {least} to {most}, not {value!r:.40}")


def _check_depth(body: Body) -> None:
    level: list[Json] = [body]
    for _ in range(_DEEPEST):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise bad_request(f"the body is nested deeper than {_DEEPEST} levels")


def _has_nul(value: Json) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(child) for key, child in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))


def upstream_request(
    body: Body, *, model: str, sampling: Sampling | None, seed: int | None, token_ids: bool
) -> Body:
    """The request that is sent in place of the client's.

    Args:
        body: The client's request, which stays as it is.
        model: Name that the upstream knows.
        sampling: Overrides.
        seed: Replaces the client's; None leaves it.
        token_ids: Ask for token ids and log-probabilities.
    """
    request = {name: value for name, value in body.items() if name not in _DROPPED}
    request["model"] = model
    if sampling is not None:
        _override(request, sampling)
    if seed is not None:
        request["seed"] = seed
    if token_ids:
        request["logprobs"] = request["return_token_ids"] = True
    if request.get("stream"):
        options = request.get("stream_options")
        request["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return request


def _override(request: Body, sampling: Sampling) -> None:
    if sampling.temperature is not None:
        request["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        request["top_p"] = sampling.top_p
    if sampling.max_tokens is not None:
        name = "max_completion_tokens" if "max_completion_tokens" in request else "max_tokens"
        request[name] = sampling.max_tokens


def needs_seed(body: Body, grant: AttemptGrant) -> bool:
    """Whether the gateway seeds this call: always when training, else unless the client did."""
    return grant.seed is not None and (grant.mode is Mode.TRAIN or body.get("seed") is None)


def body_digest(body: Body) -> bytes:
    """Digest of what was asked, whatever the spelling and transport, and whatever random ids tool calls were given."""
    named: dict[str, str] = {}
    asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options", "seed")}
    asked["messages"] = [_without_call_ids(message, named) for message in _objects(body.get("messages"))]
    return blake2b(_canonical.encode(asked), digest_size=16).digest()


def call_seed(seed: int, digest: bytes, occurrence: int) -> int:
    """Sampling seed of the `occurrence`-th request with that digest in an attempt; 63 bits.

    A function of what was asked, not of when: concurrent calls get the same seeds in whichever order they arrive.
    """
    material = digest + b"%d:%d" % (seed, occurrence)
    return int.from_bytes(blake2b(material, digest_size=8).digest(), "big") >> (64 - _SEED_BITS)


def _without_call_ids(message: Body, named: dict[str, str]) -> Body:
    if "tool_call_id" in message:
        ident = str(message["tool_call_id"])
        return {**message, "tool_call_id": named.setdefault(ident, str(len(named)))}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    renamed = [
        {**call, "id": named.setdefault(str(call.get("id")), str(len(named)))} for call in _objects(calls)
    ]
    return {**message, "tool_calls": renamed}


def _objects(value: Json) -> list[Body]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
