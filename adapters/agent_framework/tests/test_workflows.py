"""Workflows: graphs of one's own, and the orchestrations that the framework ships."""

from __future__ import annotations

import asyncio
from typing import Any, Never

import pytest
from agent_framework import (
    Agent,
    AgentExecutorResponse,
    Executor,
    Message,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    handler,
)
from agent_framework.openai import OpenAIChatCompletionClient
from agent_framework.orchestrations import (
    ConcurrentBuilder,
    GroupChatBuilder,
    HandoffBuilder,
    MagenticBuilder,
    SequentialBuilder,
)

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.errors import TargetError
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from agentlightning.types import Span


def agent(name: str) -> Agent:
    client = OpenAIChatCompletionClient(model="gpt-4o-mini", api_key="k", base_url="http://127.0.0.1:9/v1")
    return Agent(client=client, name=name, description=f"The {name}.", instructions=f"You are the {name}.")


def speaking(request: Any) -> ScriptedAnswer:
    """Answers with who was asked, and how many messages it was shown."""
    system, *rest = request.json["messages"]
    return ScriptedAnswer(
        text=f"{system['content'].removeprefix('You are the ').rstrip('.')} saw {len(rest)}"
    )


def whose(stage: Any) -> list[str | None]:
    """The agent of each chat, in order."""
    by_id = {span.span_id: span for span in stage.spans}
    return [
        _agent(span, by_id) for span in sorted(stage.of(semconv.OPERATION_CHAT), key=lambda one: one.start_ns)
    ]


def _agent(span: Span, by_id: dict[str, Span]) -> str | None:
    while span.agent is None and span.parent_id in by_id:
        span = by_id[span.parent_id]
    return span.agent


async def run(stage: Any, workflow: object, task: Any, **given: Any) -> Any:
    context = stage.rollout(**given)
    with in_rollout(context), stage.adapter.bind(workflow, context) as bound:
        return await stage.adapter.as_function(bound)(task)


class Shout(Executor):
    """An executor with a state, which must not leak from one rollout to the next."""

    def __init__(self) -> None:
        super().__init__(id="shout")
        self.heard: list[str] = []

    @handler
    async def shout(self, response: AgentExecutorResponse, ctx: WorkflowContext[Never, str]) -> None:
        """Yields everything that was heard, in capitals."""
        self.heard.append(response.agent_response.text)
        await ctx.yield_output(" ".join(self.heard).upper())


def graph() -> Workflow:
    writer, shout = agent("writer"), Shout()
    return WorkflowBuilder(start_executor=writer, output_from=[shout]).add_edge(writer, shout).build()


async def test_a_graph_runs_with_fresh_executors_each_time(stage: Any) -> None:
    stage.script = speaking
    workflow = graph()
    assert stage.adapter.accepts(workflow)
    assert [await run(stage, workflow, "hi") for _ in range(2)] == ["WRITER SAW 1"] * 2
    assert workflow.executors["shout"].heard == []  # type: ignore[attr-defined]


async def test_spans_of_a_graph_are_nested(stage: Any) -> None:
    stage.script = speaking
    await run(stage, graph(), "hi")
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    by_id = {span.span_id: span for span in stage.spans}
    names, found = [], chat
    while found.parent_id in by_id:
        found = by_id[found.parent_id]
        names.append(found.name)
    assert names[0] == "invoke_agent writer"
    assert "executor.process writer" in names
    assert names[-1].startswith("workflow.run")


@pytest.mark.parametrize("most", [2, 3])
async def test_a_group_chat_ends_with_what_was_said_last(stage: Any, most: int) -> None:
    stage.script = speaking

    def in_turn(state: Any) -> str:
        return list(state.participants)[len(state.conversation) % 2]

    workflow = GroupChatBuilder(
        participants=[agent("writer"), agent("reviewer")],
        selection_func=in_turn,
        max_rounds=most,
        termination_condition=lambda conversation: len(conversation) > 3,
        output_from="all",
    ).build()
    told = await run(stage, workflow, "hi")
    assert whose(stage) == ["reviewer", "writer", "reviewer"][:most]
    assert told.startswith(f"{whose(stage)[-1]} saw")


async def test_a_sequence_hands_the_conversation_on(stage: Any) -> None:
    stage.script = speaking
    workflow = SequentialBuilder(participants=[agent("writer"), agent("reviewer")]).build()
    assert await run(stage, workflow, "hi") == "reviewer saw 2"
    assert whose(stage) == ["writer", "reviewer"]


async def test_agents_that_run_at_once_are_told_apart(stage: Any) -> None:
    stage.script = speaking
    workflow = ConcurrentBuilder(participants=[agent("one"), agent("two"), agent("three")]).build()
    await run(stage, workflow, "hi")
    assert sorted(map(str, whose(stage))) == ["one", "three", "two"]
    for chat in stage.of(semconv.OPERATION_CHAT):
        (above,) = [span for span in stage.spans if span.span_id == chat.parent_id]
        assert f"You are the {above.agent}." in str(chat.attributes[semconv.INPUT_MESSAGES])


async def test_a_handoff_is_a_tool_and_another_agents_turn(stage: Any) -> None:
    stage.replies = [
        ScriptedAnswer(text="", tool_calls=(ScriptedToolCall(name="handoff_to_billing"),)),
        ScriptedAnswer(text="Refunded."),
    ]
    triage, billing = agent("triage"), agent("billing")
    for one in (triage, billing):
        one.require_per_service_call_history_persistence = True
    workflow = (
        HandoffBuilder(
            participants=[triage, billing], termination_condition=lambda messages: len(messages) > 2
        )
        .with_start_agent(triage)
        .build()
    )
    assert "Refunded." in str(await run(stage, workflow, "My money!"))
    assert whose(stage) == ["triage", "billing"]


async def test_a_manager_of_a_magentic_team_is_an_agent_too(stage: Any) -> None:
    ledger = (
        '{"is_request_satisfied": {"reason": "r", "answer": %s}, "is_in_loop": {"reason": "r", "answer": false}, '
        '"is_progress_being_made": {"reason": "r", "answer": true}, '
        '"next_speaker": {"reason": "r", "answer": "coder"}, '
        '"instruction_or_question": {"reason": "r", "answer": "go"}}'
    )
    texts = ["facts", "plan", ledger % "false", "coded", ledger % "true", "final"]
    stage.replies = [ScriptedAnswer(text=text) for text in texts]
    workflow = MagenticBuilder(participants=[agent("coder")], manager_agent=agent("manager")).build()
    assert await run(stage, workflow, "Do it") == "final"
    assert whose(stage) == ["manager"] * 3 + ["coder"] + ["manager"] * 2


async def test_sixteen_runs_of_one_workflow_at_once_do_not_mix(stage: Any) -> None:
    stage.script = lambda request: ScriptedAnswer(text=request.json["messages"][-1]["content"])
    workflow = graph()
    texts = [f"task {number}" for number in range(16)]
    answers = await asyncio.gather(*(run(stage, workflow, text, name=text) for text in texts))
    assert answers == [text.upper() for text in texts]
    keys = {(r.headers["authorization"], r.json["messages"][-1]["content"]) for r in stage.llm.requests}
    assert keys == {(f"Bearer key-{text}", text) for text in texts}


async def test_a_workflow_as_an_agent_is_accepted(stage: Any) -> None:
    stage.script = speaking
    wrapped = SequentialBuilder(participants=[agent("writer")]).build().as_agent(name="team")
    assert stage.adapter.accepts(wrapped)
    assert [await run(stage, wrapped, "hi") for _ in range(2)] == ["writer saw 1"] * 2


async def test_messages_and_data_are_tasks(stage: Any) -> None:
    stage.script = lambda request: ScriptedAnswer(
        text=str([m["content"] for m in request.json["messages"][1:]])
    )
    one = agent("one")
    assert await run(stage, one, {"messages": [{"role": "user", "content": "hi"}]}) == "['hi']"
    assert await run(stage, one, [{"role": "user", "content": "hi"}]) == "['hi']"
    assert await run(stage, one, {"a": 1}) == "['{\"a\":1}']"


def test_what_cannot_be_copied_is_refused(stage: Any) -> None:
    workflow = graph()
    workflow.executors["shout"].heard = (line for line in "ab")  # type: ignore[attr-defined]
    with (
        pytest.raises(TargetError, match="train a function that builds it"),
        stage.adapter.bind(workflow, stage.rollout()),
    ):
        pass


def test_other_objects_are_refused(stage: Any) -> None:
    assert not stage.adapter.accepts(Message("user", ["hi"]))
    with pytest.raises(TargetError, match="pass an `Agent` or a built `Workflow`"):
        stage.adapter.as_function(object())
