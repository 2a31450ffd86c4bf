"""A tiny model, built once, and builders of token trees."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import types
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from agentlightning.engine import Backend
from agentlightning.types import Call, TokenForest, TokenTree
from lightning_plugin_torch import create_backend
from lightning_plugin_torch._build import build
from lightning_plugin_torch._options import BuildOptions

TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}, "b": {}}}},
    }
]

Sampled = tuple[list[int], list[int]]


def conversation(a: int, b: int) -> dict[str, object]:
    call = {"name": "add", "arguments": json.dumps({"a": a, "b": b})}
    return {
        "messages": [
            {"role": "system", "content": "Add."},
            {"role": "user", "content": f"What is {a} + {b}?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "1", "content": str(a + b)},
            {"role": "assistant", "content": f"The sum is {a + b}."},
        ],
        "tools": TOOLS,
    }


@pytest.fixture(scope="session")
def tools() -> list[dict[str, object]]:
    return TOOLS


@pytest.fixture(scope="session")
def demonstration() -> Callable[[int, int], dict[str, object]]:
    return conversation


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps(conversation(a, 99 - a)) + "\n" for a in range(50)))
    return path


@pytest.fixture(scope="session")
def build_options(corpus: Path) -> dict[str, object]:
    return {"corpus": str(corpus), "layers": 2, "width": 32, "heads": 2, "vocabulary": 320, "context": 160}


@pytest.fixture(scope="session")
def model_directory(build_options: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    build(BuildOptions(**build_options), seed=1, directory=directory)
    return directory


@pytest.fixture(scope="session")
def backend(build_options: dict, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Shared by tests that leave the weights alone."""
    built = create_backend({"build": build_options}, seed=0, directory=tmp_path_factory.mktemp("run"))
    asyncio.run(built.engine.start())
    yield built
    asyncio.run(built.engine.stop())


@pytest.fixture
def start(build_options: dict, tmp_path: Path) -> Iterator[Callable]:
    """Starts backends of a test's own."""
    started = []

    async def start(**options: object) -> Backend:
        given = {"build": build_options, **options}
        if "model" in given:
            del given["build"]
        built = create_backend(given, seed=0, directory=tmp_path / str(len(started)))
        await built.engine.start()
        started.append(built)
        return built

    yield start
    for built in started:
        asyncio.run(built.engine.stop())


def tree_of(calls: list[Sampled], *, seed: int) -> TokenTree:
    """Inserts calls (prompt, response) as the pipeline does: any prefix is shared, responses are new branches."""
    rng = random.Random(seed)
    ids, parents, positions, made = array("i"), array("i"), array("i"), []
    trained = bytearray()

    def add(token: int, parent: int, *, response: bool) -> int:
        ids.append(token)
        parents.append(parent)
        positions.append(0 if parent < 0 else positions[parent] + 1)
        trained.append(response)
        return len(ids) - 1

    for number, (prompt, response) in enumerate(calls):
        node = -1
        for token in prompt:
            known = [n for n in range(len(ids)) if parents[n] == node and ids[n] == token]
            node = known[0] if known else add(token, node, response=False)
        at, start = node, len(ids)
        for token in response:
            node = add(token, node, response=True)
        made.append(
            Call(transition_id=str(number), rollout_id="r", prompt_node=at, start=start, stop=len(ids))
        )
    size = len(ids)
    return (
        TokenTree(
            group="g",
            token_ids=ids,
            parents=parents,
            positions=positions,
            logprobs=array("f", [-rng.random() * 5 if t else 0.0 for t in trained]),
            versions=array("i", [0 if t else -1 for t in trained]),
            advantages=array("f", [rng.gauss(0, 1) if t else 0.0 for t in trained]),
            weights=array("f", [rng.random() if t else 0.0 for t in trained]),
            calls=tuple(made),
        )
        if size
        else pytest.fail("a tree needs tokens")
    )


@pytest.fixture(scope="session")
def plant() -> Callable[..., TokenForest]:
    """A forest of trees, each of calls `(prompt, response)`."""

    def plant(*trees: list[Sampled]) -> TokenForest:
        return TokenForest(trees=tuple(tree_of(calls, seed=index) for index, calls in enumerate(trees)))

    return plant


@pytest.fixture(scope="session", autouse=True)
def losses() -> Iterator[None]:
    """Losses, importable as `losses_of_tests`."""
    module = types.ModuleType("losses_of_tests")
    for function in (ratio, cross_entropy, broken):
        setattr(module, function.__name__, function)
    sys.modules[module.__name__] = module
    yield
    del sys.modules[module.__name__]


Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]


def ratio(logprobs_T: torch.Tensor, *, scale: float = 1.0, **columns: torch.Tensor) -> Loss:
    ratio_T = (logprobs_T - columns["old_logprobs_T"]).clamp(-2, 2).exp()
    return -(scale * columns["weights_T"] * ratio_T * columns["advantages_T"]).sum(), {"ratio": ratio_T}


def cross_entropy(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    return -(columns["weights_T"] * logprobs_T).sum(), {}


def broken(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    return (logprobs_T * torch.nan).sum(), {}


@pytest.fixture(scope="session")
def nested() -> Callable[[int, random.Random], torch.Tensor]:
    def ends_of_subtrees(size: int, draw: random.Random) -> torch.Tensor:
        """Ends of subtrees, each inside the one around it."""
        ends: list[int] = []
        around: list[int] = []
        for place in range(size):
            while around and around[-1] <= place:
                around.pop()
            longest = min([size, *around[-1:]]) - place
            ends.append(place + max(1, draw.choice([1, longest // 2, longest - 1, longest])))
            around.append(ends[-1])
        return torch.tensor(ends)

    return ends_of_subtrees
