"""Stage `normalise`: adds what dialects say, takes nothing away, and survives whatever is sent."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.pipeline import Stage
from agentlightning.pipeline._normalise import Normalise
from agentlightning.pipeline.dialects import chat_messages, chat_tools
from agentlightning.testing import EpisodeBuilder, StageContract
from agentlightning.types import Experience, Json, Span, SpanSource, SpanStatus

OTHER, CHAT = semconv.OPERATION_OTHER, semconv.OPERATION_CHAT
OTLP = SpanSource.OTLP


class TestNormalise(StageContract):
    def create(self, params: Mapping[str, Json]) -> Stage:
        return Normalise(params)


def normalised(*builders: EpisodeBuilder) -> tuple[Span, ...]:
    (episode,) = Normalise({})(Experience(episodes=tuple(one.build() for one in builders))).episodes
    return episode.spans


def said(attributes: dict[str, Json], *, operation: str = OTHER, status: SpanStatus = SpanStatus.OK) -> Span:
    build = EpisodeBuilder()
    build.span(operation, source=OTLP, status=status, attributes=attributes)
    (span,) = normalised(build)
    return span


FOREIGN_KEYS = [
    "openinference.span.kind",
    "llm.input_messages.0.message.role",
    "llm.input_messages.0.message.content",
    "llm.input_messages.7.message.tool_calls.3.tool_call.function.name",
    "llm.output_messages.999999999999999999.message.contents.1.message_content.text",
    "llm.output_messages.9999999999999999999999.message.content",
    "llm.invocation_parameters",
    "llm.tools.0.tool.json_schema",
    "llm.prompts.0.prompt.text",
    "llm.token_count.prompt",
    "input.value",
    "output.value",
    "metadata",
    "retrieval.documents.0.document.content",
    "traceloop.span.kind",
    "traceloop.entity.name",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "gen_ai.prompt.0.role",
    "gen_ai.prompt.0.content",
    "gen_ai.prompt.999999999.content",
    "gen_ai.completion.0.tool_calls.0.name",
    "gen_ai.completion.0.finish_reason",
    "gen_ai.completion.x.content",
    "llm.request.type",
    "llm.request.functions.0.parameters",
    "gen_ai.request.functions.0.name",
    "agentops.span.kind",
    "agentops.tool.input",
    "operation.name",
    "tool.name",
    "tool.call.id",
    "tool.call.type",
    "gen_ai.system",
    "gen_ai.usage.prompt_tokens",
    semconv.EVENTS,
    semconv.INPUT_MESSAGES,
    semconv.AGENT_NAME,
    semconv.MESSAGE,
    "unknown",
]
WORDS = st.sampled_from(
    [
        *(
            "LLM",
            "TOOL",
            "AGENT",
            "RETRIEVER",
            "tool",
            "agent",
            "chat",
            "completion",
            "user",
            "",
            "7",
            "[",
            "{}",
        ),
        *('[{"type": "text", "text": "a"}]', '{"messages": [{"role": "user", "content": [1]}]}', "[" * 5_000),
        *(
            '{"data": {"tool_call_id": 3}}',
            '{"generations": [[{"message": {"kwargs": 1}}]], "object": "response"}',
        ),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["role", "parts", "name", "attributes", "content"]), inner, max_size=3
        )
    ),
    max_leaves=4,
)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(
                ["gen_ai.user.message", "gen_ai.choice", "gen_ai.content.prompt", "exception", "other"]
            ),
            "attributes": st.dictionaries(
                st.sampled_from(["content", "message", "gen_ai.prompt"]), VALUES, max_size=2
            ),
        }
    ),
    max_size=3,
)


@st.composite
def builders(draw: st.DrawFn) -> EpisodeBuilder:
    build = EpisodeBuilder()
    for number in range(draw(st.integers(1, 4))):
        attributes = draw(st.dictionaries(st.sampled_from(FOREIGN_KEYS), VALUES, max_size=8))
        if draw(st.booleans()):
            attributes[semconv.EVENTS] = draw(EVENTS)
        build.span(
            draw(st.sampled_from([OTHER, CHAT, semconv.OPERATION_MESSAGE, "generate_content"])),
            name=draw(st.sampled_from(["gen_ai.user.message", "gen_ai.choice", "chat"])),
            source=draw(st.sampled_from(SpanSource)),
            parent=draw(st.sampled_from([None, *(f"{place:016x}" for place in range(1, number + 2))])),
            status=draw(st.sampled_from(SpanStatus)),
            attributes=attributes,
        )
    return build


@settings(max_examples=250, deadline=None)
@given(builders())
def test_only_foreign_spans_change_nothing_is_lost_and_once_is_enough(build: EpisodeBuilder) -> None:
    given = Experience(episodes=(build.build(),))
    before = copy.deepcopy(given)
    done = Normalise({})(given)
    assert given == before
    assert Normalise({})(done) == done
    for old, new in zip(given.episodes[0].spans, done.episodes[0].spans, strict=True):
        if old.source not in {SpanSource.ADAPTER, OTLP}:
            assert new is old
        assert {key: new.attributes[key] for key in old.attributes} == old.attributes
        kept = (
            "span_id",
            "parent_id",
            "name",
            "source",
            "start_ns",
            "end_ns",
            "status",
            "tokens",
            "sequence",
        )
        assert [getattr(new, name) for name in kept] == [getattr(old, name) for name in kept]
        assert old.operation in {OTHER, "generate_content", new.operation}
        chat_messages(new.attributes.get(semconv.INPUT_MESSAGES))
        chat_messages(new.attributes.get(semconv.OUTPUT_MESSAGES))
        chat_tools(new.attributes.get(semconv.TOOL_DEFINITIONS))
    msgspec.msgpack.encode(done.episodes)


def test_spans_of_our_own_stay_the_same_objects() -> None:
    build = EpisodeBuilder()
    build.call([1], [2])
    build.span(CHAT, source=SpanSource.ADAPTER, attributes={semconv.REQUEST_MODEL: "m"})
    episode = build.build()
    assert Normalise({})(Experience(episodes=(episode,))).episodes[0] is episode


def test_a_number_that_is_huge_makes_no_list_of_that_length() -> None:
    span = said(
        {
            "llm.request.type": "chat",
            "gen_ai.prompt.999999999.content": "last",
            "gen_ai.prompt.3.content": "first",
            "gen_ai.completion.0.tool_calls.999999999.name": "add",
            f"gen_ai.prompt.{'9' * 5_000}.content": "beyond",
        }
    )
    assert chat_messages(span.attributes[semconv.INPUT_MESSAGES]) == [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "last"},
    ]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, '{"messages": 1}', "{"])
def test_json_text_that_is_too_deep_or_none_stays_text(text: str) -> None:
    span = said(
        {"openinference.span.kind": "LLM", "input.value": text, "output.value": text, "metadata": text}
    )
    assert span.operation == CHAT
    assert span.attributes["input.value"] == text


def test_what_a_span_says_in_our_words_is_believed() -> None:
    span = said(
        {"traceloop.span.kind": "agent", "traceloop.entity.name": "theirs", semconv.AGENT_NAME: "ours"},
        operation=semconv.OPERATION_TOOL,
    )
    assert (span.operation, span.attributes[semconv.AGENT_NAME]) == (semconv.OPERATION_TOOL, "ours")


def test_an_operation_that_is_replaced_is_kept_among_the_attributes() -> None:
    span = said({"gen_ai.system": "gemini"}, operation="generate_content")
    assert (span.operation, span.attributes[semconv.OPERATION]) == (CHAT, "generate_content")


def test_messages_of_earlier_releases_come_from_events() -> None:
    prompt = json.dumps([{"role": "user", "content": "hi"}])
    answer = json.dumps([{"role": "assistant", "content": "hello"}])
    events: Json = [
        {"name": "gen_ai.content.prompt", "attributes": {"gen_ai.prompt": prompt}},
        {"name": "gen_ai.content.completion", "attributes": {"gen_ai.completion": answer}},
    ]
    span = said({"gen_ai.system": "OpenAI", semconv.EVENTS: events}, operation=CHAT)
    assert span.attributes[semconv.PROVIDER] == "openai"
    assert chat_messages(span.attributes[semconv.INPUT_MESSAGES]) == [{"role": "user", "content": "hi"}]
    assert chat_messages(span.attributes[semconv.OUTPUT_MESSAGES]) == [
        {"role": "assistant", "content": "hello"}
    ]


def test_the_details_of_an_inference_come_from_its_event() -> None:
    messages: Json = [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
    details: Json = [
        {
            "name": "gen_ai.client.inference.operation.details",
            "attributes": {semconv.INPUT_MESSAGES: json.dumps(messages), semconv.REQUEST_MODEL: "m"},
        }
    ]
    span = said({semconv.EVENTS: details}, operation=CHAT)
    assert span.attributes[semconv.INPUT_MESSAGES] == messages
    assert span.attributes[semconv.REQUEST_MODEL] == "m"


def test_an_exception_says_what_went_wrong() -> None:
    events: Json = [
        {"name": "exception", "attributes": {"exception.type": "ValueError", "exception.message": "no"}}
    ]
    span = said({semconv.EVENTS: events}, status=SpanStatus.ERROR)
    assert (span.error, span.attributes[semconv.ERROR_TYPE]) == ("no", "ValueError")


def test_several_tool_results_in_one_message_become_one_message_each() -> None:
    parts: Json = [
        {"type": "tool_call_response", "id": "1", "response": "a"},
        {"type": "tool_call_response", "id": "2", "response": {"b": 1}},
        {"type": "text", "content": "and?"},
    ]
    assert chat_messages([{"role": "user", "parts": parts}]) == [
        {"role": "tool", "tool_call_id": "1", "content": "a"},
        {"role": "tool", "tool_call_id": "2", "content": '{"b":1}'},
        {"role": "user", "content": "and?"},
    ]


def test_the_items_of_a_response_are_one_answer_and_choices_are_several() -> None:
    told: dict[str, Json] = {"openinference.span.kind": "LLM"}
    for place, text in enumerate(("a", "b")):
        told[f"llm.output_messages.{place}.message.role"] = "assistant"
        told[f"llm.output_messages.{place}.message.content"] = text
    choices = said(told)
    items = said({**told, "output.value": '{"object": "response"}'})
    assert chat_messages(choices.attributes[semconv.OUTPUT_MESSAGES]) == [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    assert chat_messages(items.attributes[semconv.OUTPUT_MESSAGES]) == [
        {"role": "assistant", "content": "ab"}
    ]


def test_images_stay_blocks() -> None:
    span = said(
        {
            "openinference.span.kind": "LLM",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.contents.0.message_content.type": "text",
            "llm.input_messages.0.message.contents.0.message_content.text": "what?",
            "llm.input_messages.0.message.contents.1.message_content.image.image.url": "data:x",
        }
    )
    (message,) = chat_messages(span.attributes[semconv.INPUT_MESSAGES])
    assert message["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:x"}},
    ]
