"""Conversations with the real engine: its tokenizer, its chat templates, its sampler."""

from __future__ import annotations

import json
import sys
import types
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agentlightning.engine import Backend, LossSpec, OptimizerConfig
from agentlightning.pipeline import merge_calls
from agentlightning.types import Call, Json, TokenForest, TokenRecord, TokenTree, Transition
from lightning_plugin_gateway.turns import TurnBuilder

torch_plugin = pytest.importorskip("lightning_plugin_torch")

IDS = "prompt_token_ids"
TURNS = 5
TOOLS: list[dict[str, Json]] = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}, "b": {}}}},
    }
]
QUESTION: list[dict[str, Json]] = [
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "What is 12 + 34?"},
]
APPENDING = (
    "{%- if tools %}<|system|>{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|end|>\n{% endif -%}"
    "{%- for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{%- for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|assistant|>\n{% endif -%}"
)
REWRITING = APPENDING.replace(
    "{{ m.content }}", "{{ m.content if loop.last or m.role != 'assistant' else m.content[3:] }}"
)
Directory = Callable[[str], Path]
Starter = Callable[..., Any]


class Agent:
    """Calls an engine as the gateway does, turn by turn."""

    def __init__(self, backend: Backend, turns: TurnBuilder | None = None, *, attempt: str = "a") -> None:
        self.engine: Any = backend.engine
        self.turns = turns or TurnBuilder({"*": self.engine})
        self.attempt = attempt
        self.messages = list(QUESTION)
        self.transitions: list[Transition] = []
        self.labels: list[Json] = []

    async def call(self, *, plain: bool = False, **options: Json) -> dict[str, Any]:
        """One call; `plain` renders the prompt as an engine without a memory of its own would."""
        request = {"model": "policy", "messages": list(self.messages), "tools": TOOLS, **options}
        request |= {"logprobs": True, "return_token_ids": True}
        prepared = await self.turns.prepare(request, attempt_id=self.attempt, model="policy")
        sent = prepared.request
        if plain:
            ids = await self.engine.render(self.messages, TOOLS, add_generation_prompt=True)
            sent = {**sent, IDS: ids}
        completion = await self.engine.chat(sent)
        choice = completion["choices"][0]
        record = TokenRecord.pack(
            completion[IDS],
            choice["token_ids"],
            [entry["logprob"] for entry in choice["logprobs"]["content"]],
            version=completion["policy_version"],
            finish_reason=choice["finish_reason"],
        )
        labels = self.turns.observe(prepared, completion, tokens=[record])
        self.labels.append(labels["agl.turn"])
        place = len(self.transitions)
        self.transitions.append(
            Transition(id=f"{self.attempt}/{place}", rollout_id=self.attempt, index=place, tokens=record)
        )
        self.messages.append(json.loads(json.dumps(choice["message"])))
        return choice

    def answer(self, text: str) -> None:
        """Answers the tool calls of the last message, or says something."""
        calls = self.messages[-1].get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        if not calls:
            self.messages.append({"role": "user", "content": text})

    def forest(self) -> TokenForest:
        return merge_calls([("g", self.transitions)])


def is_chain(forest: TokenForest) -> bool:
    (tree,) = forest.trees
    return list(tree.parents) == list(range(-1, len(tree) - 1))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Directory:
    """A tiny model with random weights, and the same with other chat templates."""
    from transformers import AutoTokenizer

    from lightning_plugin_torch._build import build
    from lightning_plugin_torch._options import BuildOptions

    root = tmp_path_factory.mktemp("models")
    call = {"name": "add", "arguments": '{"a": 12, "b": 34}'}
    messages = [
        *QUESTION,
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "1", "content": "46"},
        {"role": "assistant", "content": "The sum is 46."},
    ]
    (root / "corpus.jsonl").write_text((json.dumps({"messages": messages, "tools": TOOLS}) + "\n") * 9)

    def directory(template: str = "") -> Path:
        path = root / f"model-{len(list(root.iterdir()))}"
        options = BuildOptions(
            corpus=str(root / "corpus.jsonl"), layers=2, width=32, heads=2, vocabulary=320, context=1024
        )
        build(options, seed=1, directory=path)
        if template:
            tokenizer = AutoTokenizer.from_pretrained(path)
            tokenizer.chat_template = template
            tokenizer.save_pretrained(path)
        return path

    return directory


@pytest.fixture
async def start(directory: Directory, tmp_path: Path) -> AsyncIterator[Starter]:
    started: list[Backend] = []

    async def start(template: str = "") -> Backend:
        options = {"model": str(directory(template))}
        backend = torch_plugin.create_backend(options, seed=0, directory=tmp_path)
        await backend.engine.start()
        started.append(backend)
        return backend

    yield start
    for backend in started:
        await backend.engine.stop()


def oddly(ids: Sequence[int], backend: Backend) -> list[int]:
    """The same text in tokens of one character each, as a model may sample them."""
    tokenizer = backend.engine._loaded.model.tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    special = set(tokenizer.get_added_tokens_decoder())
    odd: list[int] = []
    for token in ids:
        text = tokenizer.decode([token], skip_special_tokens=False)
        split = [tokenizer.encode(letter, add_special_tokens=False).ids for letter in text]
        odd += [token] if token in special else [part for parts in split for part in parts]
    return odd


def cross_entropy(logprobs_T: Any, **columns: Any) -> tuple[Any, dict[str, Any]]:
    return -(columns["weights_T"] * logprobs_T).sum(), {}


async def learn_to_call(backend: Backend) -> None:
    """Teaches the model to answer every turn with a tool call, spelled in tokens that nobody would tokenise it to."""
    engine: Any = backend.engine
    module = types.ModuleType("losses_of_turns")
    module.cross_entropy = cross_entropy  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    messages, ids, trees, shared = list(QUESTION), [], [], 0
    for turn in range(TURNS):
        call = {"name": "add", "arguments": json.dumps({"a": 12 + turn, "b": 34})}
        asked = await engine.render(messages, TOOLS, add_generation_prompt=True)
        spoken = [{"id": "1", "type": "function", "function": call}]
        messages.append({"role": "assistant", "content": None, "tool_calls": spoken})
        answered = await engine.render(messages, TOOLS, add_generation_prompt=False)
        ids, shared = [*ids, *asked[shared:]], len(answered)
        response = oddly(answered[len(asked) :], backend)
        trees.append(tree(ids, response))
        ids += response
        messages.append({"role": "tool", "tool_call_id": "1", "content": str(46 + turn)})
    learner = backend.learner
    assert learner
    loss = LossSpec(name="cross_entropy", target="losses_of_turns:cross_entropy")
    for _ in range(60):
        await learner.forward_backward(TokenForest(trees=tuple(trees)), loss)
        await learner.optim_step(OptimizerConfig(learning_rate=1e-2))
    await learner.publish()


def tree(prompt: list[int], response: list[int]) -> TokenTree:
    size, start = len(prompt) + len(response), len(prompt)
    trained = [0.0] * start + [1.0] * len(response)
    return TokenTree(
        group="g",
        token_ids=array("i", [*prompt, *response]),
        parents=array("i", range(-1, size - 1)),
        positions=array("i", range(size)),
        logprobs=array("f", [0.0] * size),
        versions=array("i", [0 if one else -1 for one in trained]),
        advantages=array("f", trained),
        weights=array("f", trained),
        calls=(Call(transition_id="t", rollout_id="r", prompt_node=start - 1, start=start, stop=size),),
    )


async def test_five_turns_with_tool_calls_make_one_chain(start: Starter) -> None:
    backend = await start()
    await learn_to_call(backend)
    exact, plain = Agent(backend), Agent(backend)
    for agent in (exact, plain):
        for turn in range(TURNS):
            choice = await agent.call(plain=agent is plain, temperature=0, max_tokens=60)
            assert choice["finish_reason"] == "tool_calls"
            agent.answer(str(46 + turn))
    assert exact.labels == ["first", *["spliced"] * (TURNS - 1)]
    for earlier, later in pairwise(exact.transitions):
        assert earlier.tokens
        assert later.tokens
        assert later.tokens.prompt.startswith(earlier.tokens.prompt + earlier.tokens.response)
    last = exact.transitions[-1].tokens
    assert last
    forest = exact.forest()
    assert is_chain(forest)
    assert forest.size == len(last.prompt_ids) + len(last.response_ids)
    assert not forest.mismatches
    assert plain.labels == ["first", *["retokenisation"] * (TURNS - 1)]
    assert plain.forest().mismatches == {"retokenisation": TURNS - 1}
    assert not is_chain(plain.forest())
    assert plain.forest().size > forest.size


async def test_attempts_that_said_the_same_in_other_tokens_keep_their_own(start: Starter) -> None:
    backend = await start()
    turns = TurnBuilder({"*": backend.engine})
    agents = [Agent(backend, turns, attempt=name) for name in ("a", "b")]
    for agent in agents:
        prompt = await agent.engine.render(agent.messages, TOOLS, add_generation_prompt=True)
        answer = {"role": "assistant", "content": "The sum is 46."}
        answered = await agent.engine.render([*agent.messages, answer], TOOLS, add_generation_prompt=False)
        sampled = answered[len(prompt) :] if agent is agents[0] else oddly(answered[len(prompt) :], backend)
        request: dict[str, Json] = {"messages": list(agent.messages), "tools": TOOLS}
        prepared = await turns.prepare(request, attempt_id=agent.attempt, model="policy")
        record = TokenRecord.pack(prompt, sampled, [-1.0] * len(sampled), version=0, finish_reason="stop")
        turns.observe(prepared, {"choices": [{"message": answer}]}, tokens=[record])
        agent.messages += [answer, {"role": "user", "content": "Sure?"}]
        agent.transitions.append(
            Transition(id=agent.attempt, rollout_id=agent.attempt, index=0, tokens=record)
        )
    for agent in agents:
        await agent.call(temperature=1, max_tokens=4)
    assert [agent.labels for agent in agents] == [["exact"], ["spliced"]]
    assert all(is_chain(agent.forest()) for agent in agents)


@pytest.mark.parametrize("length", [1, 16])
async def test_whatever_a_model_samples_the_next_turn_continues_it(start: Starter, length: int) -> None:
    backend = await start(APPENDING)
    agents = [Agent(backend, attempt=str(number)) for number in range(8)]
    for turn in range(TURNS):
        for number, agent in enumerate(agents):
            await agent.call(seed=100 * number + turn, temperature=1, max_tokens=length)
            agent.answer(f"and {turn}?")
    labels = [label for agent in agents for label in agent.labels]
    assert set(labels) <= {"first", "exact", "spliced"}
    assert labels.count("spliced") >= 8
    assert all(is_chain(agent.forest()) for agent in agents)


async def test_a_template_that_rewrites_history_is_labelled_and_not_spliced(start: Starter) -> None:
    agent = Agent(await start(REWRITING))
    for turn in range(3):
        choice = await agent.call(seed=turn, temperature=1, max_tokens=20)
        assert len(choice["message"]["content"]) > 3
        agent.answer("and?")
    assert agent.labels == ["first", "template", "template"]
    assert sum(agent.forest().mismatches.values()) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_turns_through_the_gateway_make_one_chain(
    serve: Callable[..., Any], start: Starter, stream: bool
) -> None:
    backend = await start()
    messages: list[Any] = list(QUESTION)
    async with serve(upstreams={"*": backend.engine}) as bench, bench.sdk(bench.key(seed=3)) as sdk:
        for turn in range(TURNS):
            said = await sdk.chat.completions.create(
                model="policy",
                messages=messages,
                max_tokens=15,
                stream=stream,
                tools=TOOLS,
                tool_choice="none",
            )
            if stream:
                chunks = [chunk async for chunk in said]
                text = "".join(part.delta.content or "" for chunk in chunks for part in chunk.choices)
                message = {"role": "assistant", "content": text}
            else:
                message = said.choices[0].message.model_dump()
            messages += [message, {"role": "user", "content": f"and {turn}?"}]
        spans = await bench.spans()
    labels = [span.attributes["agl.turn"] for span in spans]
    assert labels[0] == "first"
    assert set(labels[1:]) <= {"exact", "spliced"}
    assert "spliced" in labels
    lengths = [len(span.tokens[0].prompt_ids) + len(span.tokens[0].response_ids) for span in spans]
    assert [span.attributes["agl.turn.common"] for span in spans[1:]] == lengths[:-1]
    transitions = [
        Transition(id=span.span_id, rollout_id="r1", index=place, tokens=span.tokens[0])
        for place, span in enumerate(spans)
    ]
    assert is_chain(merge_calls([("g", transitions)]))
