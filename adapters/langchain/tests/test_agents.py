"""Spans of agents, chains, tools and retrievers, written as LangChain's tutorials write them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnablePassthrough
from langchain_core.tools import tool
from opentelemetry import trace
from pydantic import BaseModel

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from agentlightning.types import SpanStatus

QUESTION = {"messages": [{"role": "user", "content": "what is the weather in sf"}]}


@tool
def get_weather(city: str) -> str:
    """Get weather for a given city."""
    return f"It's always sunny in {city}!"


def asks_for(*cities: str) -> ScriptedAnswer:
    calls = tuple(
        ScriptedToolCall(name="get_weather", arguments={"city": city}, id=f"call-{city}") for city in cities
    )
    return ScriptedAnswer(tool_calls=calls)


WEATHER = [
    "invoke_agent weather",
    "  model",
    "    chat own-model",
    "  tools",
    "    execute_tool get_weather",
    "  model",
    "    chat own-model",
]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_an_agent_with_a_tool(stage: Any, how: str) -> None:
    stage.replies = [asks_for("sf"), ScriptedAnswer(text="Sunny.")]
    agent = create_agent(stage.model(), tools=[get_weather], system_prompt="You help.", name="weather")
    with in_rollout(stage.rollout()):
        if how == "invoke":
            agent.invoke(QUESTION)
        elif how == "ainvoke":
            await agent.ainvoke(QUESTION)
        elif how == "stream":
            for _ in agent.stream(QUESTION):
                assert trace.get_current_span() is trace.INVALID_SPAN
        else:
            async for _ in agent.astream(QUESTION, stream_mode="messages"):
                assert trace.get_current_span() is trace.INVALID_SPAN
    assert stage.tree() == WEATHER
    called = stage.one(semconv.OPERATION_TOOL)
    assert called.attributes[semconv.TOOL_NAME] == "get_weather"
    assert called.attributes[semconv.TOOL_CALL_ID] == "call-sf"
    assert called.attributes[semconv.TOOL_CALL_ARGUMENTS] == '{"city":"sf"}'
    assert called.attributes[semconv.TOOL_CALL_RESULT] == "It's always sunny in sf!"
    assert stage.one(semconv.OPERATION_AGENT).agent == "weather"
    assert {span.status for span in stage.spans} == {SpanStatus.UNSET}


async def test_parallel_tools_keep_their_parents(stage: Any) -> None:
    stage.replies = [asks_for("sf", "rome", "oslo"), ScriptedAnswer(text="Sunny.")]
    barrier = threading.Barrier(3)

    @tool("get_weather")
    def together(city: str) -> str:
        """Get weather for a given city."""
        barrier.wait(10)
        return stage.model().invoke(city).text

    with in_rollout(stage.rollout()):
        await create_agent(stage.model(), tools=[together], name="weather").ainvoke(QUESTION)
    inner = [span for span in stage.spans if stage.path(span)[:1] == ["execute_tool get_weather"]]
    by_id = {span.span_id: span for span in stage.spans}
    asked = {
        by_id[span.parent_id].attributes[semconv.TOOL_CALL_ID]: span.attributes[semconv.INPUT_MESSAGES]
        for span in inner
    }
    assert {call: messages[0]["parts"][0]["content"] for call, messages in asked.items()} == {
        f"call-{city}": city for city in ("sf", "rome", "oslo")
    }


def test_an_agent_as_a_tool_of_another(stage: Any) -> None:
    helper = create_agent(stage.model(), tools=[], name="researcher")

    @tool
    def research(topic: str) -> str:
        """Research a topic."""
        found = helper.invoke({"messages": [{"role": "user", "content": topic}]})
        return str(found["messages"][-1].text)

    call = ScriptedToolCall(name="research", arguments={"topic": "cats"})
    stage.replies = [
        ScriptedAnswer(tool_calls=(call,)),
        ScriptedAnswer(text="meow"),
        ScriptedAnswer(text="!"),
    ]
    with in_rollout(stage.rollout()):
        create_agent(stage.model(), tools=[research], name="boss").invoke(QUESTION)
    (inner,) = [span for span in stage.spans if span.attributes.get(semconv.RESPONSE_ID) == "chatcmpl-2"]
    assert stage.path(inner) == [
        "model",
        "invoke_agent researcher",
        "execute_tool research",
        "tools",
        "invoke_agent boss",
    ]


def test_the_sdk_inside_of_a_tool_and_spans_of_the_agents_own(stage: Any, provider: Any) -> None:
    tracer = provider.get_tracer("agent")

    @tool
    def summarise(text: str) -> str:
        """Summarise a text."""
        with (
            tracer.start_as_current_span("around"),
            openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k") as client,
        ):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
            return stage.model().invoke(text).text

    with in_rollout(stage.rollout()):
        summarise.invoke({"text": "long"})
    assert stage.tree() == ["execute_tool summarise", "  around", "    chat m", "    chat own-model"]


def test_a_tool_that_fails(stage: Any) -> None:
    @tool
    def fail(text: str) -> str:
        """Fail."""
        raise KeyError(text)

    with in_rollout(stage.rollout()), pytest.raises(KeyError):
        fail.invoke({"text": "x"})
    span = stage.one(semconv.OPERATION_TOOL)
    assert (span.status, span.error) == (SpanStatus.ERROR, "KeyError: 'x'")
    assert span.attributes[semconv.ERROR_TYPE] == "KeyError"


async def test_a_tool_that_is_cancelled(stage: Any) -> None:
    started = asyncio.Event()

    @tool
    async def wait(text: str) -> str:
        """Wait."""
        started.set()
        await asyncio.Event().wait()
        return text

    with in_rollout(stage.rollout()):
        waiting = asyncio.create_task(wait.ainvoke({"text": "x"}))
        await started.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0)
    assert stage.one(semconv.OPERATION_TOOL).attributes[semconv.CANCELLED] is True


class Shelf(BaseRetriever):
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        if query == "?":
            raise ValueError(query)
        return [Document(page_content=f"about {query}", id="1")]


async def test_retrieval_in_a_chain(stage: Any) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Use {context}."), ("human", "{question}")])
    chain = (
        {"context": Shelf(), "question": RunnablePassthrough()} | prompt | stage.model() | StrOutputParser()
    )
    with in_rollout(stage.rollout()):
        assert await chain.ainvoke("cats") == "ok"
    found = stage.one("retrieval")
    assert found.attributes["gen_ai.retrieval.query.text"] == "cats"
    assert "about cats" in found.attributes["gen_ai.retrieval.documents"]
    assert stage.tree() == ["RunnableSequence", "  retrieval Shelf", "  chat own-model"]


def test_a_retrieval_that_fails(stage: Any) -> None:
    with in_rollout(stage.rollout()), pytest.raises(ValueError, match=r"\?"):
        Shelf().invoke("?")
    assert stage.one("retrieval").error == "ValueError: ?"


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output(stage: Any, method: str) -> None:
    joke = {"setup": "s", "punchline": "p"}
    text = '{"setup":"s","punchline":"p"}'
    calls = (ScriptedToolCall(name="Joke", arguments=joke),)
    stage.reply = (
        ScriptedAnswer(tool_calls=calls) if method == "function_calling" else ScriptedAnswer(text=text)
    )
    with in_rollout(stage.rollout()):
        found = stage.model().with_structured_output(Joke, method=method).invoke("joke")
    assert found == Joke(**joke)
    assert stage.tree() == ["RunnableSequence", "  chat own-model"]


def test_a_batch_is_a_chain_for_each_input(stage: Any) -> None:
    chain = ChatPromptTemplate.from_template("{word}") | stage.model()
    with in_rollout(stage.rollout()):
        chain.batch([{"word": word} for word in "abc"])
    chats = [span for span in stage.spans if span.operation == semconv.OPERATION_CHAT]
    assert [stage.path(span) for span in chats] == [["RunnableSequence"]] * 3
    assert len({span.parent_id for span in chats}) == 3


def test_a_thread_without_a_context_gets_its_parent_from_the_configuration(stage: Any) -> None:
    model = stage.model()

    def ask(text: str, config: RunnableConfig) -> str:
        answers: list[str] = []
        thread = threading.Thread(
            target=lambda: answers.append((RunnableLambda(str) | RunnableLambda(shout)).invoke(text, config))
        )
        thread.start()
        thread.join()
        return answers[0]

    def shout(text: str) -> str:
        return model.invoke(text).text.upper()

    with in_rollout(stage.rollout()):
        assert RunnableLambda(ask).invoke("hi") == "OK"
    assert stage.tree() == ["ask", "  str", "  shout", "    chat own-model"]


async def test_sixteen_agents_at_once_have_their_own_spans(stage: Any) -> None:
    stage.llm._script = lambda request: (
        ScriptedAnswer(text="done") if request.json["messages"][-1]["role"] == "tool" else asks_for("sf")
    )
    agent = create_agent(stage.model(), tools=[get_weather], name="weather")

    async def run(number: int) -> None:
        with in_rollout(stage.rollout(str(number))):
            await agent.ainvoke(QUESTION)

    await asyncio.gather(*map(run, range(16)))
    spans, whole = stage.spans, []
    for number in range(16):
        stage.spans = [span for span in spans if span.attempt_id == str(number)]
        whole.append(stage.tree())
    assert whole == [WEATHER] * 16


def test_outside_of_rollouts_there_are_spans_without_content(stage: Any, provider: Any) -> None:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    get_weather.invoke({"city": "sf"})
    Shelf().invoke("cats")
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["execute_tool get_weather", "retrieval Shelf"]
    assert "sf" not in repr([dict(span.attributes) for span in spans])
    assert "cats" not in repr([dict(span.attributes) for span in spans])
