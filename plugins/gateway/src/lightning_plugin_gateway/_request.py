"""What a client asked for, checked as every wire does; and what is asked of the upstream instead."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from agentlightning.gateway import AttemptGrant, Sampling
from agentlightning.types import Json, Mode
from lightning_plugin_gateway._errors import bad_request

Body = dict[str, Json]

MOST_CHOICES = 128
MOST_TOP_LOGPROBS = 20
_DEEPEST = 64
_SEED_BITS = 63
_DROPPED = frozenset({
    "api_base", "api_key", "base_url", "chat_template", "chat_template_kwargs", "extra_headers", "prompt_logprobs",
    "prompt_token_ids", "user_config",
})  # fmt: skip
"""Fields that would choose an upstream, its key, its template or its exact prompt, or make answers of any size."""

_MOST_TOKENS = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
"""How each wire calls the most tokens of an answer: the first that a request has is meant, else the last."""

_SAMPLED_IDS = frozenset({"chat", "completions"})
"""Wires whose answers can carry token ids and log-probabilities, and whose requests take a seed."""

_decoder = msgspec.json.Decoder(dict[str, Json])
_canonical = msgspec.json.Encoder(order="sorted")


def parse_object(raw: bytes) -> Body:
    """A body as a JSON object, not too deep and without NUL.

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
    return body


def check_model(body: Body) -> None:
    """Raises `ApiError` 400 unless a model is named."""
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise bad_request(f"`model` must be the name of a model, not {body.get('model')!r:.40}")


def check_flags(body: Body, *names: str) -> None:
    """Raises `ApiError` 400 unless these fields are true, false or missing."""
    for name in names:
        if not isinstance(body.get(name), bool | None):
            raise bad_request(f"`{name}` must be true or false, not {body[name]!r:.40}")


def check_integer(body: Body, name: str, *, most: int, least: int = 0) -> None:
    """Raises `ApiError` 400 unless a field is a whole number within bounds, or missing."""
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


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway changes in requests of a call.

    Attributes:
        model: Name that the upstream knows.
        sampling: Overrides, the later ones winning.
        system: Replaces the system prompt; None leaves it.
        token_ids: Ask for token ids and log-probabilities, where the wire has them.
    """

    model: str
    sampling: tuple[Sampling, ...] = ()
    system: str | None = None
    token_ids: bool = False


def permitted(body: Body) -> Body:
    """A client's request without the fields that are not for clients to set."""
    return {name: value for name, value in body.items() if name not in _DROPPED}


def upstream_request(body: Body, changes: Changes, *, wire: str, seed: int | None = None) -> Body:
    """The request that is sent in place of another of the same wire, which stays as it is.

    Args:
        seed: Replaces the client's; None leaves it. Wires without one ignore it.
    """
    request = {**body, "model": changes.model}
    for sampling in changes.sampling:
        _override(request, sampling, wire=wire)
    if changes.system is not None:
        _instruct(request, changes.system, wire=wire)
    if wire not in _SAMPLED_IDS:
        return request
    if seed is not None:
        request["seed"] = seed
    if changes.token_ids:
        request["return_token_ids"] = True
        request["logprobs"] = (body.get("logprobs") or 1) if wire == "completions" else True
    if request.get("stream"):
        options = request.get("stream_options")
        request["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return request


def _override(request: Body, sampling: Sampling, *, wire: str) -> None:
    names = _MOST_TOKENS.get(wire)
    if names is None:
        return
    if sampling.temperature is not None:
        request["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        request["top_p"] = sampling.top_p
    if sampling.max_tokens is not None:
        request[next((name for name in names if name in request), names[-1])] = sampling.max_tokens


def _instruct(request: Body, system: str, *, wire: str) -> None:
    if wire == "chat":
        said = [one for one in _objects(request.get("messages")) if one.get("role") not in _SYSTEM_ROLES]
        request["messages"] = [{"role": "system", "content": system}, *said]
    elif wire == "responses":
        request["instructions"] = system
    elif wire == "messages":
        request["system"] = system


_SYSTEM_ROLES = ("system", "developer")


def needs_seed(body: Body, grant: AttemptGrant) -> bool:
    """Whether the gateway seeds this call: always when training, else unless the client did."""
    return grant.seed is not None and (grant.mode is Mode.TRAIN or body.get("seed") is None)


def body_digest(body: Body) -> bytes:
    """Digest of what was asked, whatever the spelling and transport, and whatever random ids tool calls were given."""
    named: dict[str, str] = {}
    asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options", "seed")}
    if "messages" in body:
        asked["messages"] = [_without_call_ids(message, named) for message in _objects(body["messages"])]
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
