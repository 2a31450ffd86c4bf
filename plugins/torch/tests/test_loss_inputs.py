"""What a loss is told, and that whole calls and rollouts come together however a batch is split."""

from __future__ import annotations

import random
import sys
import types
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.engine import LossInput, LossSpec
from agentlightning.errors import ConfigError
from agentlightning.types import TokenForest
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._trainer import Trainer

Sampled = tuple[list[int], list[int]]
Planter = Callable[..., TokenForest]
Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]

MODULE = "losses_of_units"
VALUED = (LossInput.VALUES, LossInput.OLD_VALUES, LossInput.RETURNS)
seen: list[dict[str, torch.Tensor]] = []

tokens = st.integers(min_value=7, max_value=10)
calls = st.tuples(st.lists(tokens, min_size=1, max_size=16), st.lists(tokens, min_size=1, max_size=6))
forests = st.lists(st.lists(calls, min_size=1, max_size=6), min_size=1, max_size=3)
few = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def by_unit(logprobs_T: torch.Tensor, *, unit: str, **columns: torch.Tensor) -> Loss:
    """Like GSPO: one ratio per unit, that of the geometric mean of its tokens."""
    _, unit_T = columns[unit].unique(return_inverse=True)
    count_U = torch.bincount(unit_T).float()
    change_T = logprobs_T - columns["old_logprobs_T"]
    ratio_U = (torch.zeros_like(count_U).index_add(0, unit_T, change_T) / count_U).clamp(-3, 3).exp()
    ratio_T = ratio_U[unit_T]
    return -(columns["weights_T"] * columns["advantages_T"] * ratio_T).sum(), {"ratio": ratio_T}


def watching(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    """Remembers what it was given."""
    seen.append({"logprobs_T": logprobs_T.detach(), **columns})
    return logprobs_T.sum(), {}


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    module = types.ModuleType(MODULE)
    module.by_unit, module.watching = by_unit, watching
    sys.modules[MODULE] = module
    yield
    del sys.modules[MODULE]


def spec(*inputs: LossInput, name: str = "watching", **params: str) -> LossSpec:
    return LossSpec(name=name, target=f"{MODULE}:{name}", params=params, inputs=inputs)


UNITS = {
    LossInput.CALLS: spec(LossInput.CALLS, name="by_unit", unit="calls_T"),
    LossInput.ROLLOUTS: spec(LossInput.ROLLOUTS, name="by_unit", unit="rollouts_T"),
}


def trainer(directory: Path, **options: object) -> Trainer:
    chosen = TorchOptions(model=str(directory), **options)
    model = load(directory, chosen)
    return Trainer(model, Sampler(model, sizes=(1,), max_active=1), options=chosen, directory=directory)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone() for name, p in trainer._model.module.named_parameters() if p.grad is not None
    }


def in_rollouts(forest: TokenForest, *, count: int) -> TokenForest:
    """The same forest, its calls dealt to some rollouts, across trees too."""
    draw = random.Random(count)
    return replace(
        forest,
        trees=tuple(
            replace(
                tree,
                calls=tuple(replace(call, rollout_id=f"r{draw.randrange(count)}") for call in tree.calls),
            )
            for tree in forest.trees
        ),
    )


@few
@given(
    trees=forests,
    limit=st.integers(min_value=1, max_value=40),
    unit=st.sampled_from(list(UNITS)),
    rows_and_rollouts=st.tuples(st.booleans(), st.integers(min_value=1, max_value=4)),
)
def test_a_loss_over_calls_or_rollouts_is_the_same_however_the_batch_is_split(  # noqa: PLR0917 - two fixtures
    model_directory: Path,
    plant: Planter,
    trees: list[list[Sampled]],
    limit: int,
    unit: LossInput,
    rows_and_rollouts: tuple[bool, int],
) -> None:
    rows, count = rows_and_rollouts
    forest = in_rollouts(plant(*trees), count=count)
    whole = trainer(model_directory, micro_batch_tokens=10_000)
    split = trainer(model_directory, micro_batch_tokens=limit, rows=rows)
    expected = whole.forward_backward(forest, UNITS[unit])
    assert split.forward_backward(forest, UNITS[unit]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    found = gradients(split)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_every_input_is_what_the_trees_hold(model_directory: Path, plant: Planter) -> None:
    forest = in_rollouts(
        plant([([7, 8], [9, 10]), ([7, 8], [11])], [([7], [12, 13]), ([7, 12, 13, 20], [14])]), count=2
    )
    draw = random.Random(0)

    def random_column(size: int) -> array[float]:
        return array("f", [draw.random() for _ in range(size)])

    forest = replace(
        forest,
        trees=tuple(
            replace(tree, old_logprobs=random_column(len(tree)), reference_logprobs=random_column(len(tree)))
            for tree in forest.trees
        ),
    )
    seen.clear()
    trainer(model_directory).forward_backward(forest, spec(*(one for one in LossInput if one not in VALUED)))
    (given_T,) = seen
    trained = [(tree, node) for tree in forest.trees for node in range(len(tree)) if tree.weights[node] != 0]
    for keyword, column in {
        "old_logprobs_T": "old_logprobs",
        "sampler_logprobs_T": "logprobs",
        "reference_logprobs_T": "reference_logprobs",
        "versions_T": "versions",
        "weights_T": "weights",
        "advantages_T": "advantages",
    }.items():
        assert given_T[keyword].tolist() == [getattr(tree, column)[node] for tree, node in trained], keyword
    owners = [next(call for call in tree.calls if call.start <= node < call.stop) for tree, node in trained]
    names = {
        "calls_T": [(id(tree), call.transition_id) for (tree, _), call in zip(trained, owners, strict=True)],
        "rollouts_T": [call.rollout_id for call in owners],
    }
    for keyword, expected in names.items():
        numbers = given_T[keyword].tolist()
        assert given_T[keyword].dtype == torch.int64
        assert len(set(zip(numbers, expected, strict=True))) == len(set(numbers)) == len(set(expected))


def test_old_log_probabilities_are_the_samplers_where_there_are_no_others(
    model_directory: Path, plant: Planter
) -> None:
    forest = plant([([7, 8], [9, 10])])
    seen.clear()
    trainer(model_directory).forward_backward(forest, spec())
    assert seen[0]["old_logprobs_T"].tolist() == list(forest.trees[0].logprobs[2:])
    assert set(seen[0]) == {"logprobs_T", "old_logprobs_T", "advantages_T", "weights_T"}


def test_a_loss_over_tokens_is_computed_batch_by_batch(model_directory: Path, plant: Planter) -> None:
    forest = plant([([7, 8], [9, 10])], [([7], [12, 13])])
    for limit, times in ((2, 2), (100, 1)):
        seen.clear()
        trainer(model_directory, micro_batch_tokens=limit).forward_backward(forest, spec())
        assert len(seen) == times


def test_a_reference_that_is_not_there_is_asked_for(model_directory: Path, plant: Planter) -> None:
    with pytest.raises(ConfigError, match="asks for log-probabilities of a reference"):
        trainer(model_directory).forward_backward(plant([([7], [8])]), spec(LossInput.REFERENCE))


def test_an_unknown_input_is_refused(model_directory: Path, plant: Planter) -> None:
    with pytest.raises(ConfigError, match="input 'future', which engine 'torch' does not know"):
        trainer(model_directory).forward_backward(plant([([7], [8])]), spec("future"))
