"""Keys of attempts: signed, expiring, checked without a look-up."""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

import msgspec

from agentlightning.gateway import AttemptGrant
from agentlightning.types import Mode
from lightning_plugin_gateway._errors import ApiError

PREFIX = "agl-"
_SIGNATURE_BYTES = 32
_LONGEST = 8192


class _Payload(msgspec.Struct, frozen=True, array_like=True):
    rollout_id: str
    attempt_id: str
    token: int
    mode: Mode
    seed: int | None
    models: tuple[str, ...]
    expires_at: float


class KeyRing:
    """Issues and verifies keys. A key is `agl-` and base64url of a msgpack payload and its HMAC-SHA256.

    The secret lives as long as the gateway: keys of another gateway, or of this one before a restart, are refused.
    """

    def __init__(self, *, ttl_s: float, clock: Callable[[], float]) -> None:
        self._secret = secrets.token_bytes(32)
        self._ttl_s = ttl_s
        self._clock = clock
        self._decoder = msgspec.msgpack.Decoder(_Payload)

    def issue(self, grant: AttemptGrant) -> str:
        """A key that entitles to what the grant says until it expires."""
        payload = msgspec.msgpack.encode(
            _Payload(
                grant.rollout_id,
                grant.attempt_id,
                grant.token,
                grant.mode,
                grant.seed,
                grant.models,
                self._clock() + self._ttl_s,
            )
        )
        return PREFIX + urlsafe_b64encode(payload + self._sign(payload)).rstrip(b"=").decode()

    def verify(self, key: str) -> AttemptGrant:
        """The grant of a key. Raises `ApiError` 401 if it was not issued here or has expired."""
        try:
            signed = _decode(key)
        except (binascii.Error, ValueError) as error:
            raise _refused("no key of this gateway") from error
        payload, signature = signed[:-_SIGNATURE_BYTES], signed[-_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise _refused("no key of this gateway")
        claims = self._decoder.decode(payload)
        if claims.expires_at <= self._clock():
            raise _refused("expired; `key_ttl_s` sets how long a key lives")
        return AttemptGrant(
            rollout_id=claims.rollout_id,
            attempt_id=claims.attempt_id,
            token=claims.token,
            mode=claims.mode,
            seed=claims.seed,
            models=claims.models,
        )

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, "sha256")


def _decode(key: str) -> bytes:
    if not key.startswith(PREFIX) or len(key) > _LONGEST:
        raise ValueError("not a key")
    body = key[len(PREFIX) :].encode("ascii")
    return urlsafe_b64decode(body + b"=" * (-len(body) % 4))


def _refused(why: str) -> ApiError:
    message = f"the API key is {why}; use the key that this attempt was given, as Bearer or x-api-key"
    return ApiError(401, message, fault="invalid_key", final=True)
