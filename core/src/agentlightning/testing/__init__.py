"""Fakes and contract kits for plugin authors. Each name is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.testing._adapter_contract import AdapterContract
    from agentlightning.testing._algorithm_contract import AlgorithmContract
    from agentlightning.testing._capture_stage import CaptureStage
    from agentlightning.testing._episode_builder import EpisodeBuilder
    from agentlightning.testing._fault_proxy import FaultProxy, Faults
    from agentlightning.testing._framework_contract import FrameworkContract
    from agentlightning.testing._instrumentor_contract import InstrumentorContract
    from agentlightning.testing._manual_clock import ManualClock
    from agentlightning.testing._scripted_answer import (
        ScriptedAnswer,
        ScriptedFault,
        ScriptedReply,
        ScriptedToolCall,
    )
    from agentlightning.testing._scripted_llm import ScriptedLLM
    from agentlightning.testing._scripted_wire import ScriptedRequest
    from agentlightning.testing._stage_contract import StageContract
    from agentlightning.testing._store_contract import StoreContract
    from agentlightning.testing._store_machine import StoreMachine
    from agentlightning.testing._training import InMemoryEngine, InMemoryLearner, InMemoryTrainingContext

__all__ = [
    "AdapterContract",
    "AlgorithmContract",
    "CaptureStage",
    "EpisodeBuilder",
    "FaultProxy",
    "Faults",
    "FrameworkContract",
    "InMemoryEngine",
    "InMemoryLearner",
    "InMemoryTrainingContext",
    "InstrumentorContract",
    "ManualClock",
    "ScriptedAnswer",
    "ScriptedFault",
    "ScriptedLLM",
    "ScriptedReply",
    "ScriptedRequest",
    "ScriptedToolCall",
    "StageContract",
    "StoreContract",
    "StoreMachine",
]

_MODULES = {
    "AdapterContract": "_adapter_contract",
    "AlgorithmContract": "_algorithm_contract",
    "CaptureStage": "_capture_stage",
    "StageContract": "_stage_contract",
    "EpisodeBuilder": "_episode_builder",
    "FaultProxy": "_fault_proxy",
    "Faults": "_fault_proxy",
    "FrameworkContract": "_framework_contract",
    "InMemoryEngine": "_training",
    "InMemoryLearner": "_training",
    "InMemoryTrainingContext": "_training",
    "InstrumentorContract": "_instrumentor_contract",
    "ManualClock": "_manual_clock",
    "ScriptedAnswer": "_scripted_answer",
    "ScriptedFault": "_scripted_answer",
    "ScriptedLLM": "_scripted_llm",
    "ScriptedReply": "_scripted_answer",
    "ScriptedRequest": "_scripted_wire",
    "ScriptedToolCall": "_scripted_answer",
    "StoreContract": "_store_contract",
    "StoreMachine": "_store_machine",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
