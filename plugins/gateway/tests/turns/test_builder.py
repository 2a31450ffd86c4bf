"""Calls of a toy model through a builder of turns."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.errors import ConfigError
from agentlightning.types import Json
from lightning_plugin_gateway.turns import TurnBuilder

Talk = Any
Start = Callable[..., Talk]
IDS = "prompt_token_ids"
TOOLS: list[Json] = [{"type": "function", "function": {"name": "a"}}]
some = settings(max_examples=80, deadline=None, derandomize=True)
written = st.text(alphabet="abc ?", max_size=12)


async def test_the_next_prompt_begins_with_the_ids_that_were_sampled(start: Start) -> None:
    talk = start()
    _, labels = await talk.ask("a", answer="abc")
    assert labels == {"agl.turn": "first"}
    before = talk.exact
    prepared, labels = await talk.ask("bc")
    assert prepared.request[IDS][: len(before)] == before
    assert labels == {"agl.turn": "spliced", "agl.turn.common": len(before)}
    plain = await talk.renderer.render(prepared.request["messages"], [], add_generation_prompt=True)
    assert len(prepared.request[IDS]) == len(plain) + 2  # `abc` is one token, and was sampled as three
    assert await talk.renderer.decode(prepared.request[IDS]) == await talk.renderer.decode(plain)


async def test_a_turn_that_tokenises_as_it_was_sampled_is_exact(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="c")
    before = talk.exact
    _, labels = await talk.ask("b")
    assert labels == {"agl.turn": "exact", "agl.turn.common": len(before)}


async def test_an_answer_that_was_cut_off_is_ended_by_the_template(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="ab", finish="length")
    before = talk.exact
    prepared, labels = await talk.ask("b")
    assert labels["agl.turn"] == "spliced"
    assert prepared.request[IDS][: len(before)] == before
    assert (await talk.renderer.decode(prepared.request[IDS])).count("<end>\n") == 3


async def test_a_stop_string_that_was_cut_off_the_text_is_labelled(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="ab", ids=talk.letters("abc?"), finish="length")
    prepared, labels = await talk.ask("b")
    assert IDS not in prepared.request
    assert labels["agl.turn"] == "template"


async def test_arguments_of_tool_calls_may_be_spelled_anew_by_the_client(start: Start) -> None:
    talk = start(tools=True)
    talk.messages.append({"role": "user", "content": "a"})
    await talk.use(said='{"a":  "b"}')
    before = talk.exact
    function = talk.messages[-2]["tool_calls"][0]["function"]
    function["arguments"] = json.dumps(json.loads(function["arguments"]))
    prepared, labels = await talk.use(said='{"b":"c"}')
    assert labels == {"agl.turn": "spliced", "agl.turn.common": len(before)}
    assert prepared.request[IDS][: len(before)] == before


async def test_a_template_that_drops_reasoning_is_labelled_and_left_alone(start: Start) -> None:
    talk = start(strip_reasoning=True)
    await talk.ask("a", answer="abc?b")
    prepared, labels = await talk.ask("b")
    assert IDS not in prepared.request
    assert labels["agl.turn"] == "template"


async def test_reasoning_that_the_client_never_saw_is_labelled_and_left_alone(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="b", ids=talk.letters("aa?b"))
    prepared, labels = await talk.ask("b")
    assert IDS not in prepared.request
    assert labels["agl.turn"] == "template"


@pytest.mark.parametrize(
    "edit",
    [
        lambda messages: messages[1].update(content="cba"),
        lambda messages: messages.pop(0),
        lambda messages: messages[0].update(content="c"),
    ],
    ids=["answer", "trimmed", "question"],
)
async def test_history_that_the_client_has_changed_is_labelled(
    start: Start, edit: Callable[[list[dict[str, Json]]], None]
) -> None:
    talk = start()
    await talk.ask("a", answer="b?a")
    edit(talk.messages)
    prepared, labels = await talk.ask("b")
    assert IDS not in prepared.request
    assert labels["agl.turn"] == "rewritten"
    assert labels["agl.turn.common"] < len(talk.exact)


async def test_a_later_answer_that_was_changed_leaves_the_earlier_turn_exact(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="abc")
    before = talk.exact
    await talk.ask("b", answer="bc")
    talk.messages[-1]["content"] = "c"
    prepared, labels = await talk.ask("c")
    assert prepared.request[IDS][: len(before)] == before
    assert labels == {"agl.turn": "rewritten", "agl.turn.common": len(before)}


@pytest.mark.parametrize(
    "change",
    [
        {"tools": [{"type": "function", "function": {"name": "other"}}]},
        {"reasoning_effort": "high"},
    ],
)
async def test_another_frame_is_another_conversation(start: Start, change: dict[str, Json]) -> None:
    talk = start()
    await talk.ask("a", answer="b?a")
    request = {"messages": [*talk.messages, {"role": "user", "content": "b"}], **change}
    prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
    assert prepared.turn is None
    assert prepared.rewritten


async def test_other_attempts_and_other_models_have_turns_of_their_own(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="abc")
    request = {"messages": [*talk.messages, {"role": "user", "content": "b"}]}
    for attempt, model in (("other", "toy"), ("attempt", "another")):
        prepared = await talk.turns.prepare(request, attempt_id=attempt, model=model)
        assert prepared.turn is None
    assert (await talk.turns.prepare(request, attempt_id="attempt", model="toy")).turn


async def test_branches_continue_the_turn_that_they_branch_from(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="abc")
    root, messages = talk.exact, list(talk.messages)
    await talk.ask("b", answer="abc")
    talk.messages = messages
    prepared, labels = await talk.ask("c")
    assert prepared.request[IDS][: len(root)] == root
    assert labels == {"agl.turn": "spliced", "agl.turn.common": len(root)}


async def test_messages_that_say_the_same_are_the_same(start: Start) -> None:
    talk = start(tools=True)
    talk.messages.append({"role": "user", "content": "a"})
    await talk.use(said='{"a":"b"}')
    asked, called, told = talk.messages
    assert called["content"] is None
    spelled = [
        {**asked, "content": [{"type": "text", "text": "a"}]},
        {**called, "content": "", "refusal": None, "annotations": [], "audio": None},
        {**told, "name": None},
    ]
    for messages in (talk.messages, spelled):
        request = {"messages": messages, "tools": talk.tools, "tool_choice": "auto"}
        assert (await talk.turns.prepare(request, attempt_id="attempt", model="toy")).turn
    no_arguments = {**called["tool_calls"][0], "function": {"name": "a", "arguments": ""}}
    for message in ({**called, "content": "b"}, {**called, "tool_calls": [no_arguments]}):
        request["messages"] = [asked, message, told]
        assert not (await talk.turns.prepare(request, attempt_id="attempt", model="toy")).turn
    talk.messages = [asked]
    await talk.use(said="{}")
    request["messages"] = [
        asked,
        {**talk.messages[1], "tool_calls": [{**no_arguments, "id": "call_2"}]},
        told,
    ]
    assert (await talk.turns.prepare(request, attempt_id="attempt", model="toy")).turn
    request["messages"] = [asked, {**called, "content": "b"}, told]
    assert not (await talk.turns.prepare(request, attempt_id="attempt", model="toy")).turn


async def test_a_request_that_brings_its_ids_keeps_them(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="abc")
    request = {"messages": [*talk.messages, {"role": "user", "content": "b"}], IDS: [1, 2, 3]}
    prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
    assert prepared.request == request


async def test_a_conversation_with_an_image_is_not_spliced(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    talk = start()
    await talk.ask("a", answer="abc")
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    request = {"messages": [*talk.messages, {"role": "user", "content": [image]}]}
    prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
    assert prepared.turn
    assert IDS not in prepared.request
    assert not caplog.records  # nobody was asked to render it


async def test_tools_that_may_not_be_called_are_not_rendered(start: Start) -> None:
    talk = start()
    request: dict[str, Json] = {
        "messages": [{"role": "user", "content": "a"}],
        "tools": TOOLS,
        "tool_choice": "none",
    }
    prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
    prompt = await talk.renderer.render(request["messages"], [], add_generation_prompt=True)
    answer = {"role": "assistant", "content": "b"}
    talk.turns.observe(
        prepared, {"choices": [{"message": answer}]}, tokens=[talk.record(prompt, talk.letters("b"))]
    )
    request["messages"] = [*request["messages"], answer, {"role": "user", "content": "c"}]
    prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
    plain = await talk.renderer.render(request["messages"], [], add_generation_prompt=True)
    assert prepared.request[IDS] == plain


async def test_a_long_conversation_does_not_drive_out_another(start: Start) -> None:
    talk = start()
    await talk.ask("a", answer="abc")
    other = {"messages": [*talk.messages, {"role": "user", "content": "b"}]}
    answer = {"role": "assistant", "content": "b"}
    turns, messages, ids = TurnBuilder({}), [{"role": "user", "content": "c"}], [1]
    for request in (other, *[{"messages": messages}] * 300):
        prepared = await turns.prepare(request, attempt_id="attempt", model="toy")
        turns.observe(prepared, {"choices": [{"message": answer}]}, tokens=[talk.record(ids, [2])])
        if request is not other:
            messages += [answer, {"role": "user", "content": "c"}]
            ids += [2, 3]
    request = {"messages": [*other["messages"], answer]}
    assert (await turns.prepare(request, attempt_id="attempt", model="toy")).turn


async def test_every_choice_can_be_continued(start: Start) -> None:
    talk = start()
    request: dict[str, Json] = {"messages": [{"role": "user", "content": "a"}]}
    prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
    choices = [{"message": {"role": "assistant", "content": text}} for text in ("ab", "bc")]
    records = [talk.record([1, 2], talk.letters(text)) for text in ("ab", "bc")]
    talk.turns.observe(prepared, {"choices": choices}, tokens=records)
    for choice in choices:
        following = {"messages": [*request["messages"], choice["message"], {"role": "user", "content": "c"}]}
        assert (await talk.turns.prepare(following, attempt_id="attempt", model="toy")).turn


async def test_an_incomplete_call_is_not_continued(start: Start) -> None:
    talk = start()
    request: dict[str, Json] = {"messages": [{"role": "user", "content": "a"}]}
    prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
    answer = {"role": "assistant", "content": "b"}
    broken = talk.record([1], []).__class__(incomplete="no ids")
    labels = talk.turns.observe(prepared, {"choices": [{"message": answer}]}, tokens=[broken])
    assert labels == {"agl.turn": "first"}
    following = {"messages": [*request["messages"], answer, {"role": "user", "content": "c"}]}
    assert (await talk.turns.prepare(following, attempt_id="attempt", model="toy")).turn is None


async def test_attempts_of_which_nothing_is_remembered_take_no_memory(start: Start) -> None:
    def memories() -> int:
        gc.collect()
        return sum(type(found).__name__ == "TurnMemory" for found in gc.get_objects())

    talk, before = start(), memories()
    request: dict[str, Json] = {"messages": [{"role": "user", "content": "a"}]}
    broken = talk.record([1], []).__class__(incomplete="no ids")
    for number in range(50):
        prepared = await talk.turns.prepare(request, attempt_id=f"attempt {number}", model="toy")
        answered = {"choices": [{"message": {"role": "assistant", "content": "b"}}]}
        talk.turns.observe(prepared, answered, tokens=[broken])
    assert memories() <= before


@pytest.mark.parametrize("error", [ConfigError("no such role"), RuntimeError("a bug")])
async def test_an_engine_that_cannot_render_is_asked_as_ever(
    start: Start, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    talk = start()
    await talk.ask("a", answer="abc")
    talk.renderer.broken = error
    request = {"messages": [*talk.messages, {"role": "user", "content": "b"}]}
    prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
    assert prepared.turn
    assert IDS not in prepared.request
    assert bool(caplog.records) == isinstance(error, RuntimeError)


async def test_memory_is_bounded_over_attempts_and_freed_with_them(start: Start) -> None:
    talk = start()
    talk.turns = TurnBuilder({"toy": talk.renderer}, max_bytes=20_000)
    for number in range(200):
        talk.attempt_id, talk.messages = f"attempt {number}", []
        await talk.ask("a" * (number % 40))
        await talk.ask("b")
        assert 0 < talk.turns.size <= 20_000
    assert talk.turns.size > 10_000
    for number in range(200):
        talk.turns.forget(f"attempt {number}")
    assert talk.turns.size == 0


@pytest.mark.parametrize(
    ("answer", "sampled", "label"),
    [("abc", "abc", "retokenisation"), ("c", "c", "exact"), ("c", "ab?c", "retokenisation")],
    ids=["other tokens", "same tokens", "reasoning, for all one can tell"],
)
async def test_turns_of_an_upstream_that_takes_no_ids_are_compared(
    watch: Start, answer: str, sampled: str, label: str
) -> None:
    talk = watch()
    await talk.ask("a", answer=answer, ids=talk.letters(sampled))
    before = talk.exact
    prepared, labels = await talk.ask("b")
    assert IDS not in prepared.request
    assert labels["agl.turn"] == label
    assert (labels["agl.turn.common"] == len(before)) == (label == "exact")


async def test_another_end_of_turn_or_another_prompt_is_the_templates_doing(watch: Start) -> None:
    talk = watch()
    await talk.ask("a", answer="c")
    talk.messages[-1]["content"] = "c"
    for prompt in ([*talk.exact[:-1], 0], [*talk.exact[:2], 0, *talk.exact[3:]]):
        request = {"messages": [*talk.messages, {"role": "user", "content": "b"}]}
        prepared = await talk.turns.prepare(request, attempt_id="attempt", model="toy")
        completion = {"choices": [{"message": {"role": "assistant", "content": "b"}}]}
        labels = talk.turns.observe(prepared, completion, tokens=[talk.record(prompt, [1])])
        assert labels["agl.turn"] == "template"


@some
@given(data=st.data())
async def test_a_prompt_keeps_what_was_sampled_and_says_what_the_template_says(
    start: Start, data: st.DataObject
) -> None:
    talk = start()
    for _ in range(data.draw(st.integers(2, 5))):
        before = getattr(talk, "exact", [])
        answer = data.draw(written)
        ids = data.draw(talk.tokenisations(answer))
        finish = data.draw(st.sampled_from(["stop", "length"]))
        prepared, labels = await talk.ask(data.draw(written), answer=answer, ids=ids, finish=finish)
        if not before:
            assert labels == {"agl.turn": "first"}
            continue
        prompt = prepared.request[IDS]
        plain = await talk.renderer.render(prepared.request["messages"], [], add_generation_prompt=True)
        assert prompt[: len(before)] == before
        assert await talk.renderer.decode(prompt) == await talk.renderer.decode(plain)
        assert labels["agl.turn"] == ("exact" if prompt == plain else "spliced")


@some
@given(data=st.data())
async def test_tokens_that_reach_over_the_border_of_turns_never_change_the_text(
    start: Start, data: st.DataObject
) -> None:
    talk = start(border=False)
    for _ in range(data.draw(st.integers(2, 5))):
        before = getattr(talk, "exact", [])
        answer = data.draw(written)
        ids = data.draw(talk.tokenisations(answer))
        prepared, labels = await talk.ask(data.draw(written), answer=answer, ids=ids, finish="length")
        plain = await talk.renderer.render(prepared.request["messages"], [], add_generation_prompt=True)
        prompt = prepared.request.get(IDS, plain)
        assert await talk.renderer.decode(prompt) == await talk.renderer.decode(plain)
        kept = prompt[: len(before)] == before
        assert labels["agl.turn"] in (("first", "exact", "spliced") if kept else ("retokenisation",))
