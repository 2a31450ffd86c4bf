"""Fine-tuning on the answers that a store has: imported traces, and rollouts with rewards."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentlightning import semconv
from agentlightning.archive import import_archive
from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.store import SpanQuery, Store, open_store
from agentlightning.targets import load_target
from agentlightning.testing import InMemoryEngine, InMemoryLearner, InMemoryTrainingContext
from agentlightning.types import Episode, Experience, Json, Rollout
from lightning_algorithm_sft import create

STAGES = ("normalise", "join", "order", "transitions", "rewards")


@dataclass(kw_only=True)
class FromStore(InMemoryTrainingContext):
    """A run whose rollouts lie in its store."""

    asked: list[str] = field(default_factory=list)

    async def experience(self, rollouts: Sequence[Rollout], *, step: int = 0) -> Experience:
        self.asked += [rollout.id for rollout in rollouts]
        pipeline = Pipeline.from_specs(
            {spec.name: spec for spec in BUILTIN_STAGES},
            load=lambda spec: load_target(spec.target),
            chosen=[(name, {}) for name in STAGES],
        )
        episodes = []
        for rollout in rollouts:
            (attempt,) = await self.store.rollouts.attempts([rollout.id])
            page = await self.store.spans.page(SpanQuery(attempt_ids=(attempt.id,)))
            episodes.append(Episode(rollout=rollout, attempt=attempt, spans=tuple(page.items)))
        return pipeline.run(Experience(episodes=tuple(episodes)))


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


def context(store: Store, **changes: object) -> FromStore:
    engine = InMemoryEngine()
    given = {"play": print, "store": store, "engine": engine, "learner": InMemoryLearner(engine=engine)}
    return FromStore(**(given | changes))


def span(trace: int, number: int, *, question: str, answer: Json, status: int = 0, **more: Json) -> Json:
    """A call as OpenLLMetry writes it, or with an answer of None one without a word of the model's."""
    attributes = {
        "llm.request.type": "chat",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": question,
        **(
            {"gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": answer} if answer else {}
        ),
        **more,
    }
    return {
        "traceId": f"{trace:032x}",
        "spanId": f"{number:016x}",
        "name": "openai.chat",
        "startTimeUnixNano": str(number),
        "endTimeUnixNano": str(number),
        "status": {"code": status},
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()],
        "events": [],
    }


def judged(found: Json, score: float) -> Json:
    """The span with an evaluation."""
    assert isinstance(found, dict)
    event = {
        "name": "gen_ai.evaluation.result",
        "timeUnixNano": "9",
        "attributes": [
            {"key": "gen_ai.evaluation.name", "value": {"stringValue": "correct"}},
            {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": score}},
        ],
    }
    return found | {"events": [event]}


async def imported(store: Store, folder: Path, *spans: Json) -> None:
    path = folder / "traces.json"
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}))
    await import_archive(store, path)


def trained(made: FromStore) -> list[str]:
    """Text of each conversation of the first batch, the trained part in brackets."""
    assert isinstance(made.learner, InMemoryLearner)
    (tree,) = made.learner.batches[0][0].trees
    return sorted(
        f"{bytes(tree.path(call.prompt_node)).decode()}[{bytes(list(tree.token_ids[call.start : call.stop])).decode()}]"
        for call in tree.calls
    )


async def test_each_answer_of_a_foreign_trace_is_trained_once(store: Store, tmp_path: Path) -> None:
    second = {
        "gen_ai.prompt.1.role": "assistant",
        "gen_ai.prompt.1.content": "hello",
        "gen_ai.prompt.2.role": "user",
        "gen_ai.prompt.2.content": "bye",
    }
    await imported(
        store,
        tmp_path,
        span(1, 1, question="hi", answer="hello"),
        span(1, 2, question="hi", answer="farewell", **second),
    )
    made = context(store)
    await create({"stored": {}, "steps": 1, "batch_size": 2}).fit(made)
    assert trained(made) == [
        "[]user:hi\nassistant:[hello\n]",
        "[]user:hi\nassistant:hello\nuser:bye\nassistant:[farewell\n]",
    ]


async def test_only_answers_of_good_rollouts_are_learned_where_a_reward_is_asked_for(
    store: Store, tmp_path: Path
) -> None:
    await imported(
        store,
        tmp_path,
        judged(span(1, 1, question="a", answer="good"), 1.0),
        judged(span(2, 2, question="b", answer="bad"), 0.0),
        span(3, 3, question="c", answer="unknown"),
    )
    made = context(store)
    await create({"stored": {"min_reward": 0.5}, "steps": 1, "batch_size": 1}).fit(made)
    assert trained(made) == ["[]user:a\nassistant:[good\n]"]
    assert (
        "sft",
        "1 answers of the store to learn from; left out 2: the reward is missing or too low",
    ) in made.events


async def test_what_cannot_be_learned_is_left_out_and_counted(store: Store, tmp_path: Path) -> None:
    silent = span(1, 1, question="a", answer=None)
    failed = span(1, 2, question="a", answer="half", status=2)
    await imported(store, tmp_path, silent, failed, span(1, 3, question="a", answer="whole"))
    made = context(store)
    await create({"stored": {}, "steps": 1, "batch_size": 1}).fit(made)
    assert trained(made) == ["[]user:a\nassistant:[whole\n]"]
    (told,) = [message for kind, message in made.events if kind == "sft"]
    assert "left out 1: the trace has no answer" in told
    assert "left out 1: the call failed" in told


async def test_tools_and_instructions_are_part_of_the_conversation(store: Store, tmp_path: Path) -> None:
    found = span(
        1,
        1,
        question="a",
        answer="b",
        **{
            semconv.SYSTEM_INSTRUCTIONS: '[{"type": "text", "content": "Be brief."}]',
            semconv.TOOL_DEFINITIONS: '[{"type": "function", "name": "add"}]',
        },
    )
    await imported(store, tmp_path, found)
    made = context(store)
    await create({"stored": {}, "steps": 1, "batch_size": 1}).fit(made)
    tools = json.dumps([{"type": "function", "function": {"name": "add"}}])
    assert trained(made) == [f"{tools}system:Be brief.\nuser:a\nassistant:[b\n]"]


async def test_a_store_with_nothing_to_learn_is_refused(store: Store, tmp_path: Path) -> None:
    algorithm = create({"stored": {}, "steps": 1})
    with pytest.raises(ConfigError, match=r"no answer to learn from; import traces"):
        await algorithm.fit(context(store))
    await imported(store, tmp_path, span(1, 1, question="a", answer=None))
    with pytest.raises(ConfigError, match=r"no answer to learn from: the trace has no answer \(1\)"):
        await algorithm.fit(context(store))


async def test_a_resumed_run_refuses_another_set_of_answers(store: Store, tmp_path: Path) -> None:
    await imported(store, tmp_path, span(1, 1, question="a", answer="b"))
    algorithm = create({"stored": {}, "steps": 2, "batch_size": 1})
    with pytest.raises(ConfigError, match="began with 2 examples, and now there are 1"):
        await algorithm.fit(context(store, state={"step": 1, "examples": 2}))


@pytest.mark.parametrize("params", [{}, {"demonstrations": "x", "stored": {}}])
def test_examples_come_from_one_place(params: dict[str, Json]) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        create(params)
