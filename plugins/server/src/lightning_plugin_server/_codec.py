"""Bodies of the store's API: msgpack or JSON, checked before anything is done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from agentlightning.store.wire import JSON, MSGPACK, Route
from lightning_plugin_server._refusal import Refusal

MAX_DEPTH: Final = 200
"""Deepest nesting of a JSON body: what is deeper could not be read again everywhere."""

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_BRACKETS: Final = b'[]{}"'
_OTHERS: Final = bytes(set(range(256)) - set(_BRACKETS))


def _no_extension(code: int, data: memoryview) -> NoReturn:
    raise ValueError(f"msgpack extension type {code} ({len(data)} bytes) is not taken; send plain values")


class RequestCodec:
    """Decodes the requests of one route, typed."""

    def __init__(self, route: Route) -> None:
        self._json = msgspec.json.Decoder(route.request)
        self._msgpack = msgspec.msgpack.Decoder(route.request, ext_hook=_no_extension)
        self._fields = ", ".join(field.name for field in msgspec.structs.fields(route.request)) or "none"

    def decode(self, raw: bytes, content_type: str) -> msgspec.Struct:
        """The request in a body.

        Raises:
            Refusal: 415 for another media type, 400 with the reason for a body that cannot be used.
        """
        try:
            if content_type == MSGPACK:
                return self._msgpack.decode(raw)
            if content_type == JSON:
                check_depth(raw)
                return self._json.decode(raw or b"{}")
        except msgspec.ValidationError as error:
            raise Refusal(400, f"{error}; the arguments are: {self._fields}") from error
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Refusal(400, f"the body cannot be read: {error}") from error
        raise Refusal(415, f"content-type {content_type!r}; send {MSGPACK} or {JSON}")


def encoder_for(accept: str, content_type: str) -> tuple[Callable[[object], bytes], bytes]:
    """How to encode an answer, and its media type: as accepted, else as asked."""
    wants_json = JSON in accept or (MSGPACK not in accept and content_type != MSGPACK)
    return (_json.encode, JSON.encode()) if wants_json else (_msgpack.encode, MSGPACK.encode())


def check_depth(raw: bytes) -> None:
    """Lets JSON of sensible nesting pass; costs next to nothing where there are few brackets.

    Raises:
        ValueError: It is nested too deep.
    """
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    depth, in_text = 0, False
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    for byte in raw.translate(None, _OTHERS):
        if byte == 0x22:
            in_text = not in_text
        elif not in_text:
            depth += 1 if byte in {0x5B, 0x7B} else -1
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep; flatten it")
