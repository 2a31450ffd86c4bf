"""Teams: whose call is whose, tools and handoffs below their agents, and a fresh team for each rollout."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent, SocietyOfMindAgent
from autogen_agentchat.base import Response
from autogen_agentchat.conditions import (
    HandoffTermination,
    MaxMessageTermination,
    TextMentionTermination,
)
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import (
    DiGraphBuilder,
    GraphFlow,
    MagenticOneGroupChat,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
)
from autogen_agentchat.tools import AgentTool
from autogen_core import (
    AgentId,
    CancellationToken,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    message_handler,
)
from autogen_core.memory import ListMemory, MemoryContent
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.errors import TargetError
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from agentlightning.types import Span, SpanStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

Client = OpenAIChatCompletionClient


def agents_of(stage: Any) -> list[str | None]:
    """Which agent made each model call, in order."""
    spans = {span.span_id: span for span in stage.spans}

    def agent(span: Span) -> str | None:
        while span.agent is None and span.parent_id in spans:
            span = spans[span.parent_id]
        return span.agent

    return [agent(span) for span in stage.of(semconv.OPERATION_CHAT)]


def calling(name: str, **arguments: Any) -> ScriptedAnswer:
    return ScriptedAnswer(tool_calls=(ScriptedToolCall(name=name, arguments=arguments),))


def search_web_tool(query: str) -> str:
    """Find information on the web."""
    return f"found: {query}"


def percentage_change_tool(start: float, end: float) -> float:
    """Calculate the percentage change between two values."""
    return (end - start) / start * 100


def planned(model_client: Client) -> SelectorGroupChat:
    planner = AssistantAgent(
        "PlanningAgent", description="An agent for planning tasks.", model_client=model_client
    )
    searcher = AssistantAgent(
        "WebSearchAgent",
        description="An agent for searching information on the web.",
        tools=[search_web_tool],
        model_client=model_client,
    )
    analyst = AssistantAgent(
        "DataAnalystAgent",
        description="An agent for performing calculations.",
        model_client=model_client,
        tools=[percentage_change_tool],
    )
    return SelectorGroupChat(
        [planner, searcher, analyst],
        model_client=model_client,
        termination_condition=TextMentionTermination("TERMINATE") | MaxMessageTermination(25),
        allow_repeated_speaker=True,
    )


async def test_a_selectors_calls_are_its_managers(stage: Any, model_client: Client) -> None:
    stage.replies = [
        ScriptedAnswer(text="WebSearchAgent"),
        calling("search_web_tool", query="heat"),
        ScriptedAnswer(text="PlanningAgent"),
        ScriptedAnswer(text="All done. TERMINATE"),
    ]
    assert await stage.play(planned(model_client), stage.rollout()) == "All done. TERMINATE"
    manager = "SelectorGroupChatManager"
    assert agents_of(stage) == [manager, "WebSearchAgent", manager, "PlanningAgent"]
    (tool,) = stage.of(semconv.OPERATION_TOOL)
    assert stage.above(tool).agent == "WebSearchAgent"
    assert tool.attributes[semconv.TOOL_CALL_RESULT] == "found: heat"


async def test_a_handoff_is_a_tool_of_the_agent_that_hands_off(stage: Any, model_client: Client) -> None:
    agent = AssistantAgent("travel_agent", model_client=model_client, handoffs=["flights_refunder", "user"])
    refunder = AssistantAgent(
        "flights_refunder", model_client=model_client, handoffs=["travel_agent", "user"]
    )
    termination = HandoffTermination(target="user") | TextMentionTermination("TERMINATE")
    team = Swarm([agent, refunder], termination_condition=termination)
    stage.replies = [calling("transfer_to_flights_refunder"), ScriptedAnswer(text="Refunded. TERMINATE")]
    assert await stage.play(team, stage.rollout()) == "Refunded. TERMINATE"
    assert agents_of(stage) == ["travel_agent", "flights_refunder"]
    (handoff,) = stage.of(semconv.OPERATION_TOOL)
    assert handoff.attributes[semconv.TOOL_NAME] == "transfer_to_flights_refunder"
    assert stage.above(handoff).agent == "travel_agent"


async def test_a_graphs_answer_is_its_last_agents(stage: Any, model_client: Client) -> None:
    names = ("writer", "editor1", "editor2", "final_reviewer")
    writer, first, second, last = (AssistantAgent(name, model_client=model_client) for name in names)
    builder = DiGraphBuilder()
    for node in (writer, first, second, last):
        builder.add_node(node)
    builder.add_edge(writer, first).add_edge(writer, second)
    builder.add_edge(first, last).add_edge(second, last)
    flow = GraphFlow(participants=builder.get_participants(), graph=builder.build())
    stage.replies = [ScriptedAnswer(text=text) for text in ("draft", "edit", "edit", "final")]
    assert await stage.play(flow, stage.rollout()) == "final"
    assert agents_of(stage)[0] == "writer"
    assert sorted(agents_of(stage)[1:3]) == ["editor1", "editor2"]
    assert agents_of(stage)[3] == "final_reviewer"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the SDK's structured answers
async def test_an_orchestrators_calls_are_its_own(stage: Any, model_client: Client) -> None:
    ledger = {
        name: {"reason": "because", "answer": answer}
        for name, answer in (
            ("is_request_satisfied", True),
            ("is_progress_being_made", True),
            ("is_in_loop", False),
            ("instruction_or_question", "go on"),
            ("next_speaker", "assistant"),
        )
    }
    team = MagenticOneGroupChat(
        [AssistantAgent("assistant", model_client=model_client)], model_client=model_client
    )
    stage.replies = [ScriptedAnswer(text=text) for text in ("facts", "plan", json.dumps(ledger), "the end")]
    assert await stage.play(team, stage.rollout()) == "the end"
    assert agents_of(stage) == ["MagenticOneOrchestrator"] * 4


async def test_agents_inside_of_agents_have_calls_of_their_own(stage: Any, model_client: Client) -> None:
    pair = [AssistantAgent(name, model_client=model_client) for name in ("writer", "editor")]
    inner = RoundRobinGroupChat(pair, max_turns=2)
    society = SocietyOfMindAgent("society_of_mind", team=inner, model_client=model_client)
    helper = AssistantAgent("helper", model_client=model_client)
    outer = AssistantAgent("boss", model_client=model_client, tools=[AgentTool(helper)])
    team = RoundRobinGroupChat([outer, society], max_turns=2)
    stage.replies = [
        calling("helper", task="help"),
        *(ScriptedAnswer(text=text) for text in ("helped", "draft", "edited", "together")),
    ]
    assert await stage.play(team, stage.rollout()) == "together"
    assert agents_of(stage) == ["boss", "helper", "writer", "editor", "society_of_mind"]
    (tool,) = stage.of(semconv.OPERATION_TOOL)
    assert (tool.attributes[semconv.TOOL_NAME], stage.above(tool).agent) == ("helper", "boss")
    assert "helped" in str(tool.attributes[semconv.TOOL_CALL_RESULT])


async def test_parallel_tools_are_below_one_agent(stage: Any, model_client: Client) -> None:
    agent = AssistantAgent(
        "worker", model_client=model_client, tools=[search_web_tool], max_tool_iterations=3
    )
    calls = tuple(
        ScriptedToolCall(name="search_web_tool", arguments={"query": query}) for query in ("a", "b")
    )
    broken = (ScriptedToolCall(name="search_web_tool", arguments="{"), ScriptedToolCall(name="nothing"))
    stage.replies = [ScriptedAnswer(tool_calls=calls), ScriptedAnswer(tool_calls=broken)]
    assert await stage.play(agent, stage.rollout()) == "ok"
    good, bad = stage.of(semconv.OPERATION_TOOL)[:2], stage.of(semconv.OPERATION_TOOL)[2:]
    assert [tool.attributes[semconv.TOOL_CALL_ID] for tool in good] == ["call_0", "call_1"]
    assert {stage.above(tool).agent for tool in good} == {"worker"}
    assert sorted(str(tool.attributes[semconv.TOOL_CALL_RESULT]) for tool in good) == ["found: a", "found: b"]
    assert [tool.status for tool in bad] == [SpanStatus.ERROR] * 2
    assert "not found in any workbench" in str(bad[1].error)


async def test_an_agent_that_is_asked_directly_has_a_span(stage: Any, model_client: Client) -> None:
    agent = AssistantAgent("assistant", model_client=model_client)
    with in_rollout(stage.rollout()):
        message = TextMessage(content="hi", source="user")
        response = await agent.on_messages([message], CancellationToken())
    assert isinstance(response, Response)
    assert agents_of(stage) == ["assistant"]
    assert len(stage.of(semconv.OPERATION_AGENT)) == 1


async def test_what_an_agent_remembers_is_retrieved(stage: Any, model_client: Client) -> None:
    memory = ListMemory()
    model_client.model_info["multiple_system_messages"] = True
    await memory.add(MemoryContent(content="The weather should be in metric units", mime_type="text/plain"))
    agent = AssistantAgent("assistant", model_client=model_client, memory=[memory])
    await stage.play(agent, stage.rollout())
    (found,) = stage.of("retrieval")
    assert stage.above(found).agent == "assistant"
    assert "metric units" in str(found.attributes["gen_ai.retrieval.documents"])


async def test_a_team_starts_afresh_in_every_rollout(stage: Any, model_client: Client) -> None:
    memory = ListMemory()
    agent = AssistantAgent("assistant", model_client=model_client, memory=[memory])
    team = RoundRobinGroupChat([agent], termination_condition=MaxMessageTermination(2))
    for _ in range(2):
        await stage.play(team, stage.rollout(), "count")
    first, second = stage.asked
    assert first == second
    with in_rollout(stage.rollout()):
        await team.run(task="count")
        await stage.play(team, stage.rollout(), "count")
    third, _ = stage.asked[2:]
    assert third == first


async def test_a_team_that_has_run_can_be_run_in_rollouts(stage: Any, model_client: Client) -> None:
    agents = [AssistantAgent(name, model_client=model_client) for name in ("one", "two")]
    team = RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(3))
    with in_rollout(stage.rollout()):
        await team.run(task="count")
    answers = await asyncio.gather(
        *(stage.play(team, stage.rollout(str(number)), str(number)) for number in range(16))
    )
    assert answers == ["ok"] * 16
    by_key: dict[str, int] = {}
    for request in stage.llm.requests[2:]:
        key = request.headers["authorization"]
        by_key[key] = by_key.get(key, 0) + 1
        assert request.json["messages"][-1]["content"] in {key.removeprefix("Bearer key-"), "ok"}
    assert by_key == {f"Bearer key-{number}": 2 for number in range(16)}


async def test_messages_inside_of_a_team_are_no_spans(
    stage: Any, model_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autogen_core._telemetry._tracing.get_tracer_provider", lambda: stage.provider)
    agents = [AssistantAgent(name, model_client=model_client) for name in ("one", "two")]
    context = stage.rollout()
    with in_rollout(context), stage.provider.get_tracer("test").start_as_current_span("around") as around:
        await stage.play(RoundRobinGroupChat(agents, max_turns=2), context)
        parent = f"{around.get_span_context().span_id:016x}"
    invoked = stage.of(semconv.OPERATION_AGENT)
    assert [(span.agent, span.parent_id) for span in invoked] == [("one", parent), ("two", parent)]
    assert len(stage.spans) == 5


async def test_a_team_with_a_runtime_of_its_own_is_refused(stage: Any, model_client: Client) -> None:
    agent = AssistantAgent("assistant", model_client=model_client)
    team = RoundRobinGroupChat([agent], runtime=SingleThreadedAgentRuntime(), max_turns=1)
    with pytest.raises(TargetError, match="was given a runtime"):
        await stage.play(team, stage.rollout())


async def test_what_cannot_be_copied_is_named(stage: Any, model_client: Client) -> None:
    agent = AssistantAgent("assistant", model_client=model_client, metadata={})
    agent.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(TargetError, match="'assistant' cannot be copied"):
        await stage.play(agent, stage.rollout())


async def test_a_cancelled_team_leaves_its_model_at_once(stage: Any, model_client: Client) -> None:
    agent = AssistantAgent("assistant", model_client=model_client)
    team = RoundRobinGroupChat([agent], max_turns=3)
    stage.replies = [ScriptedAnswer(text="late", hold_after=0)]
    playing = asyncio.create_task(stage.play(team, stage.rollout()))
    await asyncio.to_thread(stage.llm.wait_held)
    playing.cancel()
    (outcome,) = await asyncio.gather(playing, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert chat.attributes[semconv.CANCELLED] is True
    assert len(stage.llm.requests) == 1


class CountDownAgent(BaseChatAgent):
    """The custom agent of the framework's tutorial."""

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        return Response(chat_message=TextMessage(content="3...2...1", source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


async def test_agents_of_ones_own_are_accepted(stage: Any) -> None:
    agent = CountDownAgent("countdown", "counts down")
    assert (
        await stage.play(agent, stage.rollout(), {"messages": [{"role": "user", "content": "go"}]})
        == "3...2...1"
    )
    assert [span.agent for span in stage.of(semconv.OPERATION_AGENT)] == ["countdown"]


@dataclass
class Question:
    text: str


class Expert(RoutedAgent):
    """An agent as the tutorials of the core write them: it asks the model, or an expert who knows better."""

    def __init__(self, client: Client, better: str = "") -> None:
        super().__init__("An expert.")
        self._client, self._better = client, better

    @message_handler
    async def answer(self, message: Question, ctx: MessageContext) -> Question:
        asked = [UserMessage(content=message.text, source="user")]
        said = await self._client.create(asked, cancellation_token=ctx.cancellation_token)
        if self._better:
            return await self.send_message(Question(str(said.content)), AgentId(self._better, "default"))
        return Question(str(said.content))


async def test_agents_of_the_core_have_their_calls(stage: Any, model_client: Client) -> None:
    runtime = SingleThreadedAgentRuntime()
    await Expert.register(runtime, "junior", lambda: Expert(model_client, "senior"))
    await Expert.register(runtime, "senior", lambda: Expert(model_client))
    stage.replies = [ScriptedAnswer(text="perhaps"), ScriptedAnswer(text="surely")]
    with in_rollout(stage.rollout()):
        runtime.start()
        answer = await runtime.send_message(Question("why?"), AgentId("junior", "default"))
        await runtime.stop_when_idle()
    assert answer == Question("surely")
    assert agents_of(stage) == ["junior", "senior"]


def test_something_else_is_refused_with_what_is_accepted(stage: Any) -> None:
    with pytest.raises(TargetError, match="no agent and no team of AutoGen"):
        stage.adapter.as_function(object())
