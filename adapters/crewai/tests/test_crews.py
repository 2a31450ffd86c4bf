"""Crews, agents and flows, as the framework's own guides write them: what is captured of them."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent, BaseLLM, Crew, Memory, Process, Task
from crewai.events.listeners.tracing.utils import should_enable_tracing
from crewai.events.types.llm_events import LLMCallType
from crewai.flow.flow import Flow, listen, router, start
from crewai.llms.base_llm import llm_call_context
from crewai.telemetry import Telemetry
from crewai.tools import tool
from opentelemetry.sdk.trace import TracerProvider
from pydantic import BaseModel

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedToolCall
from agentlightning.types import Span, SpanStatus
from lightning_adapter_crewai import CrewAIAdapter


def llm(**given: Any) -> LLM:
    return LLM(model="openai/gpt-4o-mini", base_url="http://127.0.0.1:9/v1", api_key="users-key", **given)


@tool("Weather")
def weather(city: str) -> str:
    """Tells the weather of a city."""
    if city == "Atlantis":
        raise ValueError("no such place")
    return f"It is sunny in {city}."


def researcher(**given: Any) -> Agent:
    given = {"role": "Researcher", "goal": "Find out about {topic}", "backstory": "You know things.", **given}
    return Agent(llm=llm(), tools=[weather], **given)


def writer(**given: Any) -> Agent:
    return Agent(role="Writer", goal="Write about {topic}", backstory="You write well.", llm=llm(), **given)


def crew() -> Crew:
    agents = [researcher(), writer()]
    tasks = [
        Task(name="research", description="Research {topic}", expected_output="Facts", agent=agents[0]),
        Task(description="Write about {topic}", expected_output="A text", agent=agents[1]),
    ]
    return Crew(agents=agents, tasks=tasks, process=Process.sequential)


def call(name: str, **arguments: Any) -> ScriptedAnswer:
    return ScriptedAnswer(text="", tool_calls=(ScriptedToolCall(name=name, arguments=arguments),))


def run(stage: Any, root: object, task: Any, **given: Any) -> Any:
    context = stage.rollout(**given)
    with in_rollout(context), stage.adapter.bind(root, context) as bound:
        return stage.adapter.as_function(bound)(task)


def test_a_crew_is_tasks_of_agents_with_calls_and_tools(stage: Any) -> None:
    stage.replies = [
        call("weather", city="Oslo"),
        ScriptedAnswer(text="Facts."),
        ScriptedAnswer(text="A poem."),
    ]
    assert run(stage, crew(), "weather") == "A poem."
    chats, (used,) = stage.of(semconv.OPERATION_CHAT), stage.of(semconv.OPERATION_TOOL)
    above = ["invoke_agent Researcher", "task research", "invoke_workflow crew"]
    assert [stage.path(span) for span in [*chats, used]] == [
        above,
        above,
        ["invoke_agent Writer", "task task", "invoke_workflow crew"],
        above,
    ]
    assert used.attributes[semconv.TOOL_NAME] == "weather"
    assert json.loads(used.attributes[semconv.TOOL_CALL_ARGUMENTS]) == {"city": "Oslo"}
    assert used.attributes[semconv.TOOL_CALL_RESULT] == "It is sunny in Oslo."
    assert [span.agent for span in stage.of(semconv.OPERATION_AGENT)] == ["Researcher", "Writer"]
    assert {span.status for span in stage.spans} == {SpanStatus.UNSET}


def test_a_manager_delegates(stage: Any) -> None:
    stage.replies = [
        call("delegate_work_to_coworker", task="t", context="c", coworker="Writer"),
        ScriptedAnswer(text="A poem."),
        ScriptedAnswer(text="The poem."),
    ]
    task = Task(description="Write about {topic}", expected_output="A text")
    team = Crew(
        agents=[researcher(), writer()], tasks=[task], process=Process.hierarchical, manager_llm=llm()
    )
    assert run(stage, team, "weather") == "The poem."
    paths = [stage.path(span) for span in stage.of(semconv.OPERATION_CHAT)]
    manager = ["invoke_agent Crew Manager", "task task", "invoke_workflow crew"]
    assert paths[0] == paths[2] == manager
    assert paths[1][0] == "invoke_agent Writer"
    assert paths[1][-4] == "execute_tool delegate_work_to_coworker"
    assert paths[1][-3:] == manager


def test_an_agent_runs_alone(stage: Any) -> None:
    stage.replies = [call("weather", city="Oslo"), ScriptedAnswer(text="Sunny.")]
    assert run(stage, researcher(), "How is it in Oslo?") == "Sunny."
    assert [stage.path(span) for span in stage.of(semconv.OPERATION_CHAT)] == [
        ["invoke_agent Researcher"]
    ] * 2
    (used,) = stage.of(semconv.OPERATION_TOOL)
    assert stage.path(used) == ["invoke_agent Researcher"]


class Poem(BaseModel):
    topic: str = ""
    lines: list[str] = []


class PoemFlow(Flow[Poem]):
    @start()
    def choose(self) -> str:
        self.state.topic = self.state.topic or "rain"
        return self.state.topic

    @router(choose)
    def route(self) -> str:
        return "write"

    @listen("write")
    def compose(self) -> Poem:
        self.state.lines.append(str(writer().kickoff(f"Write on {self.state.topic}").raw))
        return self.state


def test_a_flow_is_its_methods(stage: Any) -> None:
    stage.script = lambda request: ScriptedAnswer(text="A line.")
    flow = PoemFlow()
    for _ in range(2):
        found = run(stage, flow, {"topic": "snow"})
        assert (found["topic"], found["lines"]) == ("snow", ["A line."])
    assert flow.state.lines == []
    chat = stage.of(semconv.OPERATION_CHAT)[0]
    assert stage.path(chat) == ["invoke_agent Writer", "PoemFlow.compose", "invoke_workflow PoemFlow"]
    (place,) = {span.attributes[semconv.LOCATION] for span in stage.spans if span.name == "PoemFlow.route"}
    assert place == "PoemFlow.route"


async def test_an_asynchronous_kickoff_has_the_same_spans(stage: Any) -> None:
    stage.replies = [
        call("weather", city="Oslo"),
        ScriptedAnswer(text="Facts."),
        ScriptedAnswer(text="A poem."),
    ]
    with in_rollout(stage.rollout()):
        await crew().akickoff(inputs={"topic": "weather"})
    assert [len(stage.path(span)) for span in stage.of(semconv.OPERATION_CHAT)] == [3, 3, 3]
    (used,) = stage.of(semconv.OPERATION_TOOL)
    assert stage.path(used)[0] == "invoke_agent Researcher"


def test_tasks_in_threads_keep_their_places(stage: Any) -> None:
    agents = [researcher(role=f"R{number}") for number in range(3)]
    tasks = [
        Task(
            name=one.role,
            description=f"Ask {one.role}",
            expected_output="It",
            agent=one,
            async_execution=True,
        )
        for one in agents
    ]
    last = writer()
    tasks.append(Task(name="sum", description="Sum up", expected_output="It", agent=last, context=tasks[:]))
    with in_rollout(stage.rollout()):
        Crew(agents=[*agents, last], tasks=tasks).kickoff(inputs={"topic": "x"})
    for chat in stage.of(semconv.OPERATION_CHAT):
        agent, task, top = stage.path(chat)
        assert top == "invoke_workflow crew"
        assert (agent, task) in {
            *((f"invoke_agent R{n}", f"task R{n}") for n in range(3)),
            ("invoke_agent Writer", "task sum"),
        }
    assert len(stage.of(semconv.OPERATION_CHAT)) == 4


def test_tasks_of_one_text_are_not_mixed_up(stage: Any) -> None:
    voters = [writer(), researcher(role="Critic")]
    votes = [Task(description="Answer {topic}", expected_output="It", agent=one) for one in voters]
    judge = Task(description="Judge", expected_output="It", agent=voters[0], context=[votes[0]])
    stage.replies = [ScriptedAnswer(text=text) for text in ("the first", "the second", "judged")]
    assert run(stage, Crew(agents=voters, tasks=[*votes, judge]), "snow") == "judged"
    asked = str(stage.asked[2])
    assert ("the first" in asked, "the second" in asked) == (True, False)


def test_a_crew_that_streams_ends_with_its_answer(stage: Any) -> None:
    stage.script = lambda _: ScriptedAnswer(text="A poem.")
    one = writer()
    task = Task(description="Write about {topic}", expected_output="A text", agent=one)
    team = Crew(agents=[one], tasks=[task], stream=True)
    assert run(stage, team, "snow") == "A poem."
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert stage.path(chat)[0] == "invoke_agent Writer"
    assert chat.attributes["gen_ai.request.stream"] is True
    assert not getattr(one.llm, "stream", False)


def test_a_flow_that_streams_ends_with_its_answer(stage: Any) -> None:
    stage.script = lambda request: ScriptedAnswer(text="A line.")
    found = run(stage, PoemFlow(stream=True), {"topic": "snow"})
    assert (found["topic"], found["lines"]) == ("snow", ["A line."])
    assert stage.path(stage.one(semconv.OPERATION_CHAT))[-1] == "invoke_workflow PoemFlow"


def test_a_tool_that_fails_is_an_error_of_its_span(stage: Any) -> None:
    stage.replies = [call("weather", city="Atlantis"), ScriptedAnswer(text="Sorry.")]
    run(stage, researcher(), "How is it in Atlantis?")
    (used,) = [span for span in stage.of(semconv.OPERATION_TOOL) if span.status is SpanStatus.ERROR]
    assert "no such place" in str(used.error)


def test_an_answer_that_does_not_fit_is_no_failure_of_its_agent(stage: Any) -> None:
    """CrewAI tells of the end of that call twice, and then takes each end for the one of what is around it."""

    @tool("Rhymes")
    def rhymes(word: str) -> str:
        """Finds rhymes of a word."""
        try:
            llm().call(f"Rhymes of {word}?", response_model=Poem)
        except ValueError:
            return "none"
        return "some"

    poet = Agent(role="Poet", goal="Rhyme on {topic}", backstory="You rhyme.", llm=llm(), tools=[rhymes])
    task = Task(name="poem", description="Rhyme on {topic}", expected_output="A poem", agent=poet)
    stage.replies = [
        call("rhymes", word="snow"),
        ScriptedAnswer(text="no JSON"),
        ScriptedAnswer(text="A poem."),
    ]
    assert run(stage, Crew(agents=[poet], tasks=[task]), "snow") == "A poem."
    above = ["invoke_agent Poet", "task poem", "invoke_workflow crew"]
    chats = stage.of(semconv.OPERATION_CHAT)
    assert [stage.path(chat) for chat in chats] == [above, ["execute_tool rhymes", *above], above]
    (used,) = stage.of(semconv.OPERATION_TOOL)
    assert used.attributes[semconv.TOOL_CALL_RESULT] == "none"
    assert not any(semconv.CANCELLED in span.attributes for span in stage.spans)
    assert {span.name for span in stage.spans if span.status is SpanStatus.ERROR} <= {chats[1].name}


def test_a_crew_that_fails_is_an_error_all_the_way_up(stage: Any) -> None:
    stage.script = lambda _: ScriptedFault(status=400, message="no such thing")
    with pytest.raises(Exception, match="no such thing"):
        run(stage, crew(), "weather")
    failed: list[Span] = [span for span in stage.spans if span.status is SpanStatus.ERROR]
    assert {"invoke_agent Researcher", "invoke_workflow crew"} <= {span.name for span in failed}


def test_spans_whose_end_is_never_told_end_with_the_rollout(stage: Any) -> None:
    from crewai.events import crewai_event_bus
    from crewai.events.types.flow_events import FlowStartedEvent

    context = stage.rollout()
    with in_rollout(context), stage.adapter.bind(PoemFlow(), context) as flow:
        crewai_event_bus.emit(flow, FlowStartedEvent(flow_name="PoemFlow"))
        assert stage.spans == []
    (span,) = stage.spans
    assert span.attributes[semconv.CANCELLED] is True


class Echo(BaseLLM):
    """A model of no SDK that tells CrewAI of its calls."""

    def call(self, messages: Any, **given: Any) -> str:
        with llm_call_context():
            self._emit_call_started_event(messages=messages, from_agent=given.get("from_agent"))
            answer = "Final Answer: echoed"
            self._emit_call_completed_event(
                response=answer,
                call_type=LLMCallType.LLM_CALL,
                messages=messages,
                from_agent=given.get("from_agent"),
            )
        return answer


def test_a_model_of_no_sdk_is_recorded_from_its_events(stage: Any) -> None:
    speaker = Agent(role="Parrot", goal="Speak", backstory="You speak.", llm=Echo(model="echo"))
    assert "echoed" in run(stage, speaker, "hi")
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert (chat.name, stage.path(chat)) == ("chat echo", ["invoke_agent Parrot"])
    assert "hi" in str(chat.attributes[semconv.INPUT_MESSAGES])
    assert "echoed" in str(chat.attributes[semconv.OUTPUT_MESSAGES])


def test_what_is_remembered_is_a_retrieval(stage: Any) -> None:
    class Embedder:
        def __call__(self, texts: list[str]) -> list[list[float]]:
            return [[float(len(text)), 1.0, 0.0] for text in texts]

    memory = Memory(llm=llm(), embedder=Embedder(), storage=str(tempfile.mkdtemp()))
    with in_rollout(stage.rollout()):
        memory.recall("what do you know?", depth="shallow")
    assert [span.name for span in stage.of("retrieval")] == ["retrieval memory_query"]
    (found,) = stage.of("retrieval")
    assert found.attributes["gen_ai.retrieval.query.text"] == "what do you know?"


def test_the_vendors_telemetry_is_off_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "false")
    monkeypatch.delenv("CREWAI_TRACING_ENABLED", raising=False)
    adapter = CrewAIAdapter()
    adapter.instrument(TracerProvider())
    try:
        assert Telemetry._is_telemetry_disabled()
        assert not should_enable_tracing()
    finally:
        adapter.uninstrument()
    assert os.environ["CREWAI_DISABLE_TELEMETRY"] == "false"
    assert "CREWAI_TRACING_ENABLED" not in os.environ


def test_the_example_of_the_readme_runs(stage: Any) -> None:
    stage.script = lambda _: ScriptedAnswer(text="A poem.")
    page = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    made: dict[str, Any] = {}
    exec(example, made)
    assert run(stage, made["crew"], {"topic": "snow"}) == "A poem."
    names = {one.name for one in stage.adapter.tunables(made["crew"])}
    assert {"writer.role", "task_poem.description"} <= names
