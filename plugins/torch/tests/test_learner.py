"""Training token forests."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentlightning.engine import Backend, LossSpec, OptimizerConfig
from agentlightning.errors import EngineError, NumericalError, TargetError
from agentlightning.types import TokenForest
from lightning_plugin_torch._build import build
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import BuildOptions, TorchOptions
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._trainer import Trainer

Options = dict[str, object]
Sampled = tuple[list[int], list[int]]
Planter = Callable[..., TokenForest]
Starter = Callable[..., Awaitable[Backend]]

RATIO = LossSpec(name="ratio", target="losses_of_tests:ratio", params={"scale": 0.5})
CROSS_ENTROPY = LossSpec(name="cross_entropy", target="losses_of_tests:cross_entropy")

tokens = st.integers(min_value=7, max_value=12)  # few tokens, so that prefixes are shared often
calls = st.tuples(st.lists(tokens, min_size=1, max_size=24), st.lists(tokens, min_size=1, max_size=6))
forests = st.lists(st.lists(calls, min_size=1, max_size=5), min_size=1, max_size=4)
few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def trainer(directory: Path, *, rows: bool = False, micro_batch_tokens: int = 8192) -> Trainer:
    options = TorchOptions(model=str(directory), rows=rows, micro_batch_tokens=micro_batch_tokens)
    model = load(directory, options)
    return Trainer(model, Sampler(model, sizes=(1,), max_active=1), options=options, directory=directory)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone() for name, p in trainer._model.module.named_parameters() if p.grad is not None
    }


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def styled(
    request: pytest.FixtureRequest, build_options: Options, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    build(BuildOptions(**build_options, style=request.param), seed=2, directory=directory)
    return directory


@few
@given(trees=forests)
def test_a_forest_has_the_loss_and_the_gradients_of_its_rows(
    model_directory: Path, plant: Planter, trees: list[list[Sampled]]
) -> None:
    forest = plant(*trees)
    as_forest, as_rows = trainer(model_directory), trainer(model_directory, rows=True)
    one, other = as_forest.forward_backward(forest, RATIO), as_rows.forward_backward(forest, RATIO)
    assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
    mine, theirs = gradients(as_forest), gradients(as_rows)
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6)


def test_every_style_gives_a_forest_the_log_probabilities_of_a_plain_forward(
    styled: Path, plant: Planter
) -> None:
    forest = plant(
        [([9, 8, 7], [10, 11]), ([9, 8, 7], [12]), ([9, 8, 7, 10, 11, 20, 21], [22, 23]), ([9, 30], [31])]
    )
    found = trainer(styled).logprobs(forest)[0]
    model = AutoModelForCausalLM.from_pretrained(styled).eval()
    tree = forest.trees[0]
    for node in range(1, len(tree)):
        path = tree.path(node)
        with torch.no_grad():
            logits_V = model(torch.tensor([path[:-1]])).logits[0, -1]
        assert found[node] == pytest.approx(torch.log_softmax(logits_V, -1)[path[-1]].item(), abs=1e-4)
    assert found[0] == 0.0


@few
@given(trees=forests, limit=st.integers(min_value=1, max_value=60))
def test_micro_batches_add_up(
    model_directory: Path, plant: Planter, trees: list[list[Sampled]], limit: int
) -> None:
    forest = plant(*trees)
    whole, parts = trainer(model_directory), trainer(model_directory, micro_batch_tokens=limit)
    assert whole.forward_backward(forest, RATIO) == pytest.approx(
        parts.forward_backward(forest, RATIO), rel=1e-5, abs=1e-6
    )
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradient, gradients(parts)[name], rtol=1e-4, atol=1e-6)


def test_the_logits_of_many_tokens_are_computed_in_parts(
    model_directory: Path, plant: Planter, monkeypatch: pytest.MonkeyPatch
) -> None:
    forest = plant([(list(range(7, 60)), list(range(60, 90)))])
    whole = trainer(model_directory)
    one = whole.forward_backward(forest, RATIO)
    monkeypatch.setattr("lightning_plugin_torch._scoring.LOGITS_AT_ONCE", 2000)
    parts = trainer(model_directory)
    assert parts.forward_backward(forest, RATIO) == pytest.approx(one, rel=1e-5)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradient, gradients(parts)[name], rtol=1e-4, atol=1e-6)


def test_metrics_are_means_over_trained_nodes_and_the_loss_is_the_sum(
    model_directory: Path, plant: Planter
) -> None:
    forest = plant([([7, 8], [9, 10])], [([11], [12, 13, 14])])
    found = trainer(model_directory).forward_backward(forest, CROSS_ENTROPY)
    expected = -sum(
        weight * logprob
        for tree, logprobs in zip(forest.trees, trainer(model_directory).logprobs(forest), strict=True)
        for weight, logprob in zip(tree.weights, logprobs, strict=True)
    )
    assert found == {"loss": pytest.approx(expected, rel=1e-5), "tokens": 5.0}


async def test_a_forest_with_nothing_to_train_changes_nothing(start: Starter, plant: Planter) -> None:
    backend = await start()
    forest = plant([([7, 8], [9])])
    idle = TokenForest(trees=tuple(replace(tree, weights=array("f", [0.0] * 3)) for tree in forest.trees))
    assert await backend.learner.forward_backward(idle, RATIO) == {"loss": 0.0, "tokens": 0.0}


async def test_a_loss_that_is_not_finite_discards_the_gradients_and_keeps_the_batch(
    start: Starter, plant: Planter, tmp_path: Path
) -> None:
    backend = await start()
    forest = plant([([7, 8], [9, 10])])
    await backend.learner.forward_backward(forest, RATIO)
    broken = LossSpec(name="broken", target="losses_of_tests:broken")
    with pytest.raises(NumericalError, match=r"'broken' is nan") as caught:
        await backend.learner.forward_backward(forest, broken)
    kept = json.loads((tmp_path / "0" / "rejected-batch-0.json").read_text())
    assert "rejected-batch-0.json" in str(caught.value)
    assert kept[0]["token_ids"] == [7, 8, 9, 10]
    assert (await backend.learner.optim_step(OptimizerConfig()))["grad_norm"] == 0.0


async def test_a_loss_that_cannot_be_imported_is_named(start: Starter, plant: Planter) -> None:
    backend = await start()
    with pytest.raises(TargetError, match="no_such_module"):
        await backend.learner.forward_backward(
            plant([([7], [8])]), LossSpec(name="x", target="no_such_module:loss")
        )


async def test_cross_entropy_falls_and_the_version_counts_steps(start: Starter, plant: Planter) -> None:
    backend = await start()
    forest = plant([([7, 8, 9], [20, 21, 22, 23])])
    losses = []
    for step in range(8):
        losses.append((await backend.learner.forward_backward(forest, CROSS_ENTROPY))["loss"])
        metrics = await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2))
        assert metrics["grad_norm"] > 0
        assert await backend.learner.publish() == backend.engine.version == step + 1
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_training_goes_on_bit_by_bit_from_a_saved_state(
    start: Starter, plant: Planter, tmp_path: Path, dtype: str
) -> None:
    forest = plant([([7, 8, 9], [20, 21, 22]), ([7, 8, 9], [23, 24])])

    async def train(backend: Backend, steps: int) -> None:
        for _ in range(steps):
            await backend.learner.forward_backward(forest, RATIO)
            await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-3, weight_decay=0.1))

    through, halfway, resumed = [await start(dtype=dtype) for _ in range(3)]
    saved, one, other = (tmp_path / name for name in ("saved", "one", "other"))
    for directory in (saved, one, other):
        directory.mkdir()
    await train(through, 4)
    await train(halfway, 2)
    await halfway.learner.save_state(saved)
    await train(halfway, 1)  # what came after the save is forgotten
    await resumed.learner.load_state(saved)
    await train(resumed, 2)
    await through.learner.save_state(one)
    await resumed.learner.save_state(other)
    assert sorted(path.name for path in one.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    assert resumed.engine.version == 4


async def test_an_incomplete_state_is_refused(start: Starter, tmp_path: Path) -> None:
    backend = await start()
    with pytest.raises(EngineError, match=r"no model\.safetensors, optimizer\.safetensors, state\.json"):
        await backend.learner.load_state(tmp_path)
    saved = tmp_path / "saved"
    saved.mkdir()
    await backend.learner.save_state(saved)
    (saved / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(EngineError, match="damaged"):
        await backend.learner.load_state(saved)


async def test_a_saved_model_loads_elsewhere_with_the_trained_weights(
    start: Starter, plant: Planter, tmp_path: Path
) -> None:
    backend = await start()
    forest = plant([([7, 8, 9], [20, 21])])
    await backend.learner.forward_backward(forest, RATIO)
    await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2))
    target = tmp_path / "exported"
    await backend.learner.save_model(target)
    model = AutoModelForCausalLM.from_pretrained(target).eval()
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.chat_template
    with torch.no_grad():
        logprobs_V = torch.log_softmax(model(torch.tensor([[7, 8, 9]])).logits[0, -1], -1)
    found = await backend.learner.logprobs(forest)
    assert found[0][3] == pytest.approx(logprobs_V[20].item(), abs=1e-4)


async def test_the_learner_agrees_with_the_sampler(backend: Backend, plant: Planter) -> None:
    bodies = [
        {
            "messages": [{"role": "user", "content": f"What is {i} + 1?"}],
            "seed": i,
            "max_tokens": 100,
            "logprobs": True,
            "return_token_ids": True,
        }
        for i in range(6)
    ]
    answers = await asyncio.gather(*(backend.engine.chat(body) for body in bodies))
    forest = plant([(a["prompt_token_ids"], a["choices"][0]["token_ids"]) for a in answers])
    found = (await backend.learner.logprobs(forest))[0]
    for call, answer in zip(forest.trees[0].calls, answers, strict=True):
        sampled = [entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"]]
        assert found[call.start : call.stop] == pytest.approx(sampled, abs=1e-4)
