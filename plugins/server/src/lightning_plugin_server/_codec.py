"""Bodies of the store's API: msgpack or JSON, checked before anything is done with them."""

from __future__ import annotations

import difflib
import re
from typing import Final, Generic, NoReturn, TypeVar

import msgspec

from agentlightning.store.wire import JSON, MSGPACK
from lightning_plugin_server._refusal import Refusal

MAX_DEPTH: Final = 64
"""Deepest nesting of a JSON body."""

Request = TypeVar("Request", bound=msgspec.Struct)
_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_BRACKETS: Final = b'[]{}"'
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_OTHERS: Final = bytes(set(range(256)) - set(_BRACKETS))


def _no_extension(code: int, data: memoryview) -> NoReturn:
    raise ValueError(f"msgpack extension type {code} ({len(data)} bytes) is not taken; send plain values")


class RequestCodec(Generic[Request]):
    """Decodes the requests of one endpoint, typed."""

    def __init__(self, kind: type[Request]) -> None:
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind, ext_hook=_no_extension)
        self._fields = [field.name for field in msgspec.structs.fields(kind)]

    def decode(self, raw: bytes, content_type: str) -> Request:
        """The request in a body.

        Raises:
            Refusal: 415 for another media type, 400 with the reason for a body that cannot be used.
        """
        try:
            if content_type == MSGPACK:
                return self._msgpack.decode(raw)
            if content_type == JSON:
                check_json(raw)
                return self._json.decode(raw or b"{}")
        except msgspec.ValidationError as error:
            raise Refusal(400, f"{error}; {self._hint(str(error))}") from error
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Refusal(400, f"the body cannot be read: {error}") from error
        raise Refusal(415, f"content-type {content_type!r}; send {MSGPACK} or {JSON}")

    def _hint(self, message: str) -> str:
        """The nearest argument if one is unknown, else all there are."""
        unknown = _UNKNOWN.search(message)
        near = difflib.get_close_matches(unknown[1], self._fields, n=1, cutoff=0.5) if unknown else []
        return (
            f"did you mean {near[0]!r}?"
            if near
            else f"the arguments are: {', '.join(self._fields) or 'none'}"
        )


def encoded(answer: object, *, accept: str, content_type: str) -> tuple[bytes, bytes]:
    """An answer and its media type: as accepted, else as asked.

    Raises:
        Refusal: It cannot be written so.
    """
    wants_json = JSON in accept or (MSGPACK not in accept and content_type != MSGPACK)
    try:
        return (
            (_json.encode(answer), JSON.encode())
            if wants_json
            else (_msgpack.encode(answer), MSGPACK.encode())
        )
    except (RecursionError, UnicodeEncodeError) as error:
        kind = JSON if wants_json else MSGPACK
        raise Refusal(422, f"the answer cannot be written as {kind}: {error}", kind="ValueError") from error


def check_json(raw: bytes) -> None:
    """Lets JSON of sensible nesting and without NUL pass; costs next to nothing where there are few brackets.

    Raises:
        ValueError: It is nested too deep, or has a NUL, which not every store can keep.
    """
    if b"u0000" in raw and _NUL.search(raw):
        raise ValueError("it has a NUL character; leave it out")
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
