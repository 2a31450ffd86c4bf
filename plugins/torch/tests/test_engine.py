"""Answering chat requests."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentlightning.engine import Backend, LossSpec, OptimizerConfig
from agentlightning.errors import ConfigError, EngineError
from agentlightning.types import Json, TokenForest

Options = dict[str, object]
Demonstration = Callable[[int, int], dict[str, object]]
Planter = Callable[..., TokenForest]
Starter = Callable[..., Awaitable[Backend]]

RATIO = LossSpec(name="ratio", target="losses_of_tests:ratio")


def ask(text: str = "What is 2 + 3?", **more: object) -> dict[str, object]:
    body = {"model": "policy", "messages": [{"role": "user", "content": text}], "max_tokens": 24, "seed": 5}
    return {**body, "logprobs": True, "return_token_ids": True, **more}


def exact(completion: dict) -> list[tuple[list[int], list[float]]]:
    """Ids and log-probabilities of every choice, to the last bit."""
    return [
        (choice["token_ids"], [entry["logprob"] for entry in choice["logprobs"]["content"]])
        for choice in completion["choices"]
    ]


async def collect(backend: Backend, body: Options) -> list[dict]:
    return [chunk async for chunk in backend.engine.stream(body)]


async def test_a_seed_gives_one_answer_whatever_else_is_sampled(start: Starter) -> None:
    backend = await start()
    body = ask(seed=11, max_tokens=90, n=2)  # outgrows pages on its way
    alone = exact(await backend.engine.chat(body))
    crowd = [ask(f"{i} + {i}", seed=i, max_tokens=3 + 2 * i, temperature=0.5 + i / 20) for i in range(40)]
    for place in (0, 7, 20, 39):
        bodies = [*crowd[:place], body, *crowd[place:]]
        answers = await asyncio.gather(*(backend.engine.chat(one) for one in bodies))
        assert exact(answers[place]) == alone
    other = await start()
    assert exact(await other.engine.chat(body)) == alone


async def test_identical_prompts_differ_by_seed_and_by_choice(backend: Backend) -> None:
    answers = await asyncio.gather(*(backend.engine.chat(ask(seed=seed, n=3)) for seed in range(4)))
    ids = [tuple(ids) for answer in answers for ids, _ in exact(answer)]
    assert len(set(ids)) == len(ids)


async def test_requests_without_a_seed_differ(backend: Backend) -> None:
    one, other = [await backend.engine.chat(ask(seed=None)) for _ in range(2)]
    assert exact(one) != exact(other)
    assert one["id"] != other["id"]


async def test_temperature_zero_is_greedy(start: Starter, model_directory: Path) -> None:
    backend = await start(model=str(model_directory))
    answer = await backend.engine.chat(ask(temperature=0))
    model = AutoModelForCausalLM.from_pretrained(model_directory).eval()
    ids = list(answer["prompt_token_ids"])
    for token, entry in zip(
        answer["choices"][0]["token_ids"], answer["choices"][0]["logprobs"]["content"], strict=True
    ):
        with torch.no_grad():
            logprobs_V = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
        assert token == logprobs_V.argmax().item()
        assert entry["logprob"] == pytest.approx(logprobs_V[token].item(), abs=1e-4)
        ids.append(token)
    assert exact(await backend.engine.chat(ask(temperature=1, top_p=1e-9)))[0][0] == ids[-24:]


async def test_log_probabilities_are_those_of_the_scaled_distribution(
    start: Starter, model_directory: Path
) -> None:
    backend = await start(model=str(model_directory))
    answer = await backend.engine.chat(ask(temperature=0.5, max_tokens=1, top_logprobs=3))
    model = AutoModelForCausalLM.from_pretrained(model_directory).eval()
    with torch.no_grad():
        logits_V = model(torch.tensor([answer["prompt_token_ids"]])).logits[0, -1]
    logprobs_V = torch.log_softmax(logits_V / 0.5, -1)
    entry = answer["choices"][0]["logprobs"]["content"][0]
    assert entry["logprob"] == pytest.approx(
        logprobs_V[answer["choices"][0]["token_ids"][0]].item(), abs=1e-4
    )
    top = [alternative["logprob"] for alternative in entry["top_logprobs"]]
    assert top == pytest.approx(logprobs_V.topk(3).values.tolist(), abs=1e-4)


async def test_an_answer_has_the_form_of_the_wire(backend: Backend) -> None:
    answer = await backend.engine.chat(ask(n=2, max_completion_tokens=4, max_tokens=None))
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "policy"
    assert answer["policy_version"] == 0
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert {choice["finish_reason"] for choice in answer["choices"]} <= {"length", "stop"}
    lengths = [len(choice["token_ids"]) for choice in answer["choices"]]
    prompt = len(answer["prompt_token_ids"])
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": sum(lengths),
        "total_tokens": prompt + sum(lengths),
    }
    plain = await backend.engine.chat(ask(logprobs=False, return_token_ids=False))
    assert "prompt_token_ids" not in plain
    assert "token_ids" not in plain["choices"][0]
    assert plain["choices"][0]["logprobs"] is None


async def test_a_stop_string_ends_the_answer_and_is_left_out(backend: Backend) -> None:
    whole = await backend.engine.chat(ask(seed=1))
    text = whole["choices"][0]["message"]["content"]
    stop = text[4:6]
    cut = await backend.engine.chat(ask(seed=1, stop=[stop, "never seen"]))
    assert cut["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"
    ids = cut["choices"][0]["token_ids"]
    assert ids == whole["choices"][0]["token_ids"][: len(ids)]
    assert len(ids) < len(whole["choices"][0]["token_ids"])


@pytest.mark.parametrize("seed", range(12))
async def test_a_stream_says_what_the_whole_answer_says(
    backend: Backend, seed: int, tools: list[Json]
) -> None:
    body = ask(seed=seed, n=2, max_tokens=40, tools=tools, stop=["e"] if seed % 3 == 0 else None)
    whole = await backend.engine.chat(body)
    chunks = await collect(backend, body)
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-1]["policy_version"] == whole["policy_version"]
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}
    for choice in whole["choices"]:
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(part["delta"].get("content", "") for part in parts) == (
            choice["message"]["content"] or ""
        )
        assert [token for part in parts for token in part["token_ids"]] == choice["token_ids"]
        entries = [e for part in parts if part["logprobs"] for e in part["logprobs"]["content"]]
        assert entries == choice["logprobs"]["content"]
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [choice["finish_reason"]]
        calls: dict[int, dict] = {}
        for part in parts:
            for call in part["delta"].get("tool_calls", []):
                known = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                known["id"] = call.get("id", known.get("id"))
                known["name"] += call["function"].get("name", "")
                known["arguments"] += call["function"].get("arguments", "")
        assert list(calls.values()) == [
            {**call["function"], "id": call["id"]} for call in choice["message"].get("tool_calls", [])
        ]


async def test_chunks_arrive_while_tokens_are_sampled(start: Starter) -> None:
    backend = await start(batch=1)
    stream = backend.engine.stream(ask(max_tokens=100))
    first = await anext(stream)
    rest = [chunk async for chunk in stream]
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert len(rest) > 20


async def test_the_next_turn_reuses_the_sampled_tokens(backend: Backend, tools: list[Json]) -> None:
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": "What is 2 + 3?"}]
    for turn in range(3):
        body = ask(messages=messages, tools=tools, seed=turn, max_tokens=12)
        answer = await backend.engine.chat(body)
        choice = answer["choices"][0]
        exact_turn = [*answer["prompt_token_ids"], *choice["token_ids"]]
        messages = [*messages, choice["message"], {"role": "user", "content": "And now?"}]
        following = await backend.engine.chat(ask(messages=messages, tools=tools, max_tokens=1))
        assert following["prompt_token_ids"][: len(exact_turn)] == exact_turn


@pytest.mark.parametrize(
    "option",
    [
        {"presence_penalty": 0.5},
        {"logit_bias": {"7": 1}},
        {"top_k": 5},
        {"response_format": {"type": "json_object"}},
        {"tool_choice": "required"},
        {"parallel_tool_calls": False},
    ],
)
async def test_a_knob_that_cannot_be_honoured_is_refused(backend: Backend, option: Options) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        await backend.engine.chat(ask(**option))


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"n": 0},
        {"max_tokens": 0},
        {"temperature": "hot"},
        {"stop": [""]},
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"tools": [{"type": "retrieval"}]},
    ],
)
async def test_a_wrong_value_is_refused(backend: Backend, option: Options) -> None:
    with pytest.raises(ConfigError):
        await backend.engine.chat(ask(**option))


async def test_neutral_knobs_and_metadata_are_let_through(backend: Backend) -> None:
    body = ask(
        presence_penalty=0, top_k=-1, user="me", metadata={"a": "b"}, store=False, response_format=None
    )
    assert exact(await backend.engine.chat(body)) == exact(await backend.engine.chat(ask()))


async def test_a_prompt_that_is_too_long_is_refused_with_its_length(backend: Backend) -> None:
    with pytest.raises(ConfigError, match=r"the prompt has \d{3,} tokens and the model's context is 160"):
        await backend.engine.chat(ask("1 + 1 " * 200))


async def test_an_answer_ends_where_the_context_ends(backend: Backend) -> None:
    answer = await backend.engine.chat(ask(max_tokens=10_000, seed=3))
    assert answer["usage"]["total_tokens"] <= 160


async def test_a_cancelled_request_frees_its_place(start: Starter) -> None:
    backend = await start(max_active=1, batch=1)
    stream = backend.engine.stream(ask(max_tokens=150))
    await anext(stream)
    waiting = [asyncio.create_task(backend.engine.chat(ask(seed=i, max_tokens=150))) for i in range(50)]
    await anext(stream)
    await stream.aclose()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    answer = await asyncio.wait_for(backend.engine.chat(ask(max_tokens=2)), timeout=5)
    assert len(answer["choices"][0]["token_ids"]) == 2


async def test_stopping_cancels_what_is_under_way(start: Starter) -> None:
    backend = await start()
    task = asyncio.create_task(backend.engine.chat(ask(max_tokens=150, n=100)))
    stream = backend.engine.stream(ask(max_tokens=150))
    await anext(stream)
    await anext(stream)
    await backend.engine.stop()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(EngineError, match=r"await engine\.start"):
        await backend.engine.chat(ask())


async def test_loops_of_several_threads_are_served(backend: Backend) -> None:
    expected = exact(await backend.engine.chat(ask()))
    found = []

    def serve() -> None:
        found.append(exact(asyncio.run(backend.engine.chat(ask()))))

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert found == [expected] * 4


async def test_answers_follow_the_weights(start: Starter, plant: Planter) -> None:
    backend = await start()
    before = await backend.engine.chat(ask())
    await backend.learner.forward_backward(plant([([7, 8], [9, 10])]), RATIO)
    await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2))
    after = await backend.engine.chat(ask())
    assert (before["policy_version"], after["policy_version"]) == (0, 1)
    assert exact(before) != exact(after)
    fresh = await start()  # an engine that never answered before has nothing stale
    await fresh.learner.forward_backward(plant([([7, 8], [9, 10])]), RATIO)
    await fresh.learner.optim_step(OptimizerConfig(learning_rate=1e-2))
    assert exact(await fresh.engine.chat(ask())) == exact(after)


async def test_an_answer_that_spans_an_update_says_so(start: Starter, plant: Planter) -> None:
    backend = await start()
    stream = backend.engine.stream(ask(max_tokens=150, temperature=5.0))
    chunks = [await anext(stream) for _ in range(3)]
    await backend.learner.optim_step(OptimizerConfig())
    chunks += [chunk async for chunk in stream]
    assert chunks[-1]["policy_version"] == 0
    assert chunks[-1]["policy_versions"] == [0, 1]


async def test_tokenising_agrees_with_what_was_prompted_and_sampled(
    backend: Backend, demonstration: Demonstration
) -> None:
    record = demonstration(12, 34)
    tokenized = await backend.learner.tokenize(record["messages"], tools=record["tools"])
    assistant = [index for index, message in enumerate(record["messages"]) if message["role"] == "assistant"]
    place = 0
    for index in assistant:
        body = ask(messages=record["messages"][:index], tools=record["tools"], max_tokens=1)
        prompt = (await backend.engine.chat(body))["prompt_token_ids"]
        assert tokenized.token_ids[: len(prompt)] == prompt
        assert not any(tokenized.assistant_mask[place : len(prompt)])
        place = len(prompt)
        while place < len(tokenized.token_ids) and tokenized.assistant_mask[place]:
            place += 1
        assert tokenized.token_ids[place - 1] == tokenized.token_ids[-1]  # the end-of-turn token is trained
    assert place == len(tokenized.token_ids)


async def test_a_model_that_learned_a_tool_call_makes_it_on_the_wire(
    start: Starter, plant: Planter, demonstration: Demonstration
) -> None:
    backend = await start()
    record = demonstration(12, 34)
    tokenized = await backend.learner.tokenize(record["messages"], tools=record["tools"])
    start_of_answer = tokenized.assistant_mask.index(True)
    end_of_answer = tokenized.assistant_mask.index(False, start_of_answer)
    ids = tokenized.token_ids
    forest = plant([(ids[:start_of_answer], ids[start_of_answer:end_of_answer])])
    for _ in range(80):
        loss = LossSpec(name="cross_entropy", target="losses_of_tests:cross_entropy")
        await backend.learner.forward_backward(forest, loss)
        await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2))
    body = ask(messages=record["messages"][:2], tools=record["tools"], temperature=0, max_tokens=60)
    choice = (await backend.engine.chat(body))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["token_ids"] == ids[start_of_answer:end_of_answer]
    function = choice["message"]["tool_calls"][0]["function"]
    assert function == {"name": "add", "arguments": '{"a": 12, "b": 34}'}
    assert json.loads(function["arguments"]) == {"a": 12, "b": 34}
