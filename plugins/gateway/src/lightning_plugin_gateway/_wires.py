"""The wires by name."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_plugin_gateway.wires._wire import Wire
from lightning_plugin_gateway.wires.chat import Chat
from lightning_plugin_gateway.wires.completions import Completions
from lightning_plugin_gateway.wires.embeddings import Embeddings
from lightning_plugin_gateway.wires.messages import Messages
from lightning_plugin_gateway.wires.responses import Responses

CHAT: Wire = Chat()
_ALL: tuple[Wire, ...] = (CHAT, Completions(), Embeddings(), Responses(), Messages())
WIRES: Mapping[str, Wire] = {wire.name: wire for wire in _ALL}
