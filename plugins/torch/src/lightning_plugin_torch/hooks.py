"""What this package hands to the plugin facade."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.plugins import hookimpl
from agentlightning.specs import EngineSpec


@hookimpl
def agl_register_engines() -> Sequence[EngineSpec]:
    """The engine `torch`."""
    return (
        EngineSpec(
            name="torch",
            target="lightning_plugin_torch:create_backend",
            summary="Sampler and learner in one process, sharing the weights of a Hugging Face causal LM.",
            requires=("torch>=2.10", "transformers>=5"),
            extra="lightning-plugin-torch",
        ),
    )
