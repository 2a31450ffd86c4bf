"""Registers the adapters; imports nothing of the framework."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import AdapterSpec


@hookimpl
def agl_register_adapters() -> list[AdapterSpec]:
    """Hands over the adapters of the Anthropic SDK and the Claude Agent SDK."""
    return [
        AdapterSpec(
            name="anthropic",
            target="lightning_adapter_anthropic:AnthropicAdapter",
            summary="Captures the Anthropic SDK and points its clients at the gateway",
            requires=("anthropic>=1,<3",),
            extra="lightning-adapter-anthropic[instruments]",
            module="anthropic",
        ),
        AdapterSpec(
            name="claude-agent",
            target="lightning_adapter_anthropic:ClaudeAgentAdapter",
            summary="Points the Claude Agent SDK's command-line program at the gateway, per rollout",
            requires=("claude-agent-sdk>=0.2,<0.3",),
            extra="lightning-adapter-anthropic[claude-agent]",
            module="claude_agent_sdk",
        ),
    ]
