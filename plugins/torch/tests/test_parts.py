"""Cutting trees, packing micro-batches, and FlexAttention over subtrees."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.engine import LossSpec
from agentlightning.errors import ConfigError
from agentlightning.types import TokenForest, TokenTree
from lightning_plugin_torch._build import build
from lightning_plugin_torch._flex import BLOCK, subtree_mask
from lightning_plugin_torch._layout import lay_out
from lightning_plugin_torch._lora import add_adapters
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import BuildOptions, LoraOptions, TorchOptions
from lightning_plugin_torch._parts import pack, parts_of
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._trainer import Trainer

Sampled = tuple[list[int], list[int]]
Planter = Callable[..., TokenForest]
Nested = Callable[[int, random.Random], torch.Tensor]
Options = dict[str, object]

RATIO = LossSpec(name="ratio", target="losses_of_tests:ratio", params={"scale": 0.5})
CPU = torch.device("cpu")

tokens = st.integers(min_value=7, max_value=9)
calls = st.tuples(st.lists(tokens, min_size=1, max_size=16), st.lists(tokens, min_size=1, max_size=6))
forests = st.lists(st.lists(calls, min_size=1, max_size=6), min_size=1, max_size=3)
few = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
many = settings(few, max_examples=150)


def trainer(directory: Path, *, lora: bool = False, **options: object) -> Trainer:
    chosen = TorchOptions(model=str(directory), **options)
    model = load(directory, chosen)
    if lora:
        add_adapters(model.module, LoraOptions(rank=2), seed=3)
    return Trainer(model, Sampler(model, sizes=(1,), max_active=1), options=chosen, directory=directory)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone() for name, p in trainer._model.module.named_parameters() if p.grad is not None
    }


def ancestors(tree: TokenTree, node: int) -> set[int]:
    found = set()
    while (node := tree.parents[node]) >= 0:
        found.add(node)
    return found


@many
@given(trees=forests, limit=st.integers(min_value=1, max_value=60), trained=st.booleans())
def test_parts_have_every_wanted_node_once_and_keep_to_the_limit(
    plant: Planter, trees: list[list[Sampled]], limit: int, trained: bool
) -> None:
    forest = plant(*trees)
    parts = parts_of(forest.trees, trained=trained, limit=limit)
    found = sorted((part.index, node) for part in parts for node in part.nodes_K.tolist())
    assert found == [
        (index, node)
        for index, tree in enumerate(forest.trees)
        for node in range(len(tree))
        if tree.parents[node] >= 0 and not (trained and tree.weights[node] == 0)
    ]
    for part in parts:
        needed = set().union(*(ancestors(part.tree, node) for node in part.nodes_K.tolist()))
        assert part.size == len(needed)
        longest = max(len(ancestors(part.tree, node)) for node in part.nodes_K.tolist())
        assert part.size <= max(limit, longest)
    whole = sum(part.size for part in parts_of(forest.trees, trained=trained, limit=10**9))
    assert sum(part.size for part in parts) >= whole
    if limit >= max(map(len, forest.trees)):
        assert sum(part.size for part in parts) == whole


@many
@given(trees=forests, limit=st.integers(min_value=1, max_value=60))
def test_packing_keeps_every_part_and_the_limit(
    plant: Planter, trees: list[list[Sampled]], limit: int
) -> None:
    parts = parts_of(plant(*trees).trees, trained=True, limit=limit)
    batches = pack(parts, limit=limit)
    assert sorted(id(part) for batch in batches for part in batch) == sorted(map(id, parts))
    for batch in batches:
        assert sum(part.size for part in batch) <= limit or len(batch) == 1
        assert [parts.index(part) for part in batch] == sorted(parts.index(part) for part in batch)
    sizes = [sum(part.size for part in batch) for batch in batches]
    assert all(one + other > limit for i, one in enumerate(sizes) for other in sizes[:i])


@many
@given(trees=forests, limit=st.integers(min_value=1, max_value=60))
def test_a_layout_has_every_descendant_between_a_token_and_its_end(
    plant: Planter, trees: list[list[Sampled]], limit: int
) -> None:
    forest = plant(*trees)
    parts = parts_of(forest.trees, trained=True, limit=limit)
    layout = lay_out(parts, device=CPU).layout
    sees_T_T = visible(layout.end_T)
    offset = 0
    for part in parts:
        size = part.size
        inside = sees_T_T[offset : offset + size]
        assert not inside[:, :offset].any()
        assert not inside[:, offset + size :].any()
        depth_T = layout.positions_T[offset : offset + size]
        assert inside.sum(1).tolist() == (depth_T + 1).tolist()
        offset += size
    for part in parts:
        batch = lay_out([part], device=CPU)
        sees_T_T = visible(batch.layout.end_T)
        for place, node in zip(batch.parent_K.tolist(), part.nodes_K.tolist(), strict=True):
            path = batch.layout.token_ids_T[sees_T_T[place]].tolist()
            assert path == part.tree.path(part.tree.parents[node])
        assert batch.target_K.tolist() == [part.tree.token_ids[node] for node in part.nodes_K.tolist()]


def visible(end_T: torch.Tensor) -> torch.Tensor:
    place_T = torch.arange(len(end_T))
    return (place_T <= place_T[:, None]) & (place_T[:, None] < end_T)


@few
@given(trees=forests, limit=st.integers(min_value=1, max_value=40), lora=st.booleans())
def test_a_cut_tree_has_the_gradients_of_the_whole(
    model_directory: Path, plant: Planter, trees: list[list[Sampled]], limit: int, lora: bool
) -> None:
    forest = plant(*trees)
    whole = trainer(model_directory, lora=lora, micro_batch_tokens=10_000)
    cut = trainer(model_directory, lora=lora, micro_batch_tokens=limit)
    expected = whole.forward_backward(forest, RATIO)
    assert cut.forward_backward(forest, RATIO) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    found = gradients(cut)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def styled(
    request: pytest.FixtureRequest, build_options: Options, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    build(BuildOptions(**build_options, style=request.param), seed=2, directory=directory)
    return directory


LARGE = (
    [(list(range(7, 60)), list(range(60, 130))), (list(range(7, 60)), [9, 9]), ([7, 8, 30], [31, 32])],
    [(list(range(70, 140)), list(range(20, 40)))],
)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_checkpointed_layers_have_the_same_gradients(styled: Path, plant: Planter, lora: bool) -> None:
    forest = plant(*LARGE)
    one, other = trainer(styled, lora=lora), trainer(styled, lora=lora, checkpointing=True)
    expected = one.forward_backward(forest, RATIO)
    assert other.forward_backward(forest, RATIO) == pytest.approx(expected, rel=1e-5)
    found = gradients(other)
    assert found.keys() == gradients(one).keys()
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_same_log_probabilities(styled: Path, plant: Planter) -> None:
    forest = plant(*LARGE)
    one, other = trainer(styled), trainer(styled)
    other._model = replace(other._model, sparse=True)  # as on a GPU; on a CPU it has no gradients
    for mine, theirs in zip(one.logprobs(forest), other.logprobs(forest), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_flex_attention_is_refused_where_it_cannot_train(model_directory: Path) -> None:
    with pytest.raises(ConfigError, match="FlexAttention has no gradients on 'cpu'"):
        trainer(model_directory, attention="flex")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_flex_attention_has_the_same_gradients_on_a_gpu(styled: Path, plant: Planter) -> None:
    forest = plant(*LARGE)
    one, other = (
        trainer(styled, device="cuda", dtype="float32", attention=attention)
        for attention in ("blocks", "flex")
    )
    assert one.forward_backward(forest, RATIO) == pytest.approx(
        other.forward_backward(forest, RATIO), rel=1e-3
    )
    found = gradients(other)
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-2, atol=1e-4)


@few
@given(size=st.integers(min_value=1, max_value=600), seed=st.integers(min_value=0, max_value=10**6))
def test_blocks_that_are_computed_cover_exactly_who_sees_whom(size: int, seed: int, nested: Nested) -> None:
    end_T = nested(size, random.Random(seed))
    mask = subtree_mask(end_T)
    blocks = -(-size // BLOCK)
    padded = torch.zeros(blocks * BLOCK, blocks * BLOCK, dtype=torch.bool)
    padded[:size, :size] = visible(end_T)
    some_B_B = padded.view(blocks, BLOCK, blocks, BLOCK).any(3).any(1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), some_B_B)
    counts, which = mask.full_kv_num_blocks[0, 0], mask.full_kv_indices[0, 0]
    for row, count in enumerate(counts.tolist()):
        rows = padded[row * BLOCK : min((row + 1) * BLOCK, size)]
        for column in which[row, :count].tolist():
            assert rows[:, column * BLOCK : (column + 1) * BLOCK].all()
