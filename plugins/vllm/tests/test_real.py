"""A real vLLM on this machine: `nox -s vllm` installs it, and says by `AGL_VLLM_PYTHON` where it is."""

from __future__ import annotations

import asyncio
import os
import sys
import types
from array import array
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.engine import Backend, LossSpec, OptimizerConfig
from agentlightning.store import SpanQuery, open_store
from agentlightning.types import Span, TokenForest, TokenTree, unpack_floats, unpack_ints
from lightning_plugin_vllm import create_backend

PYTHON = os.environ.get("AGL_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PYTHON, reason="needs vLLM: nox -s vllm"),
]

TASKS = ["Greet Ada", "Greet Alan", "Greet Grace", "Greet Kurt"]
STEPS = {"updates": 3, "tasks_per_update": 4, "group_size": 4, "learning_rate": 0.02}
EXACT = 1e-4
"""Largest difference of float32 log-probabilities between vLLM and the learner."""
LOSS = LossSpec(name="likelihood", target="losses_of_real_tests:likelihood")


def engine_params(corpus: Path, **options: object) -> dict[str, Any]:
    # a size per head that vLLM's attention has on CPU
    build = {"corpus": str(corpus), "layers": 2, "width": 128, "heads": 2, "vocabulary": 320, "context": 256}
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    return {
        "build": build,
        "dtype": "float32",
        "tolerance": EXACT,
        "python": PYTHON,
        "arguments": ["--enforce-eager"],
        "environment": environment,
        **options,
    }


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Greet Ada"}]}\n')
    return path


async def greet(task: str) -> float:
    from openai import AsyncOpenAI

    messages: Any = [{"role": "user", "content": task}]
    async with AsyncOpenAI() as client:
        chat = await client.chat.completions.create(model="any", messages=messages, max_tokens=6)
    said = chat.choices[0].message.content or ""
    return sum(character.isalpha() for character in said) / max(len(said), 1)


async def train(
    tmp_path: Path, corpus: Path, *, params: dict[str, object] | None = None, **options: object
) -> tuple[agl.TrainingResult, list[Span]]:
    trainer = agl.Trainer(
        greet,
        algorithm="lightningrl",
        params=STEPS | (params or {}),
        train=TASKS,
        store=f"sqlite:///{tmp_path / 'run.db'}",
        engine="vllm",
        engine_params=engine_params(corpus, **options),
    )
    result = await trainer.afit()
    async with open_store(result.store) as store:
        page = await store.spans.page(SpanQuery(), limit=1_000)
    return result, [span for span in page.items if span.tokens]


def assert_all_is_captured(spans: Sequence[Span]) -> None:
    assert len(spans) == STEPS["updates"] * STEPS["tasks_per_update"] * STEPS["group_size"]
    for span in spans:
        (record,) = span.tokens
        assert not record.incomplete
        assert len(unpack_ints(record.prompt)) > 4
        assert 1 <= len(unpack_ints(record.response)) <= 6
        assert len(unpack_floats(record.logprobs)) == len(unpack_ints(record.response))
    per_version = STEPS["tasks_per_update"] * STEPS["group_size"]
    versions = [record.version for span in spans for record in span.tokens]
    assert {version: versions.count(version) for version in versions} == dict.fromkeys(range(3), per_version)


def assert_learner_and_sampler_agree(result: agl.TrainingResult) -> None:
    """Fresh answers are as likely to the learner as they were to the sampler, by the metrics of each update."""
    found = {(point.name, point.step): point.value for point in result.history}
    for step in range(STEPS["updates"]):
        assert found["version", step] == step
        assert found["ratio", step] == pytest.approx(1.0, abs=EXACT)
        assert found["kl", step] == pytest.approx(0.0, abs=EXACT)
        assert found["masked_share", step] == 0.0
        assert found["grad_norm", step] > 0


async def test_adapters_are_trained_through_the_gateway(tmp_path: Path, corpus: Path) -> None:
    result, spans = await train(tmp_path, corpus, learner={"lora": {"rank": 8}})
    assert_all_is_captured(spans)
    assert_learner_and_sampler_agree(result)


async def test_whole_weights_are_trained_through_the_gateway(tmp_path: Path, corpus: Path) -> None:
    result, spans = await train(tmp_path, corpus, update="in-place")
    assert_all_is_captured(spans)
    assert_learner_and_sampler_agree(result)


async def test_a_critic_is_trained_beside_servers_that_know_nothing_of_it(
    tmp_path: Path, corpus: Path
) -> None:
    advantage = {"name": "token_gae", "value_learning_rate": 1e-2}
    result, spans = await train(
        tmp_path,
        corpus,
        params={"advantage": advantage, "kl": {"coefficient": 0.01}},
        learner={"lora": {"rank": 8}, "value_head": {"attached": True}},
    )
    assert_all_is_captured(spans)
    assert_learner_and_sampler_agree(result)
    found = {(point.name, point.step): point.value for point in result.history}
    assert found["critic/values/max", 0] == 0.0  # a head of zeros
    for step in range(1, STEPS["updates"]):
        assert found["critic/values/mean", step] != 0.0
        assert found["critic/grad_norm", step] > 0
        assert found["critic/vpred_mean", step] == pytest.approx(found["critic/values/mean", step], abs=EXACT)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("losses_of_real_tests")

    def likelihood(logprobs_T: Any, **columns: Any) -> Any:
        return -(columns["weights_T"] * logprobs_T).sum(), {}

    module.likelihood = likelihood  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
async def start(tmp_path: Path, corpus: Path, losses: None) -> AsyncIterator[Any]:
    started: list[Backend] = []

    async def start(**options: object) -> Backend:
        backend = create_backend(engine_params(corpus, **options), seed=0, directory=tmp_path / "run")
        started.append(backend)
        await backend.engine.start()
        return backend

    yield start
    for backend in started:
        await backend.engine.stop()


def asked(**fields: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Greet Ada"}]
    wanted = {"seed": 7, "max_tokens": 12, "logprobs": True, "return_token_ids": True}
    return {"model": "policy", "messages": messages, **wanted, **fields}


def read(answer: dict[str, Any]) -> tuple[list[int], list[int], list[float]]:
    choice = answer["choices"][0]
    return (
        answer["prompt_token_ids"],
        choice["token_ids"],
        [entry["logprob"] for entry in choice["logprobs"]["content"]],
    )


def planted(prompt: list[int], response: list[int]) -> TokenForest:
    ids = prompt + response
    zeros = array("f", [0.0] * len(ids))
    tree = TokenTree(
        group="g",
        token_ids=array("i", ids),
        parents=array("i", range(-1, len(ids) - 1)),
        positions=array("i", range(len(ids))),
        logprobs=zeros,
        versions=array("i", [0] * len(ids)),
        advantages=zeros,
        weights=array("f", [0.0] * len(prompt) + [1.0] * len(response)),
        calls=(),
    )
    return TokenForest(trees=(tree,))


async def step(backend: Any, forest: TokenForest) -> int:
    await backend.learner.forward_backward(forest, LOSS)
    await backend.learner.optim_step(OptimizerConfig(learning_rate=0.02))
    version: int = await backend.learner.publish()
    return version


async def agreement(backend: Any, **fields: object) -> float:
    """Largest difference between the log-probabilities of an answer and those that the learner computes."""
    prompt, response, sampled = read(await backend.engine.chat(asked(**fields)))
    computed = (await backend.learner.logprobs(planted(prompt, response)))[0][len(prompt) :]
    return max(abs(one - other) for one, other in zip(sampled, computed, strict=True))


async def test_pauses_sleep_and_streams_work_while_weights_change(start: Any) -> None:
    backend = await start(update="in-place", pause="keep")
    prompt, response, sampled = read(await backend.engine.chat(asked()))
    forest = planted(prompt, response)

    chunks = [chunk async for chunk in backend.engine.stream(asked())]
    streamed = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert chunks[0]["prompt_token_ids"] == prompt
    assert [token for choice in streamed for token in choice.get("token_ids") or []] == response
    entries = [
        entry for choice in streamed if choice.get("logprobs") for entry in choice["logprobs"]["content"]
    ]
    assert [entry["logprob"] for entry in entries] == pytest.approx(sampled, abs=EXACT)
    assert (chunks[-1]["policy_version"], chunks[-1]["usage"]["completion_tokens"]) == (0, len(response))

    # an answer under way is kept over a change of weights, and tells of both versions
    long = asyncio.create_task(backend.engine.chat(asked(max_tokens=200, ignore_eos=True)))
    while not backend.engine.busy("policy"):  # noqa: ASYNC110 - the call is in flight once it is counted
        await asyncio.sleep(0.001)
    assert await step(backend, forest) == 1
    answer = await long
    assert answer["policy_version"] == 0
    assert len(read(answer)[1]) == 200

    for mode in ("wait", "abort", "keep"):
        await backend.engine.pause(mode)
        held = asyncio.create_task(backend.engine.chat(asked()))
        await asyncio.sleep(0.2)
        assert not held.done()
        await backend.engine.resume()
        assert len(read(await held)[1]) > 0

    said = read(await backend.engine.chat(asked()))
    await backend.engine.sleep(1)
    await backend.engine.wake_up()
    assert read(await backend.engine.chat(asked())) == said
    assert await agreement(backend) < EXACT

    # what the learner makes more likely is more likely to the servers too, whatever temperature they sample at
    async def likelihood() -> float:
        return sum((await backend.engine.logprobs(prompt + response))[0][-len(response) :])

    before = await likelihood()
    for version in range(2, 6):
        assert await step(backend, forest) == version
    assert await likelihood() > before + 1
    assert await agreement(backend) < EXACT
    assert await agreement(backend, temperature=0) < EXACT


async def test_servers_are_restarted_with_new_weights(start: Any) -> None:
    backend = await start(update="restart")
    prompt, response, _ = read(await backend.engine.chat(asked()))
    assert await step(backend, planted(prompt, response)) == 1
    answer = await backend.engine.chat(asked())
    assert answer["policy_version"] == 1
    assert await agreement(backend) < EXACT


async def test_prompts_of_ids_reach_the_newest_adapter_and_answers_are_read(start: Any) -> None:
    backend = await start(learner={"lora": {"rank": 8}})
    prompt, response, _ = read(await backend.engine.chat(asked()))
    assert await step(backend, planted(prompt, response)) == 1
    prompt, response, sampled = read(await backend.engine.chat(asked(temperature=0)))
    messages = asked()["messages"]
    assert await backend.engine.render(messages, [], add_generation_prompt=True) == prompt
    other = [{"role": "user", "content": "something else"}]
    answer = await backend.engine.chat(asked(messages=other, prompt_token_ids=prompt, temperature=0))
    assert read(answer)[:2] == (prompt, response)
    assert read(answer)[2] == pytest.approx(sampled, abs=EXACT)
    assert answer["policy_version"] == 1
    assert answer["choices"][0]["message"]["role"] == "assistant"
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
    }
    called = await backend.engine.chat(asked(prompt_token_ids=prompt, temperature=0, tools=[tool]))
    assert read(called)[:2] == (prompt, response)
    chunks = [chunk async for chunk in backend.engine.stream(asked(prompt_token_ids=prompt, temperature=0))]
    streamed = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [token for choice in streamed for token in choice.get("token_ids") or []] == response
    assert await agreement(backend, prompt_token_ids=prompt) < EXACT
