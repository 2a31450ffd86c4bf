"""What an adapter of a framework with agent objects must do beyond `AdapterContract`: subclass `FrameworkContract`."""

# ruff: noqa: S101  (a contract kit asserts)
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Final

import pytest

from agentlightning import semconv
from agentlightning.agents import Tunable, TunableKind
from agentlightning.capture import RolloutContext, in_rollout
from agentlightning.testing._adapter_contract import (
    RUNS,
    USER_KEY,
    USER_MODEL,
    AdapterContract,
    AdapterStage,
    ListSink,
    servers,
)
from agentlightning.testing._calls import called
from agentlightning.testing._capture_joins import (
    agent_of,
    enclosing,
    inside_agent,
    request_number,
    transitions_of,
)
from agentlightning.testing._scripted_answer import (
    ScriptedAnswer,
    ScriptedFault,
    ScriptedReply,
    ScriptedToolCall,
)
from agentlightning.testing._scripted_llm import Script
from agentlightning.testing._scripted_wire import ScriptedRequest
from agentlightning.types import Json, PromptTemplate, SpanStatus

_PROMPT: Final = "You are a careful assistant."
_DESCRIPTION: Final = "Adds two whole numbers."
_NEW: Final = "You are a bold assistant, number"
_TOOL_RESULTS: Final = ('"role":"tool"', '"function_call_output"', '"tool_result"')

_PRINT_HOOKS: Final = """
import importlib, json, sys
specs = importlib.import_module(sys.argv[1]).agl_register_adapters()
imported = {spec.name: spec.module.partition(".")[0] in sys.modules for spec in specs}
print(json.dumps([[spec.name, spec.target, spec.module, imported[spec.name]] for spec in specs]))
"""


class FrameworkContract(AdapterContract):
    """Tests that an adapter opens a framework's agents up: their structure, their tunables, their calls.

    Attributes:
        hooks: Module of its entry point.
        agent_name: Name of the agent that `make_agent` makes.
        prompt: Its system prompt.
        tool_description: What it tells the model of its tool.
        user_key: The key of its client.
        user_model: The model that it asks for.
        prompt_kind: What the framework calls a system prompt.
        team: Names of the agents of `make_team`, in the order of their calls; empty if the framework has no teams.
        team_replies: What the model answers them, in that order.
    """

    hooks: ClassVar[str]
    agent_name: ClassVar[str] = "assistant"
    prompt: ClassVar[str] = _PROMPT
    tool_description: ClassVar[str] = _DESCRIPTION
    user_key: ClassVar[str] = USER_KEY
    user_model: ClassVar[str] = USER_MODEL
    prompt_kind: ClassVar[TunableKind] = TunableKind.SYSTEM_PROMPT
    team: ClassVar[Sequence[str]] = ()
    team_replies: ClassVar[Sequence[ScriptedReply]] = ()

    def make_agent(self, base_url: str) -> AbstractAsyncContextManager[object]:
        """Makes an agent object, and closes what it holds open.

        It has `agent_name`, `prompt` and one tool: the method `add`, described as `tool_description`. Its client has
        `base_url`, `user_key` and `user_model`, and does not retry.
        """
        raise NotImplementedError

    @staticmethod
    def add(a: int, b: int) -> int:
        """Adds two whole numbers."""
        if a == 0:
            raise ValueError("zero is not added")
        return a + b

    def make_team(self, base_url: str) -> AbstractAsyncContextManager[object]:
        """Makes an object of several agents that call the model in the order of `team`."""
        raise NotImplementedError

    def test_hooks_import_nothing_of_the_framework(self) -> None:
        """In a fresh interpreter; they name this adapter, and the framework that it needs."""
        path = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            [sys.executable, "-c", _PRINT_HOOKS, self.hooks],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        adapter = self.make_adapter()
        found = {name: rest for name, *rest in json.loads(done.stdout.splitlines()[-1])}
        target, module, imported = found[adapter.name]
        assert target.partition(":")[2] in {kind.__name__ for kind in type(adapter).__mro__}
        assert module
        assert not imported

    async def test_its_agents_are_accepted(self) -> None:
        """As functions of a task."""
        with self.stage() as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                assert stage.adapter.accepts(agent)
                output = await self.play(stage, agent, stage.rollout())
        assert "gateway: hi" in json.dumps(output)

    async def test_a_call_is_below_its_agent(self) -> None:
        """Whose span has its name, and what it is."""
        with self.stage() as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                await self.play(stage, agent, stage.rollout())
        (chat,) = stage.sink.chats
        assert agent_of(chat, stage.sink.spans) == self.agent_name

    async def test_a_tools_use_is_a_span(self) -> None:
        """With its name, arguments and result, below the agent that used it."""
        with self.stage(_use_tool(a=2, b=3)) as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                output = await self.play(stage, agent, stage.rollout())
        (tool,) = stage.sink.of(semconv.OPERATION_TOOL)
        assert tool.attributes[semconv.TOOL_NAME] == "add"
        assert _data(tool.attributes[semconv.TOOL_CALL_ARGUMENTS]) == {"a": 2, "b": 3}
        assert "5" in json.dumps(tool.attributes[semconv.TOOL_CALL_RESULT])
        assert agent_of(tool, stage.sink.spans) == self.agent_name
        assert len(stage.sink.chats) == 2
        assert "the sum" in json.dumps(output)

    async def test_a_failed_tool_says_why(self) -> None:
        """Its span is an error, or has the text that the model was told."""
        with self.stage(_use_tool(a=0, b=3)) as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                with contextlib.suppress(Exception):  # frameworks tell the model, or give up
                    await self.play(stage, agent, stage.rollout())
        (tool,) = stage.sink.of(semconv.OPERATION_TOOL)
        told = json.dumps(tool.attributes.get(semconv.TOOL_CALL_RESULT))
        assert "zero is not added" in f"{tool.error} {told}"

    async def test_a_teams_calls_belong_to_the_agent_that_made_them(self) -> None:
        """In the order in which they were made."""
        if not self.team:
            pytest.skip("the framework has no teams")
        replies = iter(self.team_replies)
        with self.stage(lambda _: next(replies)) as stage:
            async with self.make_team(stage.own.base_url) as team:
                await self.play(stage, team, stage.rollout())
        chats = sorted(stage.sink.chats, key=lambda span: span.start_ns)
        assert [agent_of(chat, stage.sink.spans) for chat in chats] == list(self.team)

    async def test_each_call_is_joined_with_its_request_once(self) -> None:
        """By `traceparent`: one transition for each request, of the right agent, in order."""
        with self.stage(_use_tool(a=2, b=3)) as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                await self.play(stage, agent, stage.rollout())
            requests = stage.gateway.requests
        found = transitions_of(stage.sink.spans, requests)
        assert [transition.agent for transition in found] == [self.agent_name] * 2
        assert [request_number(transition) for transition in found] == [0, 1]

    async def test_runs_of_one_agent_at_once_keep_their_calls(self) -> None:
        """Also within one rollout: each run's span has exactly its own calls and tools below it."""
        with self.stage(_use_tool(a=2, b=3)) as stage:
            context = stage.rollout()
            async with self.make_agent(stage.own.base_url) as agent:
                await asyncio.gather(*(self.play(stage, agent, context) for _ in range(4)))
        spans = stage.sink.spans
        runs = [span for span in stage.sink.of(semconv.OPERATION_AGENT) if not inside_agent(span, spans)]
        below = [Counter(span.operation for span in spans if run in enclosing(span, spans)) for run in runs]
        assert [(one[semconv.OPERATION_CHAT], one[semconv.OPERATION_TOOL]) for one in below] == [(2, 1)] * 4

    async def test_tunables_have_stable_unique_names(self) -> None:
        """The same for an equal agent; each says where it was found."""
        adapter = self.make_adapter()
        async with (
            self.make_agent("http://127.0.0.1:9/v1") as agent,
            self.make_agent("http://127.0.0.1:9/v1") as equal,
        ):
            found = adapter.tunables(agent)
            assert [one.name for one in found] == [one.name for one in adapter.tunables(equal)]
        assert len({one.name for one in found}) == len(found)
        assert all(one.name and one.place for one in found)

    async def test_tunables_have_the_values_of_the_agent(self) -> None:
        """Its system prompt, and what it tells the model of its tool."""
        async with self.make_agent("http://127.0.0.1:9/v1") as agent:
            found = self.make_adapter().tunables(agent)
        assert self.prompt in [one.value for one in found if one.kind is self.prompt_kind]
        assert self.tool_description in [
            one.value for one in found if one.kind is TunableKind.TOOL_DESCRIPTION
        ]

    async def test_prompts_of_a_rollout_reach_its_model(self) -> None:
        """The prompt and the tool's description, instead of the agent's own."""
        with self.stage() as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                resources = {
                    self._tunable(stage, agent, self.prompt_kind).name: PromptTemplate(template=_NEW),
                    self._tunable(stage, agent, TunableKind.TOOL_DESCRIPTION).name: PromptTemplate(
                        template="Adds boldly."
                    ),
                }
                await self.play(stage, agent, stage.rollout(resources=resources))
            (request,) = stage.gateway.requests
        sent = request.body.decode()
        assert (_NEW in sent, self.prompt in sent) == (True, False)
        assert ("Adds boldly." in sent, self.tool_description in sent) == (True, False)

    async def test_prompts_of_concurrent_rollouts_do_not_mix(self) -> None:
        """Sixteen of one agent object at once; it is itself all the time."""
        seen: list[str] = []
        own: list[object] = []

        def script(request: ScriptedRequest) -> ScriptedReply:
            seen.extend(
                one.value for one in self.make_adapter().tunables(own[0]) if one.kind is self.prompt_kind
            )
            return _use_tool(a=2, b=3)(request)

        with self.stage(script) as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                own.append(agent)
                name = self._tunable(stage, agent, self.prompt_kind).name

                async def run(number: int) -> None:
                    prompt = {name: PromptTemplate(template=f"{_NEW} {number}.")}
                    await self.play(
                        stage, agent, stage.rollout(str(number), sink=ListSink(), resources=prompt)
                    )

                await asyncio.gather(*map(run, range(RUNS)))
            sent = Counter(
                (request.headers["authorization"], number)
                for request in stage.gateway.requests
                for number in range(RUNS)
                if f"{_NEW} {number}." in request.body.decode()
            )
        assert sent == {(f"Bearer key-{number}", number): 2 for number in range(RUNS)}
        assert set(seen) == {self.prompt}

    async def test_an_agent_is_itself_after_a_rollout(self) -> None:
        """The same tunables, and outside of rollouts the same request."""
        await self._is_itself_after(None)

    async def test_an_agent_is_itself_after_a_failure(self) -> None:
        """As after a success."""
        await self._is_itself_after(ScriptedFault(status=400, message="no such thing"))

    async def test_an_agent_is_itself_after_a_cancellation(self) -> None:
        """As after a success."""
        await self._is_itself_after(ScriptedAnswer(text="late", hold_after=0))

    async def test_a_cancelled_agents_spans_end(self) -> None:
        """And the call below it is marked; nothing of the rollout is left open."""
        with self.stage(ScriptedAnswer(text="late", hold_after=0)) as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                playing = asyncio.create_task(self.play(stage, agent, stage.rollout()))
                await asyncio.to_thread(stage.gateway.wait_held)
                playing.cancel()
                (outcome,) = await asyncio.gather(playing, return_exceptions=True)
                stage.gateway.let_go()
        assert isinstance(outcome, asyncio.CancelledError)
        (chat,) = stage.sink.chats
        assert chat.attributes[semconv.CANCELLED] is True
        assert chat.parent_id in {span.span_id for span in stage.sink.spans}

    async def test_an_agents_exception_comes_out_as_it_is(self) -> None:
        """The one that the framework raises without an adapter; its agent's span says so."""
        fault = ScriptedFault(status=400, message="no such thing")
        with servers(fault) as (_, server):
            plain = await self.failure(server.base_url)
        with self.stage(fault) as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                playing = self.play(stage, agent, stage.rollout())
                (seen,) = await asyncio.gather(playing, return_exceptions=True)
        assert (type(seen), str(seen)) == (type(plain), str(plain))
        (chat,) = stage.sink.chats
        above = [
            span for span in enclosing(chat, stage.sink.spans) if span.operation == semconv.OPERATION_AGENT
        ]
        assert SpanStatus.ERROR in {span.status for span in above}

    async def test_agents_leave_no_spans_without_the_adapter(self) -> None:
        """Once it is uninstrumented."""
        with self.stage() as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                stage.adapter.uninstrument()
                with in_rollout(stage.rollout()):
                    await _call(stage, agent, "hi")
        assert stage.sink.spans == []

    async def play(
        self, stage: AdapterStage, agent: object, context: RolloutContext, *, task: Json = "hi"
    ) -> Json:
        """Runs an agent in a rollout, as the runner does."""
        with in_rollout(context), stage.adapter.bind(agent, context) as bound:
            return await _call(stage, bound, task)

    async def _is_itself_after(self, reply: ScriptedReply | None) -> None:
        with self.stage(reply) as stage:
            async with self.make_agent(stage.own.base_url) as agent:
                before = stage.adapter.tunables(agent)
                prompt = {
                    one.name: PromptTemplate(template=_NEW) for one in before if one.kind is self.prompt_kind
                }
                playing = asyncio.create_task(self.play(stage, agent, stage.rollout(resources=prompt)))
                if isinstance(reply, ScriptedAnswer):
                    await asyncio.to_thread(stage.gateway.wait_held)
                    playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
                stage.gateway.let_go()
                assert stage.adapter.tunables(agent) == before
                await _call(stage, agent, "hi")
            (request,) = stage.own.requests
        assert self.prompt in request.body.decode()
        assert _NEW not in request.body.decode()

    def _tunable(self, stage: AdapterStage, agent: object, kind: TunableKind) -> Tunable:
        return next(one for one in stage.adapter.tunables(agent) if one.kind is kind)


async def _call(stage: AdapterStage, agent: object, task: Json) -> Json:
    return await called(stage.adapter.as_function(agent), task)


def _use_tool(**arguments: int) -> Script:
    def script(request: ScriptedRequest) -> ScriptedReply:
        told = "".join(request.body.decode().split())
        if any(mark in told for mark in _TOOL_RESULTS):
            return ScriptedAnswer(text="the sum")
        return ScriptedAnswer(tool_calls=(ScriptedToolCall(name="add", arguments=dict(arguments)),))

    return script


def _data(value: Json) -> Json:
    return json.loads(value) if isinstance(value, str) else value
