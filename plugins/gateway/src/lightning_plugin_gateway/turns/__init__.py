"""Token-exact turns: the prompt of a next turn is built from the ids that were sampled."""

from __future__ import annotations

from lightning_plugin_gateway.turns._builder import PreparedTurn, TurnBuilder
from lightning_plugin_gateway.turns._conversation import Conversation
from lightning_plugin_gateway.turns._label import TurnLabel
from lightning_plugin_gateway.turns._memory import Turn, TurnMemory
from lightning_plugin_gateway.turns._renderer import Renderer
from lightning_plugin_gateway.turns._splice import Splice, Splicer

__all__ = [
    "Conversation",
    "PreparedTurn",
    "Renderer",
    "Splice",
    "Splicer",
    "Turn",
    "TurnBuilder",
    "TurnLabel",
    "TurnMemory",
]
