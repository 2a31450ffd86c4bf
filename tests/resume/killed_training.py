"""A training that kills itself without warning at a given phase, or goes on with one that did.

Arguments: the folder, the backend (`scripted` or `torch`), parameters of the algorithm as JSON, where to die
(`phase:count`, or `never`), and the mode as JSON: `{}`, `{"continuous": …}` or `{"offline": …}`, with options of the
scripted backend. Prints nothing; what it came to is in the store, and what the scripted backend has served is in
`served.jsonl`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from agentlightning import Sampling, Trainer
from agentlightning.continuous import Continuous
from agentlightning.engine import ChatCompletion, ChatRequest, LossSpec, OptimizerConfig
from agentlightning.plugins import hookimpl, load_plugins
from agentlightning.specs import EngineSpec
from agentlightning.store import SqliteStore, open_store
from agentlightning.testing import InMemoryEngine, InMemoryLearner
from agentlightning.types import Json, Mode, ResourceState, RunStatus, TokenForest
from agentlightning.versions import Versions

TASKS: list[Json] = [f"say {word}" for word in ("one", "two", "three", "four", "five")]


@cache
def client() -> Any:
    """One for all rollouts: making one is slow."""
    import openai

    return openai.AsyncOpenAI(api_key="unused")


async def agent(task: Json) -> float:
    """Asks once; the answer's even characters are its reward."""
    answer = await client().chat.completions.create(
        model="policy", messages=[{"role": "user", "content": str(task)}]
    )
    text = answer.choices[0].message.content or ""
    death.comes("rollouts")
    return sum(ord(character) % 2 == 0 for character in text) / max(1, len(text))


@dataclass
class Death:
    """Where it ends: at the so-many-th time that a phase is passed."""

    phase: str = ""
    left: int = 0

    def comes(self, phase: str) -> None:
        if phase == self.phase:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


death = Death()


@dataclass(kw_only=True)
class ScriptedEngine(InMemoryEngine):
    """Samples letters by seed and weights, and notes under which version which weights have served.

    Attributes:
        gain: How much likelier each step makes an even letter.
    """

    model: str = "policy"
    learner: Any = None
    gain: float = 0.0
    run: str = ""
    served: Path | None = None

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        version = self.version
        rng = random.Random(f"{request.get('seed')}/{self.learner.value!r}")
        if self.served is not None:
            with self.served.open("a") as file:
                file.write(json.dumps([self.run, version, self.learner.value]) + "\n")
        even = 0.5 + self.gain * self.learner.weight
        await asyncio.sleep(rng.random() / 50)
        tokens = [rng.choice((98, 100) if rng.random() < even else (97, 99)) for _ in range(4)]
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "".join(map(chr, tokens))},
            "token_ids": tokens,
            "logprobs": {
                "content": [{"token": chr(one), "logprob": -1.0, "top_logprobs": []} for one in tokens]
            },
        }
        return {
            "id": f"chatcmpl-{rng.random()}",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [choice],
            "prompt_token_ids": list(json.dumps(request["messages"]).encode()),
            "usage": {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5},
            "policy_version": version,
        }


@dataclass(kw_only=True)
class ScriptedLearner(InMemoryLearner):
    """Weights are one number, and a list of the groups that they have learned."""

    versions: Versions
    value: float = 0.0
    gradient: float = 0.0
    learned: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine.version = self.versions.following()

    async def forward_backward(self, forest: TokenForest, loss: LossSpec) -> dict[str, float]:
        await asyncio.sleep(0.02)
        for tree in forest.trees:
            self.learned.append(tree.group)
            self.gradient += sum(a * w for a, w in zip(tree.advantages, tree.weights, strict=True))
            self.gradient += sum(tree.token_ids) / 1e6
        return await super().forward_backward(forest, loss) | {"gradient": self.gradient}

    async def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        self.value += self.gradient
        self.gradient = 0.0
        self.engine.version = self.versions.following()
        return await super().optim_step(config) | {"value": self.value}

    async def publish(self) -> int:
        return self.engine.version

    async def save_state(self, directory: Path) -> None:
        await super().save_state(directory)
        (directory / "scripted.json").write_text(json.dumps({"value": self.value, "learned": self.learned}))

    async def load_state(self, directory: Path) -> None:
        await super().load_state(directory)
        self.engine.version = self.versions.following()
        state = json.loads((directory / "scripted.json").read_text())
        self.value, self.learned = state["value"], state["learned"]


@dataclass
class ScriptedBackend:
    engine: ScriptedEngine
    learner: ScriptedLearner


def create_scripted(options: Mapping[str, Json], *, seed: int, directory: Path) -> ScriptedBackend:
    del seed
    served = directory.parent.parent / "served.jsonl"
    gain, value = (float(str(options[name])) for name in ("gain", "value"))
    engine = ScriptedEngine(gain=gain, run=directory.name, served=served)
    learner = ScriptedLearner(engine=engine, versions=Versions(directory), value=value)
    engine.learner = learner
    return ScriptedBackend(engine, learner)


class Scripted:
    """The plugin that has the backend."""

    @hookimpl
    def agl_register_engines(self) -> list[EngineSpec]:
        return [EngineSpec(name="scripted", target=f"{__name__}:create_scripted")]


def mortal(learner: type[Any]) -> None:
    """Lets a learner die before and after its work."""
    for name, before, after in (
        ("forward_backward", "learning", ""),
        ("optim_step", "", "after_step"),
        ("save_state", "", "in_checkpoint"),
        ("load_state", "in_load", ""),
    ):
        setattr(learner, name, _dying(getattr(learner, name), before=before, after=after))


def mortal_sets() -> None:
    """Lets the process die once the store has taken a resource set, or its move to a state."""
    resources: Any = type(SqliteStore(Path("unused.db")).resources)
    publish, move = resources.publish, resources.move

    async def publishing(self: Any, *arguments: Any, **named: Any) -> Any:
        found = await publish(self, *arguments, **named)
        death.comes("published")
        return found

    async def moving(self: Any, set_id: str, state: ResourceState, **named: Any) -> Any:
        found = await move(self, set_id, state, **named)
        death.comes(f"moved_{state.value}")
        return found

    resources.publish, resources.move = publishing, moving


def _dying(work: Callable[..., Any], *, before: str, after: str) -> Callable[..., Any]:
    async def working(*arguments: Any, **named: Any) -> Any:
        death.comes(before)
        found = await work(*arguments, **named)
        death.comes(after)
        return found

    return working


def build(folder: Path, backend: str, chosen: Mapping[str, Json]) -> dict[str, Json]:
    """Options of the backend."""
    if backend == "scripted":
        return {"gain": chosen.get("gain", 0.0), "value": chosen.get("value", 0.0)}
    corpus = folder / "corpus.jsonl"
    messages = [
        [{"role": "user", "content": task}, {"role": "assistant", "content": "yes"}] for task in TASKS
    ]
    corpus.write_text("\n".join(json.dumps({"messages": one}) for one in messages))
    return {"build": {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2}}


async def unfinished(store: str) -> str | None:
    """Id of the run to go on with, if there is one."""
    async with open_store(store) as opened:
        runs = [run for run in await opened.runs.list() if run.status is not RunStatus.SUCCEEDED]
        return runs[0].id if runs else None


def main(folder: Path, backend: str, params: str, where: str, mode: str = "{}") -> None:
    phase, _, count = where.partition(":")
    death.phase, death.left = phase, int(count or 0)
    if backend == "torch" and phase != "never":
        from lightning_plugin_torch._learner import TorchLearner

        mortal(TorchLearner)
    elif phase != "never":
        mortal(ScriptedLearner)
        mortal_sets()
    chosen = json.loads(mode)
    plugins = load_plugins(
        names=["core", "gateway", "openai", "lightningrl", "torch"][: 5 if backend == "torch" else 4]
    )
    plugins.register(Scripted(), "scripted")
    store = f"sqlite:///{folder / 'agl.db'}"
    trainer = Trainer(
        agent,
        params=json.loads(params),
        train=TASKS,
        val=TASKS[: chosen.get("val", 2)],
        store=store,
        engine=backend,
        engine_params=build(folder, backend, chosen),
        sampling={Mode.TRAIN: Sampling(temperature=1.0, max_tokens=6), Mode.VAL: Sampling(max_tokens=6)},
        seed=3,
        plugins=plugins,
    )
    resume = asyncio.run(unfinished(store))
    if "continuous" in chosen:
        trainer.learn(msgspec.convert(chosen["continuous"], Continuous), resume=resume)
    elif "offline" in chosen:
        trainer.offline(**chosen["offline"], resume=resume)
    else:
        trainer.fit(resume=resume)


if __name__ == "__main__":
    sys.modules["killed_training"] = sys.modules["__main__"]
    __name__ = "killed_training"
    main(Path(sys.argv[1]), *sys.argv[2:6])
