"""Server-sent events as clients read them: with a name, or with nothing but data."""

from __future__ import annotations

from typing import Final

import msgspec

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires._wire import Body

DONE: Final = b"data: [DONE]\n\n"
"""The end of OpenAI's streams of plain data."""


def data_event(data: Body) -> bytes:
    """An event without a name."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def named_event(data: Body) -> bytes:
    """An event with the name that its data has as `type`."""
    return f"event: {data['type']}\n".encode() + data_event(data)


def openai_error(error: ApiError) -> bytes:
    """OpenAI's error form."""
    return error.body


def openai_error_event(error: ApiError) -> bytes:
    """An event with the error, as OpenAI's SDKs read it in streams of plain data."""
    return b"data: " + error.body + b"\n\n"
