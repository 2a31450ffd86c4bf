"""Whose call it is: by its URL, its key, or, beside a key that may say so, its baggage."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from urllib.parse import unquote

import msgspec

from agentlightning import semconv
from agentlightning.credentials import PREFIX, Credential, KeyRing, Scope
from agentlightning.errors import NotFound, StoreUnavailable, Unauthorised
from agentlightning.gateway import AttemptGrant
from agentlightning.store import Store
from agentlightning.store.lifecycle import attempt_ended
from agentlightning.types import Mode
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._route import Route

_NAMING = frozenset({Scope.RUNNER, Scope.TRAINER, Scope.ADMIN})
"""Scopes whose keys may name the attempt that a call belongs to."""
_KEPT_GRANTS = 4096
_GRANT_S = 30.0


class Caller:
    """Who calls.

    Attributes:
        grant: What the call may do, and the attempt that it is recorded for.
        observed: It belongs to no attempt: its rollout is made for it alone.
    """

    __slots__ = ("grant", "observed")

    def __init__(self, grant: AttemptGrant, *, observed: bool = False) -> None:
        self.grant = grant
        self.observed = observed


class Attribution:
    """Verifies keys and finds the attempt that a call belongs to; the first that applies: URL, key, baggage."""

    def __init__(
        self,
        *,
        keys: KeyRing,
        store: Store,
        observe: bool,
        everybody: bool,
        ttl_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._store = store
        self._observe = observe
        self._everybody = everybody
        self._ttl_s = ttl_s
        self._clock = clock
        self._verified: OrderedDict[bytes, Credential] = OrderedDict()
        self._grants: OrderedDict[tuple[str, str], tuple[float, AttemptGrant]] = OrderedDict()

    def issue(self, grant: AttemptGrant) -> str:
        """A signed, expiring key that entitles to what the grant says."""
        return self._keys.issue(
            Credential(
                scope=Scope.AGENT,
                rollout_id=grant.rollout_id,
                attempt_id=grant.attempt_id,
                expires_at=self._clock() + self._ttl_s,
                token=grant.token,
                mode=grant.mode,
                seed=grant.seed,
                models=grant.models,
            )
        )

    async def caller(self, route: Route, exchange: Exchange) -> Caller:
        """Who calls.

        Raises:
            ApiError: 401 for no good key or an attempt that is over, 403 for a key that may not do this.
        """
        in_path = route.credential is not None and route.credential.startswith(PREFIX)
        credential = self._verify(route.credential or "" if in_path else _header_key(exchange))
        if credential.scope is Scope.AGENT:
            return Caller(await self._of_agent(credential, route, in_path=in_path))
        if in_path:
            raise _refused(403, "only an attempt's own key goes into a URL")
        if credential.scope not in _NAMING:
            raise _refused(403, f"a key of scope {credential.scope.value!r} may not call models")
        named = _in_path(route) or _in_baggage(exchange)
        if named:
            return Caller(await self._granted(*named))
        return Caller(self._live(credential, route), observed=True)

    def _verify(self, key: str) -> Credential:
        if self._everybody and not key.startswith(PREFIX):
            return Credential(scope=Scope.ADMIN, subject="everybody")
        digest = blake2b(key.encode("utf-8", "replace"), digest_size=16).digest()
        known = self._verified.get(digest)
        if known and (known.expires_at is None or known.expires_at > self._clock()):
            return known
        try:
            verified = self._verified[digest] = self._keys.verify(key)
        except Unauthorised as error:
            message = (
                f"{error}; an attempt is given its own key"
                if key
                else "this needs the attempt's API key, as Bearer or x-api-key"
            )
            raise _refused(401, message) from error
        if len(self._verified) > _KEPT_GRANTS:
            self._verified.popitem(last=False)
        return verified

    async def _of_agent(self, credential: Credential, route: Route, *, in_path: bool) -> AttemptGrant:
        rollout, attempt = credential.rollout_id, credential.attempt_id
        if rollout is None or attempt is None:
            raise _refused(403, "this key names no attempt; ask the server for a key of one")
        if route.rollout is not None and (
            route.rollout != rollout or not (in_path or route.credential == attempt)
        ):
            raise _refused(
                403, "the URL names another attempt than its key belongs to; use /r/{rollout}/{key}/v1"
            )
        if credential.token is None or credential.mode is None:
            return await self._granted(rollout, attempt, models=credential.models)
        return AttemptGrant(
            rollout_id=rollout,
            attempt_id=attempt,
            token=credential.token,
            mode=credential.mode,
            seed=credential.seed,
            models=credential.models,
        )

    async def _granted(
        self, rollout_id: str, attempt_id: str, *, models: tuple[str, ...] = ()
    ) -> AttemptGrant:
        """The grant of an attempt that was only named, as the store knows it; remembered for a while."""
        known = self._grants.get((rollout_id, attempt_id))
        if known and known[0] > self._clock():
            return _limited(known[1], models)
        try:
            rollout = await self._store.rollouts.get(rollout_id)
            attempts = await self._store.rollouts.attempts([rollout_id])
        except NotFound:
            raise _refused(403, "there is no such attempt") from None
        except StoreUnavailable as error:
            message = f"the attempt could not be looked up: {error}"
            raise ApiError(503, message, fault="not_recorded", retry_after="1") from error
        found = next((one for one in attempts if one.id == attempt_id), None)
        if found is None:
            raise _refused(403, "there is no such attempt")
        if attempt_ended(found.status):
            raise ApiError(401, "the attempt has ended", fault="attempt_released", final=True)
        grant = AttemptGrant(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            token=found.token,
            mode=rollout.mode,
            seed=rollout.seed,
        )
        self._grants[rollout_id, attempt_id] = (self._clock() + _GRANT_S, grant)
        if len(self._grants) > _KEPT_GRANTS:
            self._grants.popitem(last=False)
        return _limited(grant, models)

    def _live(self, credential: Credential, route: Route) -> AttemptGrant:
        if route.endpoint in {"call", "count"} and not (self._observe and credential.scope is Scope.ADMIN):
            message = (
                "this call belongs to no attempt: use an attempt's key or URL, or name the attempt in `baggage`"
                f" ({semconv.ROLLOUT_ID}, {semconv.ATTEMPT_ID}); calls by the server's key are recorded as live"
                " traffic if the gateway is started with --observe"
            )
            raise ApiError(403, message, fault="no_attempt", final=True)
        ident = f"live-{secrets.token_hex(12)}"
        return AttemptGrant(rollout_id=ident, attempt_id=f"{ident}-1", token=1, mode=Mode.TRAIN)


def _limited(grant: AttemptGrant, models: tuple[str, ...]) -> AttemptGrant:
    return msgspec.structs.replace(grant, models=models) if models else grant


def _in_path(route: Route) -> tuple[str, str] | None:
    return None if route.rollout is None or route.credential is None else (route.rollout, route.credential)


def _in_baggage(exchange: Exchange) -> tuple[str, str] | None:
    found: dict[str, str] = {}
    for member in exchange.header(b"baggage").split(",")[:64]:
        name, _, value = member.partition(";")[0].partition("=")
        found.setdefault(name.strip(), unquote(value.strip()))
    rollout, attempt = found.get(semconv.ROLLOUT_ID), found.get(semconv.ATTEMPT_ID)
    return (rollout, attempt) if rollout and attempt else None


def _header_key(exchange: Exchange) -> str:
    scheme, _, key = exchange.header(b"authorization").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return exchange.header(b"x-api-key").strip()


def _refused(status: int, message: str) -> ApiError:
    return ApiError(status, message, fault="invalid_key", final=True)
