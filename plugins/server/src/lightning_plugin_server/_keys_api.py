"""`POST /api/keys`: keys of limited scope."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.errors import Forbidden
from agentlightning.store import Store
from lightning_plugin_server._codec import RequestCodec, encoded
from lightning_plugin_server._endpoint import Call, Endpoint
from lightning_plugin_server._refusal import Refusal

LONGEST_S: Final = 366 * 86_400.0


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wish for a key.

    Attributes:
        scope: What it is for; `admin` is the server's own key alone.
        ttl_s: How long it lives, in seconds.
        subject: Who it is for, for logs.
        rollout_id: For an agent's key: the rollout of its attempt.
        attempt_id: For an agent's key: the attempt.
        token: The attempt's fencing token, which proves that the caller holds it.
    """

    scope: Scope
    ttl_s: float = 3600.0
    subject: str = ""
    rollout_id: str | None = None
    attempt_id: str | None = None
    token: int | None = None


class KeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A key, and when it expires, in seconds since the epoch."""

    key: str
    expires_at: float


_codec = RequestCodec(KeyRequest)


def keys_endpoint(store: Store, keys: KeyRing) -> Endpoint:
    """The endpoint that makes keys."""

    async def handle(call: Call) -> None:
        request = _codec.decode(await call.body(), call.content_type)
        await _check(store, call.credential, request)
        credential = Credential(
            scope=request.scope,
            subject=request.subject[:200],
            rollout_id=request.rollout_id,
            attempt_id=request.attempt_id,
            expires_at=time.time() + request.ttl_s,
        )
        answer = KeyAnswer(key=keys.issue(credential), expires_at=credential.expires_at or 0.0)
        body, answered = encoded(answer, accept=call.header(b"accept"), content_type=call.content_type)
        await call.respond(200, body, content_type=answered)

    return Endpoint(
        method="POST",
        path="/api/keys",
        handle=handle,
        scopes=frozenset({Scope.RUNNER, Scope.TRAINER}),
        summary="Makes a key of limited scope.",
    )


async def _check(store: Store, caller: Credential | None, request: KeyRequest) -> None:
    if not 0 < request.ttl_s <= LONGEST_S:
        raise Refusal(400, f"ttl_s must be a number of seconds up to {LONGEST_S:g}, got {request.ttl_s!r}")
    if request.scope is Scope.ADMIN:
        raise Forbidden("there is no other admin key than the server's own")
    if request.scope is not Scope.AGENT:
        if caller is None or caller.scope is not Scope.ADMIN:
            raise Forbidden(f"only the server's own key may make keys of scope {request.scope.value!r}")
        return
    if request.rollout_id is None or request.attempt_id is None:
        raise Refusal(400, "an agent's key is for one attempt: give rollout_id and attempt_id")
    attempts = await store.rollouts.attempts([request.rollout_id])
    found = [one for one in attempts if one.id == request.attempt_id]
    if not found:
        raise Refusal(404, f"rollout {request.rollout_id!r} has no attempt {request.attempt_id!r}")
    if caller is None or (caller.scope is not Scope.ADMIN and found[0].token != request.token):
        raise Forbidden(f"attempt {request.attempt_id!r} has another token than {request.token!r}")
