"""Tools of a real MCP server, which is either the agent's own or started for each rollout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams

from agentlightning import semconv
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from agentlightning.types import PromptTemplate, SpanStatus

SERVER = StdioServerParams(
    command=sys.executable,
    args=[str(Path(__file__).parent / "calculator_server.py")],
    read_timeout_seconds=60,  # a busy machine takes longer to start it than the framework waits
)
DESCRIPTION = {"assistant.tools.multiply": PromptTemplate(template="Multiplies boldly.")}


def use(a: int) -> list[ScriptedAnswer]:
    call = ScriptedToolCall(name="multiply", arguments={"a": a, "b": 3})
    return [ScriptedAnswer(tool_calls=(call,)), ScriptedAnswer(text="done")]


def agent(workbench: McpWorkbench, model_client: OpenAIChatCompletionClient) -> AssistantAgent:
    return AssistantAgent(
        "assistant", model_client=model_client, workbench=workbench, reflect_on_tool_use=True
    )


async def test_a_server_that_runs_is_shared_and_goes_on_running(
    stage: Any, model_client: OpenAIChatCompletionClient
) -> None:
    async with McpWorkbench(SERVER) as workbench:
        worker = agent(workbench, model_client)
        stage.replies = use(2)
        assert await stage.play(worker, stage.rollout(resources=DESCRIPTION)) == "done"
        (tool,) = stage.of(semconv.OPERATION_TOOL)
        assert (tool.attributes[semconv.TOOL_NAME], stage.above(tool).agent) == ("multiply", "assistant")
        assert tool.attributes[semconv.TOOL_CALL_RESULT] == "6"
        described = [request.json.get("tools", [{}])[0] for request in stage.llm.requests]
        assert described[0]["function"]["description"] == "Multiplies boldly."
        (listed,) = await workbench.list_tools()
        assert listed["description"] == "Multiplies two whole numbers."


async def test_a_server_that_a_rollout_starts_is_stopped_after_it(
    stage: Any, model_client: OpenAIChatCompletionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[McpWorkbench] = []
    stop = McpWorkbench.stop

    async def watched(workbench: McpWorkbench) -> None:
        stopped.append(workbench)
        await stop(workbench)

    monkeypatch.setattr(McpWorkbench, "stop", watched)
    workbench = McpWorkbench(SERVER)
    stage.replies = use(0)
    await stage.play(agent(workbench, model_client), stage.rollout(resources=DESCRIPTION))
    assert len(stopped) == 1
    assert workbench._actor is None
    (tool,) = stage.of(semconv.OPERATION_TOOL)
    assert tool.status is SpanStatus.ERROR
    assert "zero is not multiplied" in str(tool.attributes[semconv.TOOL_CALL_RESULT])
