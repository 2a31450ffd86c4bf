"""What spans and log records have in common: whose they are, which attributes are believed, what is checked."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.capture._convert import JSON_ATTRIBUTES, SCOPE
from agentlightning.capture.otlp import names
from agentlightning.capture.otlp._found import Origin, Reading, Unreadable
from agentlightning.capture.otlp._tokens import NAMES as TOKEN_NAMES
from agentlightning.capture.otlp._values import cut, from_text
from agentlightning.errors import InvalidReward
from agentlightning.types import Json, Span, reward_of

LONGEST_NAME: Final = 1024
_HEX: Final = re.compile(r"[0-9a-f]+")
_IDS: Final = (semconv.ROLLOUT_ID, semconv.ATTEMPT_ID)


def whose(attributes: dict[str, Json], origin: Origin, reading: Reading) -> tuple[str, str]:
    """Ids of rollout and attempt, taken out of the attributes; empty where nothing names them.

    The reading's come first, then those of the attributes, the resource, and baggage that was copied to attributes.

    Raises:
        Unreadable: They are too long to be ids.
    """
    found: list[str] = []
    for key in _IDS:
        claims = (attributes.pop(key, None), origin.resource.get(key), attributes.get(f"baggage.{key}"))
        found.append(next((claim for claim in claims if isinstance(claim, str) and claim), ""))
    if reading.attempt_id is not None:
        return reading.rollout_id or "", reading.attempt_id
    if max(map(len, found)) > LONGEST_NAME:
        raise Unreadable(f"the id of a rollout or attempt has more than {LONGEST_NAME} characters")
    return found[0], found[1]


def take_own(attributes: dict[str, Json], reading: Reading, notes: list[str]) -> dict[str, Json]:
    """Takes the attributes that stand for fields out of attributes; only those that are believed are returned."""
    found = {key: attributes.pop(key) for key in names.OWN.intersection(attributes)}
    if reading.trusted:
        return found
    if not found.keys().isdisjoint(TOKEN_NAMES):
        notes.append("token records are not believed from an agent; call the model through the gateway")
    return {}


def settle(attributes: dict[str, Json], own: dict[str, Json], reading: Reading) -> dict[str, Json]:
    """The attributes with JSON text as what it stands for, and with their own names."""
    keys = own.get(names.JSON_KEYS)
    for key in {*JSON_ATTRIBUTES, *(map(str, keys) if isinstance(keys, list) else ())}.intersection(
        attributes
    ):
        text = attributes[key]
        if isinstance(text, str):
            attributes[key] = from_text(text, depth=reading.text_depth)
    if any(key.startswith(names.ESCAPE) for key in attributes):
        return {key.removeprefix(names.ESCAPE): value for key, value in attributes.items()}
    return attributes


def describe(attributes: dict[str, Json], origin: Origin, notes: list[str], *, dropped: int) -> None:
    """Adds to attributes what instrumentation has made them, and what was changed."""
    if origin.scope and origin.scope != SCOPE:
        attributes.setdefault("otel.scope.name", origin.scope)
        if origin.version:
            attributes.setdefault("otel.scope.version", origin.version)
    if dropped > 0:
        notes.append(f"{dropped} attributes or events are missing: the sender left them out, or a limit did")
    if notes:
        earlier = attributes.get(names.NOTES)
        attributes[names.NOTES] = [*(earlier if isinstance(earlier, list) else ()), *notes]


def operation_of(attributes: dict[str, Json], reading: Reading) -> str:
    """The operation, taken out of the attributes."""
    found = str(attributes.pop(semconv.OPERATION, None) or semconv.OPERATION_OTHER)
    if found == semconv.OPERATION_TRUNCATED and not reading.trusted:  # only a store says so
        return semconv.OPERATION_OTHER
    return cut(found, LONGEST_NAME)


def identifier(text: str, digits: int, what: str) -> str:
    """An id of a span or trace. Raises `Unreadable`."""
    if len(text) != digits or not _HEX.fullmatch(text) or not text.strip("0"):
        raise Unreadable(
            f"the id of the {what} is {cut(text, 40)!r}; it has {digits} hexadecimal digits, not all of them 0"
        )
    return text


def parent(text: str) -> str | None:
    """The id of a parent; None for none. Raises `Unreadable`."""
    return identifier(text, 16, "parent") if text.strip("0") else None


def checked(span: Span) -> Span:
    """A span that a store takes.

    Raises:
        Unreadable: It claims to be a reward and is none, or a name has a NUL character.
    """
    texts = [span.rollout_id, span.attempt_id, span.name, span.operation, span.agent or ""]
    try:
        reward = reward_of(span)
    except InvalidReward as error:
        raise Unreadable(str(error)) from error
    except ValueError as error:
        raise Unreadable(f"a reward of unknown source: {error}") from error
    if reward is not None:
        texts += [reward.dimension, reward.target or "", reward.reason or ""]
    if any("\0" in text for text in texts):
        raise Unreadable("a name or id has a NUL character, which databases refuse; leave it out")
    return span


def digest_id(*parts: Json, digits: int) -> str:
    """An id that depends on nothing but the parts."""
    return blake2b(msgspec.msgpack.encode(parts), digest_size=digits // 2).hexdigest()
