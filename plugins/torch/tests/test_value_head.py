"""A value head beside the policy: values, gradients, states, and that nothing changes without it."""

from __future__ import annotations

import random
import sys
import types
from array import array
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from agentlightning.engine import (
    Backend,
    LossInput,
    LossSpec,
    OptimizerConfig,
    ReferenceLearner,
    ValueLearner,
)
from agentlightning.errors import ConfigError, EngineError, NumericalError
from agentlightning.types import TokenForest, TokenTree
from lightning_plugin_torch._build import build
from lightning_plugin_torch._lora import add_adapters
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import BuildOptions, LoraOptions, TorchOptions, ValueHeadOptions
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._trainer import Trainer
from lightning_plugin_torch._value_trainer import ValueTrainer

Options = dict[str, object]
Sampled = tuple[list[int], list[int]]
Planter = Callable[..., TokenForest]
Starter = Callable[..., Awaitable[Backend]]
Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]

MODULE = "losses_of_values"
VALUED = (LossInput.VALUES, LossInput.OLD_VALUES, LossInput.RETURNS)

tokens = st.integers(min_value=7, max_value=9)
calls = st.tuples(st.lists(tokens, min_size=1, max_size=16), st.lists(tokens, min_size=1, max_size=6))
forests = st.lists(st.lists(calls, min_size=1, max_size=6), min_size=1, max_size=3)
few = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def ratio(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    ratio_T = (logprobs_T - columns["old_logprobs_T"]).clamp(-2, 2).exp()
    return -(columns["weights_T"] * ratio_T * columns["advantages_T"]).sum(), {"ratio": ratio_T}


def valued(logprobs_T: torch.Tensor, *, values_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    """PPO's clipped value loss beside a policy loss."""
    policy, metrics = ratio(logprobs_T, **columns)
    old_T, returns_T = columns["old_values_T"], columns["returns_T"]
    clipped_T = old_T + (values_T - old_T).clamp(-0.2, 0.2)
    loss_T = 0.5 * torch.maximum((values_T - returns_T) ** 2, (clipped_T - returns_T) ** 2)
    return policy + (columns["weights_T"] * loss_T).sum(), metrics | {"value": values_T}


def regression(_: torch.Tensor, *, values_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    return ((values_T - columns["returns_T"]) ** 2).sum(), {}


def by_rollout(logprobs_T: torch.Tensor, *, values_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    """Values and log-probabilities of a whole rollout, in one number."""
    _, unit_T = columns["rollouts_T"].unique(return_inverse=True)
    sums_U = torch.zeros(int(unit_T.max()) + 1).index_add(0, unit_T, logprobs_T * 0.1 + values_T)
    return (sums_U**2).sum(), {"value": values_T}


def broken(logprobs_T: torch.Tensor, *, values_T: torch.Tensor, **_: torch.Tensor) -> Loss:
    return (values_T * torch.nan).sum() + logprobs_T.sum(), {}


def steep(logprobs_T: torch.Tensor, *, values_T: torch.Tensor, **_: torch.Tensor) -> Loss:
    """Finite at 0, where its gradient is not."""
    return values_T.abs().sqrt().sum() + logprobs_T.sum(), {}


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    module = types.ModuleType(MODULE)
    for function in (ratio, valued, regression, by_rollout, broken, steep):
        setattr(module, function.__name__, function)
    sys.modules[MODULE] = module
    yield
    del sys.modules[MODULE]


RATIO = LossSpec(name="ratio", target=f"{MODULE}:ratio")
VALUES = LossSpec(name="valued", target=f"{MODULE}:valued", inputs=VALUED)
REGRESSION = LossSpec(name="regression", target=f"{MODULE}:regression", inputs=VALUED)
BY_ROLLOUT = LossSpec(
    name="by_rollout", target=f"{MODULE}:by_rollout", inputs=(LossInput.ROLLOUTS, LossInput.VALUES)
)
BROKEN = LossSpec(name="broken", target=f"{MODULE}:broken", inputs=(LossInput.VALUES,))
STEEP = LossSpec(name="steep", target=f"{MODULE}:steep", inputs=(LossInput.VALUES,))


def trainer(directory: Path, *, attached: bool = True, lora: bool = False, **options: object) -> ValueTrainer:
    """One whose head has learned something already, so that it has gradients to send on."""
    chosen = TorchOptions(model=str(directory), **options)
    model = load(directory, chosen)
    if lora:
        add_adapters(model.module, LoraOptions(rank=2), seed=3)
    sampler = Sampler(model, sizes=(1,), max_active=1)
    head = ValueHeadOptions(attached=attached)
    made = ValueTrainer(model, sampler, options=chosen, head=head, directory=directory)
    with torch.no_grad():
        made._head.linear.weight.copy_(torch.linspace(-0.2, 0.2, made._head.linear.in_features)[None])
        made._head.linear.bias.fill_(0.25)
    return made


def plain(directory: Path, **options: object) -> Trainer:
    chosen = TorchOptions(model=str(directory), **options)
    model = load(directory, chosen)
    return Trainer(model, Sampler(model, sizes=(1,), max_active=1), options=chosen, directory=directory)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    found = dict(trainer._model.module.named_parameters())
    if isinstance(trainer, ValueTrainer):
        found |= {f"head.{name}": p for name, p in trainer._head.named_parameters()}
    return {name: p.grad.clone() for name, p in found.items() if p.grad is not None}


def with_targets(forest: TokenForest) -> TokenForest:
    """Old values and returns on every node."""
    draw = random.Random(5)

    def column(tree: TokenTree) -> array[float]:
        return array("f", [draw.gauss(0, 1) for _ in range(len(tree))])

    return replace(
        forest,
        trees=tuple(
            replace(tree, old_logprobs=tree.logprobs[:], values=column(tree), returns=column(tree))
            for tree in forest.trees
        ),
    )


def same(one: Trainer, other: Trainer) -> None:
    mine, theirs = gradients(one), gradients(other)
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5)


@few
@given(trees=forests, limit=st.integers(min_value=1, max_value=40), lora=st.booleans())
def test_values_of_a_forest_have_the_loss_and_gradients_of_rows_however_it_is_split(
    model_directory: Path, plant: Planter, trees: list[list[Sampled]], limit: int, lora: bool
) -> None:
    forest = with_targets(plant(*trees))
    whole = trainer(model_directory, lora=lora, micro_batch_tokens=10_000)
    as_rows = trainer(model_directory, lora=lora, rows=True)
    split = trainer(model_directory, lora=lora, micro_batch_tokens=limit)
    expected = whole.forward_backward(forest, VALUES)
    for other in (as_rows, split):
        assert other.forward_backward(forest, VALUES) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        same(other, whole)
    assert any("head" in name for name in gradients(whole))


@few
@given(trees=forests, limit=st.integers(min_value=1, max_value=30))
def test_a_loss_over_rollouts_takes_values_however_the_batch_is_split(
    model_directory: Path, plant: Planter, trees: list[list[Sampled]], limit: int
) -> None:
    forest = plant(*trees)
    whole, split = trainer(model_directory), trainer(model_directory, micro_batch_tokens=limit)
    expected = whole.forward_backward(forest, BY_ROLLOUT)
    assert split.forward_backward(forest, BY_ROLLOUT) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    mine, theirs = gradients(split), gradients(whole)
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def styled(
    request: pytest.FixtureRequest, build_options: Options, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    build(BuildOptions(**build_options, style=request.param), seed=2, directory=directory)
    return directory


def test_a_value_is_the_head_on_the_state_before_the_token(styled: Path, plant: Planter) -> None:
    forest = plant([([9, 8, 7], [10, 11]), ([9, 8, 7], [12]), ([9, 8, 7, 10, 11, 20, 21], [22, 23])])
    made = trainer(styled, micro_batch_tokens=9)
    (found,) = made.values(forest)
    model = AutoModelForCausalLM.from_pretrained(styled).eval()
    tree = forest.trees[0]
    sampled = {node for call in tree.calls for node in range(call.start, call.stop)}
    for node in range(len(tree)):
        expected = 0.0
        if node in sampled:
            with torch.no_grad():
                ids = torch.tensor([tree.path(node)[:-1]])
                state_1_D = model.base_model(ids).last_hidden_state[:, -1]
                expected = made._head.linear(state_1_D).item()
        assert found[node] == pytest.approx(expected, abs=1e-4)
    assert any(found)


def test_a_detached_head_leaves_the_gradients_of_the_policy_alone_to_the_last_bit(
    model_directory: Path, plant: Planter
) -> None:
    forest = with_targets(plant([([7, 8, 9], [20, 21, 22]), ([7, 8, 9], [23, 24])]))
    without = plain(model_directory)
    without.forward_backward(forest, RATIO)
    expected = gradients(without)
    detached, attached = (trainer(model_directory, attached=attached) for attached in (False, True))
    for made in (detached, attached):
        made.forward_backward(forest, VALUES)
    found, moved = gradients(detached), gradients(attached)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert found["head.linear.weight"].abs().sum() > 0
    assert not all(torch.equal(moved[name], gradient) for name, gradient in expected.items())
    assert torch.equal(found["head.linear.weight"], moved["head.linear.weight"])


def test_a_loss_without_values_is_computed_as_if_there_were_no_head(
    model_directory: Path, plant: Planter
) -> None:
    forest = plant([([7, 8, 9], [20, 21, 22])])
    one, other = plain(model_directory), trainer(model_directory)
    assert one.forward_backward(forest, RATIO) == other.forward_backward(forest, RATIO)
    mine, theirs = gradients(one), gradients(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(gradient, theirs[name]) for name, gradient in mine.items())
    assert one.logprobs(forest) == other.logprobs(forest)


async def learn(
    backend: Backend, forest: TokenForest, *, steps: int, spec: LossSpec = VALUES, decay: float = 0.1
) -> list[dict]:
    metrics = []
    for _ in range(steps):
        found = await backend.learner.forward_backward(forest, spec)
        config = OptimizerConfig(learning_rate=1e-3, value_learning_rate=1e-1, weight_decay=decay)
        metrics.append(found | await backend.learner.optim_step(config))
    return metrics


async def test_a_head_expects_nothing_at_first_and_then_what_it_was_taught(
    start: Starter, plant: Planter
) -> None:
    backend = await start(value_head={})
    assert isinstance(backend.learner, ValueLearner)
    forest = with_targets(plant([([7, 8, 9], [20, 21, 22]), ([7, 8, 10], [23, 24])]))
    tree = replace(forest.trees[0], values=array("f", bytes(4 * len(forest.trees[0]))))
    forest = replace(forest, trees=(tree,))
    assert await backend.learner.values(forest) == [[0.0] * len(tree)]
    await learn(backend, forest, steps=200, spec=REGRESSION, decay=0.0)
    (found,) = await backend.learner.values(forest)
    for call in tree.calls:
        assert found[call.start : call.stop] == pytest.approx(tree.returns[call.start : call.stop], abs=0.2)


async def test_the_head_has_a_step_size_and_a_gradient_norm_of_its_own(
    start: Starter, plant: Planter
) -> None:
    forest = with_targets(plant([([7, 8, 9], [20, 21, 22])]))
    backend, without = await start(value_head={}), await start()
    (metrics,) = await learn(backend, forest, steps=1)
    (expected,) = await learn(without, forest, steps=1, spec=RATIO)
    assert metrics["critic/lr"] == 0.1
    assert metrics["critic/grad_norm"] > 0
    assert metrics["grad_norm"] == expected["grad_norm"]
    assert metrics["learning_rate"] == 1e-3
    assert await backend.learner.logprobs(forest) == await without.learner.logprobs(forest)
    assert not expected.keys() & {"critic/lr", "critic/grad_norm"}
    bias = backend.engine._loaded.trainer._head.linear.bias.item()
    assert abs(bias) == pytest.approx(0.1, rel=1e-3)  # the first step of AdamW is the step size


@pytest.mark.parametrize(
    "options",
    [
        {"value_head": {}},
        {"value_head": {"attached": True}, "dtype": "bfloat16"},
        {"value_head": {}, "lora": {"rank": 4}},
    ],
    ids=str,
)
async def test_training_goes_on_bit_by_bit_from_a_saved_state(
    start: Starter, plant: Planter, tmp_path: Path, options: Options
) -> None:
    forest = with_targets(plant([([7, 8, 9], [20, 21, 22]), ([7, 8, 9], [23, 24])]))
    through, halfway, resumed = [await start(**options) for _ in range(3)]
    saved, one, other = (tmp_path / name for name in ("saved", "one", "other"))
    for directory in (saved, one, other):
        directory.mkdir()
    await learn(through, forest, steps=4)
    await learn(halfway, forest, steps=2)
    await halfway.learner.save_state(saved)
    await learn(halfway, forest, steps=1)  # what came after the save is forgotten
    await resumed.learner.load_state(saved)
    await learn(resumed, forest, steps=2)
    await through.learner.save_state(one)
    await resumed.learner.save_state(other)
    names = {path.name for path in one.iterdir()}
    assert {"value_head.safetensors", "value_optimizer.safetensors"} < names
    for name in names - {"state.json"}:  # the version: no two states share one
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert await through.learner.values(forest) == await resumed.learner.values(forest)


async def test_a_state_without_a_head_is_refused_by_a_run_with_one_and_not_the_other_way_round(
    start: Starter, plant: Planter, tmp_path: Path
) -> None:
    without, having = await start(), await start(value_head={})
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    await without.learner.save_state(one)
    assert sorted(path.name for path in one.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    with pytest.raises(EngineError, match=r"no value_head\.safetensors.*its run had no value head"):
        await having.learner.load_state(one)
    await having.learner.save_state(other)
    await without.learner.load_state(other)
    (other / "value_head.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(EngineError, match="damaged"):
        await having.learner.load_state(other)


async def test_a_head_is_there_only_if_it_was_asked_for(start: Starter, plant: Planter) -> None:
    forest = with_targets(plant([([7], [8])]))
    without = await start()
    assert not isinstance(without.learner, ValueLearner)
    with pytest.raises(ConfigError, match="asks for values, and this learner has no value head"):
        await without.learner.forward_backward(forest, VALUES)
    both = await start(value_head={}, reference=True)
    assert isinstance(both.learner, ValueLearner)
    assert isinstance(both.learner, ReferenceLearner)
    assert await both.learner.reference_logprobs(forest) == await both.learner.logprobs(forest)


@pytest.mark.parametrize(
    ("spec", "message"), [(BROKEN, "'broken' is nan"), (STEEP, "'steep' is .* with gradient norm nan")]
)
async def test_values_that_are_not_finite_discard_all_gradients(
    start: Starter, plant: Planter, *, spec: LossSpec, message: str
) -> None:
    forest = with_targets(plant([([7, 8], [9, 10])]))
    backend = await start(value_head={})
    await backend.learner.forward_backward(forest, VALUES)
    with pytest.raises(NumericalError, match=message):
        await backend.learner.forward_backward(forest, spec)
    metrics = await backend.learner.optim_step(OptimizerConfig())
    assert metrics["grad_norm"] == metrics["critic/grad_norm"] == 0.0


@pytest.mark.parametrize("column", ["values", "returns"])
async def test_targets_that_are_not_there_are_asked_for(
    model_directory: Path, plant: Planter, column: str
) -> None:
    forest = with_targets(plant([([7], [8])]))
    forest = replace(forest, trees=tuple(replace(tree, **{column: array("f")}) for tree in forest.trees))
    with pytest.raises(ConfigError, match=f"asks for {column}, and tree 'g' has none"):
        trainer(model_directory).forward_backward(forest, VALUES)


async def test_a_model_is_saved_without_its_head(start: Starter, tmp_path: Path) -> None:
    backend = await start(value_head={})
    await backend.learner.save_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(
        tmp_path / "model"
    )  # a warning about unknown weights would be an error


async def test_a_head_that_cannot_be_had_is_refused(start: Starter) -> None:
    with pytest.raises(ConfigError, match="detached"):
        await start(value_head={"detached": True})
