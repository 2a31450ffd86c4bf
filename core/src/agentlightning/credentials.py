"""Credentials: signed, expiring keys with a scope, checked without a look-up."""

from __future__ import annotations

import binascii
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from agentlightning.errors import Unauthorised
from agentlightning.types import Mode

__all__ = ["Credential", "KeyRing", "Scope"]

PREFIX: Final = "agl-"
_SIGNATURE_BYTES: Final = 32
_LONGEST: Final = 8192


class Scope(StrEnum):
    """What a key is for. `admin` may do everything that any other may."""

    AGENT = "agent"
    REWARD = "reward"
    RUNNER = "runner"
    TRAINER = "trainer"
    VIEWER = "viewer"
    ADMIN = "admin"


class Credential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a key entitles to.

    Attributes:
        subject: Who it was made for, for logs; never a secret.
        rollout_id: With `attempt_id`, the only attempt that an agent's key is for.
        expires_at: Seconds since the epoch; None never expires.
        token: The attempt's fencing token; None leaves it to be looked up, as it does `mode` and `seed`.
        mode: What the attempt's rollout is for.
        seed: Seed from which sampling in the attempt is derived, if any.
        models: Names of the models that may be called; empty is all.
    """

    scope: Scope
    subject: str = ""
    rollout_id: str | None = None
    attempt_id: str | None = None
    expires_at: float | None = None
    token: int | None = None
    mode: Mode | None = None
    seed: int | None = None
    models: tuple[str, ...] = ()


class KeyRing:
    """Issues and verifies keys of one secret.

    The secret itself, as text, is a key of scope `admin`. Any other key is `agl-` and base64url of a msgpack
    `Credential` and its HMAC-SHA256: whoever knows the secret can check it, wherever it was issued.

    Args:
        secret: At least 16 characters.
        clock: Seconds since the epoch.

    Raises:
        ValueError: The secret is too short to be one.
    """

    def __init__(self, secret: str, *, clock: Callable[[], float] = time.time) -> None:
        if len(secret) < 16:
            raise ValueError(
                "a server key needs at least 16 characters; leave AGL_KEY unset to have one made"
            )
        self._secret = secret.encode()
        self._clock = clock
        self._decoder = msgspec.msgpack.Decoder(Credential)

    def issue(self, credential: Credential) -> str:
        """A key that entitles to what the credential says until it expires."""
        payload = msgspec.msgpack.encode(credential)
        return PREFIX + urlsafe_b64encode(payload + self._sign(payload)).rstrip(b"=").decode()

    def verify(self, key: str) -> Credential:
        """The credential of a key.

        Raises:
            Unauthorised: It was not issued with this secret, or it has expired. The message does not repeat it.
        """
        if hmac.compare_digest(key.encode("utf-8", "replace"), self._secret):
            return Credential(scope=Scope.ADMIN, subject="server key")
        try:
            signed = _decode(key)
        except (binascii.Error, ValueError) as error:
            raise Unauthorised(_UNKNOWN) from error
        payload, signature = signed[:-_SIGNATURE_BYTES], signed[-_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise Unauthorised(_UNKNOWN)
        credential = self._decoder.decode(payload)
        if credential.expires_at is not None and credential.expires_at <= self._clock():
            raise Unauthorised("the key has expired; ask for a new one")
        return credential

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, "sha256")


_UNKNOWN: Final = (
    "the key was not issued by this server; send one as `Authorization: Bearer …` or `x-api-key`"
)


def _decode(key: str) -> bytes:
    if not key.startswith(PREFIX) or len(key) > _LONGEST:
        raise ValueError("not a key")
    body = key[len(PREFIX) :].encode("ascii")
    return urlsafe_b64decode(body + b"=" * (-len(body) % 4))
