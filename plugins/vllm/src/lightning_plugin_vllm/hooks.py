"""What this package hands to the plugin facade."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.plugins import hookimpl
from agentlightning.specs import EngineSpec


@hookimpl
def agl_register_engines() -> Sequence[EngineSpec]:
    """The engine `vllm`."""
    return (
        EngineSpec(
            name="vllm",
            target="lightning_plugin_vllm:create_backend",
            summary="vLLM servers, started here or joined by URL; a learner gives them each version of its weights.",
            requires=("aiohttp>=3.11",),
            extra="lightning-plugin-vllm",
        ),
    )
