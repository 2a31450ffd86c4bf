"""The last layer is computed only where its output is used, and nothing changes but the time."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from agentlightning.engine import LossSpec
from agentlightning.types import TokenForest
from lightning_plugin_torch._attention import ATTENTION, Sight, register_attention
from lightning_plugin_torch._build import build
from lightning_plugin_torch._flex import BLOCK, subtree_mask
from lightning_plugin_torch._hidden import hidden_states, way_of
from lightning_plugin_torch._last import LastLayer, Way
from lightning_plugin_torch._layout import lay_out
from lightning_plugin_torch._lora import add_adapters
from lightning_plugin_torch._model import LoadedModel, layers_of, load
from lightning_plugin_torch._options import BuildOptions, LoraOptions, TorchOptions
from lightning_plugin_torch._parts import parts_of
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._small import small_batch
from lightning_plugin_torch._trainer import Trainer

Sampled = tuple[list[int], list[int]]
Planter = Callable[..., TokenForest]
Nested = Callable[[int, random.Random], torch.Tensor]
Options = dict[str, object]

RATIO = LossSpec(name="ratio", target="losses_of_tests:ratio", params={"scale": 0.5})
CROSS_ENTROPY = LossSpec(name="cross_entropy", target="losses_of_tests:cross_entropy")
CPU = torch.device("cpu")
STYLES = {"llama": Way.SHORT, "qwen3": Way.SHORT, "gpt2": Way.SPREAD}

LARGE = (
    [(list(range(7, 60)), list(range(60, 130))), (list(range(7, 60)), [9, 9]), ([7, 8, 30], [31, 32])],
    [(list(range(70, 140)), list(range(20, 40)))],
)

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


def trainer(directory: Path, *, way: Way | None = None, lora: bool = False, **options: object) -> Trainer:
    chosen = TorchOptions(model=str(directory), **options)
    model = replace(load(directory, chosen), last_layer=LastLayer(way=way))
    if lora:
        add_adapters(model.module, LoraOptions(rank=2), seed=3)
    return Trainer(model, Sampler(model, sizes=(1,), max_active=1), options=chosen, directory=directory)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone() for name, p in trainer._model.module.named_parameters() if p.grad is not None
    }


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Each to a hundred-thousandth of the largest number in it."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * scale + 1e-9, msg=name)


@pytest.fixture(scope="module", params=list(STYLES))
def style(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def styled(style: str, build_options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(style)
    build(BuildOptions(**build_options, style=style), seed=2, directory=directory)
    return directory


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_the_short_way_has_the_loss_and_the_gradients_of_the_full_one(
    style: str, styled: Path, plant: Planter, lora: bool, checkpointing: bool
) -> None:
    forest = plant(*LARGE)
    full = trainer(styled, way=Way.FULL, lora=lora)
    short = trainer(styled, lora=lora, checkpointing=checkpointing)
    expected = full.forward_backward(forest, RATIO)
    assert short.forward_backward(forest, RATIO) == pytest.approx(expected, rel=1e-5)
    assert short._model.last_layer.way is STYLES[style]
    compare(gradients(short), gradients(full))


def test_gradients_are_those_of_rows_in_the_plain_model(styled: Path, plant: Planter) -> None:
    forest = plant(*LARGE)
    found = trainer(styled)
    found.forward_backward(forest, CROSS_ENTROPY)
    plain = AutoModelForCausalLM.from_pretrained(styled).eval()
    for tree in forest.trees:
        for call in tree.calls:
            path = tree.path(call.stop - 1)
            start = len(path) - (call.stop - call.start)
            logprobs_T_V = torch.log_softmax(plain(torch.tensor([path])).logits[0, start - 1 : -1], -1)
            chosen_T = logprobs_T_V.gather(1, torch.tensor(path[start:])[:, None])[:, 0]
            weights_T = torch.tensor(tree.weights[call.start : call.stop].tolist())
            (-(weights_T * chosen_T).sum()).backward()
    compare(gradients(found), {name: p.grad for name, p in plain.named_parameters() if p.grad is not None})


@few
@given(trees=forests, limit=st.integers(min_value=1, max_value=60), seed=st.integers(0, 2**20))
def test_random_forests_have_the_gradients_of_the_full_way(
    model_directory: Path, plant: Planter, trees: list[list[Sampled]], limit: int, seed: int
) -> None:
    forest = partly_trained(plant(*trees), seed=seed)
    full = trainer(model_directory, way=Way.FULL, micro_batch_tokens=limit)
    short = trainer(model_directory, way=Way.SHORT, micro_batch_tokens=limit)
    expected = full.forward_backward(forest, RATIO)
    assert short.forward_backward(forest, RATIO) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    compare(gradients(short), gradients(full))


def partly_trained(forest: TokenForest, *, seed: int) -> TokenForest:
    """Some nodes at random keep their weight."""
    draw = random.Random(seed)
    return TokenForest(
        trees=tuple(
            replace(tree, weights=array("f", [weight * draw.choice([0, 0, 1]) for weight in tree.weights]))
            for tree in forest.trees
        )
    )


def test_only_tokens_that_predict_one_reach_the_end_of_the_last_layer(
    model_directory: Path, plant: Planter
) -> None:
    forest = plant([(list(range(7, 60)), list(range(60, 70))), (list(range(7, 60)), [9, 9])])
    learner = trainer(model_directory, way=Way.SHORT)
    layers = learner._model.module.model.layers
    seen: list[int] = []
    for layer in layers:
        layer.mlp.register_forward_hook(lambda _module, given, _out: seen.append(given[0].shape[1]))
    learner._score(learner._batches(forest.trees, trained=True)[0])
    computed = 53 + 9 + 1  # the last token of an answer predicts nothing
    assert seen == [computed] * (len(layers) - 1) + [1 + 9 + 1]


TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
WAYS = {
    "llama": Way.SHORT,
    "mistral": Way.SHORT,
    "qwen2": Way.SHORT,
    "qwen3": Way.SHORT,
    "qwen3_moe": Way.SHORT,
    "gemma": Way.SHORT,
    "phi": Way.SHORT,
    "phi3": Way.SHORT,
    "olmo2": Way.SHORT,
    "granite": Way.SHORT,
    "smollm3": Way.SHORT,
    "gpt_neox": Way.SHORT,
    "opt": Way.SHORT,
    "gpt2": Way.SPREAD,
}
MORE: dict[str, dict[str, object]] = {
    "gemma": {"head_dim": 8},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def tiny(kind: str) -> LoadedModel:
    register_attention()
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **TINY, **MORE.get(kind, {}))
    create: Any = AutoModelForCausalLM.from_config
    module = create(config, attn_implementation=ATTENTION).eval()
    return LoadedModel(module=module, tokenizer=None, context=64, device=CPU)


@pytest.mark.parametrize("kind", list(WAYS))
def test_the_way_of_an_architecture(kind: str) -> None:
    assert way_of(tiny(kind)) is WAYS[kind]


def of_whole(module: Any) -> None:
    """The last layer counts on all tokens."""

    def check(_module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if given[0].shape[1] != 6:
            raise ValueError(f"{given[0].shape[1]} tokens instead of 6")

    module.model.layers[-1].mlp.register_forward_pre_hook(check)


def by_number(module: Any) -> None:
    """What the last layer says depends on how many tokens it is given."""
    module.model.layers[-1].mlp.register_forward_hook(
        lambda _module, given, out: out * (1 + given[0].shape[1])
    )


def without(module: Any) -> None:
    """The last layer has no attention."""
    layers = module.model.layers
    layers[-1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)


def out_of_order(module: Any) -> None:
    """The layer that is listed last is called first."""
    first, last = module.model.layers
    del module.model.layers
    module.model.listed_first = last
    module.model.layers = torch.nn.ModuleList([first, last])


@pytest.mark.parametrize("unlike", [of_whole, by_number, without, out_of_order])
def test_a_last_layer_unlike_any_known_is_computed_for_all_tokens(
    unlike: Callable[[torch.nn.Module], None],
) -> None:
    model = tiny("llama")
    unlike(model.module)
    assert way_of(model) is Way.FULL
    batch, _ = small_batch(device=CPU, sparse=False)
    assert batch.layout.used is not None
    assert hidden_states(model, batch).shape == (2, 32)


def test_a_layer_that_is_listed_but_never_called_changes_nothing() -> None:
    model, spared = tiny("llama"), tiny("llama")
    module: Any = spared.module
    module.spare = tiny("llama").module.model.layers[-1]
    assert layers_of(module)[-1] is module.spare
    batch, _ = small_batch(device=CPU, sparse=False)
    torch.testing.assert_close(hidden_states(spared, batch), hidden_states(model, batch))


def test_what_stands_in_for_a_layer_stays_there() -> None:
    model = tiny("llama")
    layer = layers_of(model.module)[-1]
    layer.forward = stand_in = layer.forward
    assert way_of(model) is Way.SHORT
    assert vars(layer)["forward"] is stand_in


def seen_by(sight: Sight, *, queries: int, size: int) -> torch.Tensor:
    """Which of `size` tokens each query sees, `[Q, T]`, read from values that are all different."""
    key = torch.zeros(1, 1, size, size, dtype=torch.float64)
    value = torch.eye(size, dtype=torch.float64)[None, None]
    query = torch.zeros(1, 1, queries, size, dtype=torch.float64)
    return sight.attend(query, key, value, scaling=None)[0, :, 0] > 0


@many
@given(trees=forests, limit=st.integers(min_value=1, max_value=60), seed=st.integers(0, 2**20))
def test_tokens_that_are_used_see_their_ancestors_alone(
    plant: Planter, trees: list[list[Sampled]], limit: int, seed: int
) -> None:
    forest = partly_trained(plant(*trees), seed=seed)
    for part in parts_of(forest.trees, trained=True, limit=limit):
        batch = lay_out([part], device=CPU)
        layout, size = batch.layout, part.size
        place_T = torch.arange(size)
        visible_T_T = (place_T <= place_T[:, None]) & (place_T[:, None] < layout.end_T)
        assert torch.equal(seen_by(layout.sight, queries=size, size=size), visible_T_T)
        if layout.used is None:
            continue
        place_U, rest_P = layout.used.place_U, layout.used.rest_P
        assert sorted(place_U.tolist() + rest_P.tolist()) == list(range(size))
        used = place_U if batch.used_K is None else place_U[batch.used_K]
        assert torch.equal(used, batch.parent_K)
        seen_U_T = seen_by(layout.used.sight, queries=len(place_U), size=size)
        assert torch.equal(seen_U_T, visible_T_T[place_U])


@few
@given(size=st.integers(min_value=2, max_value=700), seed=st.integers(0, 2**20))
def test_blocks_of_some_queries_cover_who_sees_whom(size: int, seed: int, nested: Nested) -> None:
    draw = random.Random(seed)
    end_T = nested(size, draw)
    place_Q = torch.tensor(sorted(draw.sample(range(size), draw.randrange(1, size))))
    mask = subtree_mask(end_T, place_Q)
    place_T = torch.arange(size)
    visible_Q_T = (place_T <= place_Q[:, None]) & (place_Q[:, None] < end_T)
    computed = mask.to_dense()[0, 0].bool()
    full_counts, full = mask.full_kv_num_blocks[0, 0], mask.full_kv_indices[0, 0]
    for row in range(computed.shape[0]):
        whole = set(full[row, : full_counts[row]].tolist())
        for column in range(computed.shape[1]):
            pairs = visible_Q_T[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
            assert computed[row, column] or not pairs.any()
            assert column not in whole or pairs.all()
    seen = [
        mask.mask_mod(torch.tensor(0), torch.tensor(0), torch.tensor(q), place_T) for q in range(len(place_Q))
    ]
    assert torch.equal(torch.stack(seen), visible_Q_T)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_of_some_queries_gives_the_same_log_probabilities(
    style: str, styled: Path, plant: Planter
) -> None:
    parts = parts_of(plant(*LARGE).trees, trained=True, limit=10_000)
    blocks, sparse = trainer(styled), trainer(styled, way=STYLES[style])
    sparse._model = replace(sparse._model, sparse=True)  # as on a GPU; on a CPU it has no gradients
    with torch.no_grad():
        torch.testing.assert_close(sparse._score(parts), blocks._score(parts), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
@pytest.mark.parametrize("attention", ["blocks", "flex"])
def test_the_short_way_has_the_same_gradients_on_a_gpu(
    style: str, styled: Path, plant: Planter, attention: str, checkpointing: bool
) -> None:
    forest = plant(*LARGE, *([(list(range(7 + n, 140)), list(range(10, 15 + n)))] for n in range(9)))
    full, short = (
        trainer(
            styled,
            way=way,
            device="cuda",
            dtype="float32",
            attention=attention,
            checkpointing=checkpointing,
        )
        for way in (Way.FULL, None)
    )
    expected = full.forward_backward(forest, RATIO)
    assert short.forward_backward(forest, RATIO) == pytest.approx(expected, rel=1e-3)
    assert short._model.last_layer.way is STYLES[style]
    found = gradients(short)
    for name, gradient in gradients(full).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-2, atol=1e-4)
