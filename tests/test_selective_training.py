"""`agents=["writer"]`: of a team only the named agent is trained; what the others say is its context, and no more."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import Trainer
from agentlightning.builtin import BUILTIN_STAGES
from agentlightning.engine import Backend, OptimizerConfig
from agentlightning.gateway import Sampling
from agentlightning.pipeline import Pipeline
from agentlightning.store import open_store
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Episode, Experience, Json, Mode

lightningrl = pytest.importorskip("lightning_algorithm_lightningrl")
torch_plugin = pytest.importorskip("lightning_plugin_torch")

if TYPE_CHECKING:
    from agentlightning.trainer import TrainingResult
    from lightning_algorithm_lightningrl._batch import Batch

TEAMS = Path(__file__).parent / "matrix/teams"
QUESTION = [1, 2, 3]
PLAN, TEXT, VERDICT = [10, 11], [20, 21, 22], [30, 31]


def played(number: int, *, plan_logprob: float = -0.5, verdict: Sequence[int] = VERDICT) -> Episode:
    """A team at work: each agent's prompt has what those before it said."""
    episode = EpisodeBuilder(rollout_id=f"r{number}", group="g", sample=number)
    said = list(QUESTION)
    for name, answer in (("planner", PLAN), ("writer", [*TEXT, number]), ("critic", list(verdict))):
        agent = episode.span("invoke_agent", agent=name)
        logprobs = [plan_logprob if name == "planner" else -0.5] * len(answer)
        episode.call(said, answer, parent=agent, logprobs=logprobs)
        said += answer
    episode.reward(float(number % 2))
    return episode.build()


def batch_of(episodes: Sequence[Episode], *, agents: Sequence[str]) -> Batch:
    from lightning_algorithm_lightningrl._batch import make_batch
    from lightning_algorithm_lightningrl.advantages import Estimator

    pipeline = Pipeline.from_specs(
        {spec.name: spec for spec in BUILTIN_STAGES},
        load=lambda spec: load_target(spec.target),
        agents=agents,
    )
    experience = pipeline.run(Experience(episodes=tuple(episodes)))
    return make_batch(experience, version=0, estimator=Estimator.GRPO, std_eps=1e-6)


def trained_tokens(batch: Batch) -> set[int]:
    """Tokens of the forest that have a weight."""
    return {
        token
        for tree in batch.forest.trees
        for token, weight in zip(tree.token_ids, tree.weights, strict=True)
        if weight
    }


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"messages": [{"role": "user", "content": "plan, write, judge"}]}))
    build = {"corpus": str(corpus), "layers": 1, "width": 16, "heads": 2}
    backend = torch_plugin.create_backend({"build": build}, seed=0, directory=tmp_path / "model")
    await backend.engine.start()
    yield backend
    await backend.engine.stop()


async def learned(backend: Backend, batch: Batch, folder: Path) -> tuple[dict[str, float], str]:
    """The metrics of one update from the weights in `folder`, and a hash of the weights after it."""
    from lightning_algorithm_lightningrl import LightningRLConfig

    assert backend.learner is not None
    await backend.learner.load_state(folder)
    metrics = await backend.learner.forward_backward(batch.forest, LightningRLConfig().loss_spec)
    metrics |= await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2))
    after = folder / "after"
    after.mkdir(exist_ok=True)
    await backend.learner.save_model(after)
    return metrics, hashlib.sha256((after / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
async def initial(backend: Backend, tmp_path: Path) -> Path:
    """A folder with the initial weights."""
    folder = tmp_path / "initial"
    folder.mkdir()
    assert backend.learner is not None
    await backend.learner.save_state(folder)
    return folder


async def dropped_by_transitions(result: TrainingResult) -> Json:
    """What the stage `transitions` left out of the only update, by reason."""
    async with open_store(result.store) as store:
        events = await store.runs.events(result.run_id)
    (event,) = [event for event in events if event.kind == "pipeline"]
    data: Any = event.data
    return next(stage["dropped"] for stage in data["stages"] if stage["stage"] == "transitions")


def length(task: Json, output: Json) -> float:
    return float(len(json.dumps(output)))


def test_only_tokens_of_the_named_agent_have_a_weight() -> None:
    batch = batch_of([played(0), played(1)], agents=["writer"])
    assert trained_tokens(batch) == {*TEXT, 0, 1}
    assert batch.trained == 2
    assert batch.metrics["completions/mean_calls"] == 1.0
    assert batch.masked_share == 0.0


def test_without_names_everybody_is_trained() -> None:
    batch = batch_of([played(0), played(1)], agents=[])
    assert trained_tokens(batch) == {*PLAN, *TEXT, 0, 1, *VERDICT}
    assert batch.metrics["completions/mean_calls"] == 3.0


def test_several_agents_can_be_named() -> None:
    batch = batch_of([played(0), played(1)], agents=["planner", "critic"])
    assert trained_tokens(batch) == {*PLAN, *VERDICT}


async def test_the_others_calls_change_neither_losses_nor_weights(backend: Backend, initial: Path) -> None:
    plain = await learned(backend, batch_of([played(0), played(1)], agents=["writer"]), initial)
    others = [played(0, plan_logprob=-3.0, verdict=[40, 41, 42]), played(1, plan_logprob=-0.1, verdict=[43])]
    changed = await learned(backend, batch_of(others, agents=["writer"]), initial)
    assert changed == plain


async def test_they_do_where_everybody_is_trained(backend: Backend, initial: Path) -> None:
    plain = await learned(backend, batch_of([played(0), played(1)], agents=[]), initial)
    others = [played(0, plan_logprob=-3.0, verdict=[40, 41, 42]), played(1, plan_logprob=-0.1, verdict=[43])]
    changed = await learned(backend, batch_of(others, agents=[]), initial)
    assert changed[0]["loss"] != plain[0]["loss"]
    assert changed[1] != plain[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Resolved model mismatch:UserWarning")
@pytest.mark.parametrize("framework", ["autogen", "langgraph"])
def test_a_frameworks_team_is_trained_selectively(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(f"lightning_adapter_{framework}")
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    corpus = tmp_path / "corpus.jsonl"
    turns = [{"role": "user", "content": "Tell a story."}]
    words = [{"role": "assistant", "content": word} for word in ("short", "lengthy")]
    corpus.write_text("\n".join(json.dumps({"messages": [*turns, word]}) for word in words * 16))
    build: dict[str, Json] = {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2, "context": 1_024}
    warm_start: dict[str, Json] = {
        "demonstrations": str(corpus),
        "steps": 40,
        "learning_rate": 1e-2,
        "batch_size": 16,
    }
    result = Trainer(
        f"{TEAMS / framework}_team.py:agent",
        algorithm=[
            ("sft", warm_start),  # random weights write what some frameworks refuse to send on
            ("lightningrl", {"updates": 1, "tasks_per_update": 1, "group_size": 4}),
        ],
        train=["Tell a story."],
        store=f"sqlite:///{tmp_path / 'runs.db'}",
        engine="torch",
        engine_params={"build": build},
        graders=[length],
        sampling={Mode.TRAIN: Sampling(temperature=1.0, max_tokens=4)},
        agents=["writer"],
    ).fit()
    found = {point.name: point.value for point in result.history}
    assert found["rollouts/scored"] == 4
    assert found["completions/mean_calls"] == 1.0
    assert found["masked_share"] == 0.0
    dropped = asyncio.run(dropped_by_transitions(result))
    assert dropped == {"agent 'planner' is not trained": 4, "agent 'critic' is not trained": 4}
