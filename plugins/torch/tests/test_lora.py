"""Low-rank adapters: what they compute, how they are trained, and how they are saved."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM

from agentlightning.engine import Backend, LossSpec, OptimizerConfig
from agentlightning.errors import ConfigError, EngineError
from agentlightning.types import TokenForest
from lightning_plugin_torch import create_backend
from lightning_plugin_torch._build import build
from lightning_plugin_torch._lora import add_adapters, merged_weights
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import BuildOptions, LoraOptions, TorchOptions
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._trainer import Trainer

Options = dict[str, object]
Sampled = tuple[list[int], list[int]]
Planter = Callable[..., TokenForest]
Starter = Callable[..., Awaitable[Backend]]

CROSS_ENTROPY = LossSpec(name="cross_entropy", target="losses_of_tests:cross_entropy")
RATIO = LossSpec(name="ratio", target="losses_of_tests:ratio", params={"scale": 0.5})
LORA: Options = {"rank": 4, "alpha": 8.0}
SCALE = 2.0
CALLS = [([7, 8, 9], [20, 21, 22]), ([7, 8, 9], [23, 24]), ([7, 8, 9, 20, 21, 22, 30], [31, 32])]

tokens = st.integers(min_value=7, max_value=12)
calls = st.tuples(st.lists(tokens, min_size=1, max_size=12), st.lists(tokens, min_size=1, max_size=5))


def trainer(
    directory: Path, *, lora: LoraOptions | None = None, rows: bool = False, dtype: str = "float32"
) -> Trainer:
    options = TorchOptions(model=str(directory), rows=rows, dtype=dtype)
    model = load(directory, options)
    if lora:
        add_adapters(model.module, lora, seed=3)
        scramble(model.module)
    return Trainer(model, Sampler(model, sizes=(1,), max_active=1), options=options, directory=directory)


def scramble(module: torch.nn.Module) -> None:
    """Gives the halves that begin as zero something to say."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.05, generator=generator)


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def styled(
    request: pytest.FixtureRequest, build_options: Options, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    build(BuildOptions(**build_options, style=request.param), seed=2, directory=directory)
    return directory


def test_gradients_are_those_of_the_merged_weights_by_the_chain_rule(styled: Path, plant: Planter) -> None:
    adapted, plain = trainer(styled, lora=LoraOptions(rank=4, alpha=8.0)), trainer(styled)
    plain._model.module.load_state_dict(merged_weights(adapted._model.module))
    forest = plant(CALLS)
    one, other = adapted.forward_backward(forest, RATIO), plain.forward_backward(forest, RATIO)
    assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
    parameters = dict(adapted._model.module.named_parameters())
    whole = dict(plain._model.module.named_parameters())
    layers = [name.removesuffix(".lora_A.default.weight") for name in parameters if ".lora_A." in name]
    assert len(layers) >= 8
    for layer in layers:
        a, b = parameters[f"{layer}.lora_A.default.weight"], parameters[f"{layer}.lora_B.default.weight"]
        gradient = whole[f"{layer}.weight"].grad
        if gradient.shape != (b.shape[0], a.shape[1]) or "c_" in layer:
            gradient = gradient.T  # GPT-2 keeps its matrices the other way round
        torch.testing.assert_close(a.grad, SCALE * b.T @ gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(b.grad, SCALE * gradient @ a.T, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in parameters.values() if not p.requires_grad)


def test_gradients_are_finite_differences(model_directory: Path, plant: Planter) -> None:
    adapted = trainer(model_directory, lora=LoraOptions(rank=2, alpha=4.0))
    forest = plant(CALLS)
    adapted.forward_backward(forest, CROSS_ENTROPY)
    parameters = dict(adapted._model.module.named_parameters())
    gradients = {name: p.grad.flatten().clone() for name, p in parameters.items() if p.requires_grad}
    step = 1e-2
    for half in ("lora_A", "lora_B"):
        name = f"model.layers.1.mlp.down_proj.{half}.default.weight"
        parameter, gradient_P = parameters[name], gradients[name]
        place = gradient_P.abs().argmax().item()
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.flatten()[place] += sign * step
            losses.append(adapted.forward_backward(forest, CROSS_ENTROPY)["loss"])
            with torch.no_grad():
                parameter.flatten()[place] -= sign * step
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(gradient_P[place].item(), rel=1e-2)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(trees=st.lists(st.lists(calls, min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_forest_has_the_gradients_of_its_rows(
    model_directory: Path, plant: Planter, trees: list[list[Sampled]]
) -> None:
    forest, lora = plant(*trees), LoraOptions(rank=4, alpha=8.0)
    as_forest, as_rows = trainer(model_directory, lora=lora), trainer(model_directory, lora=lora, rows=True)
    assert as_forest.forward_backward(forest, RATIO) == pytest.approx(
        as_rows.forward_backward(forest, RATIO), rel=1e-5, abs=1e-6
    )
    theirs = dict(as_rows._model.module.named_parameters())
    for name, parameter in as_forest._model.module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6)


async def test_training_moves_the_adapters_alone(
    start: Starter, model_directory: Path, plant: Planter
) -> None:
    backend, plain = [await start(model=str(model_directory), lora=lora) for lora in (LORA, None)]
    forest = plant(CALLS)
    before = await backend.learner.logprobs(forest)
    assert before == await plain.learner.logprobs(forest)  # adapters begin as nothing
    module = backend.engine._loaded.model.module
    frozen = {name: p.clone() for name, p in module.named_parameters() if ".lora_" not in name}
    for _ in range(3):
        await backend.learner.forward_backward(forest, RATIO)
        await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2, weight_decay=0.1))
    assert await backend.learner.logprobs(forest) != before
    for name, parameter in module.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name


async def test_the_sampler_uses_the_trained_adapters(start: Starter, plant: Planter) -> None:
    backend = await start(lora=LORA)
    body = {
        "messages": [{"role": "user", "content": "What is 1 + 1?"}],
        "seed": 5,
        "max_tokens": 30,
        "logprobs": True,
        "return_token_ids": True,
    }
    first = await backend.engine.chat(body)
    await backend.learner.forward_backward(plant(CALLS), RATIO)
    await backend.learner.optim_step(OptimizerConfig(learning_rate=3e-2))
    assert await backend.learner.publish() == 1
    answer = await backend.engine.chat(body)
    assert answer["policy_version"] == 1
    sampled, earlier = [
        [entry["logprob"] for entry in one["choices"][0]["logprobs"]["content"]] for one in (answer, first)
    ]
    assert sampled != earlier
    forest = plant([(answer["prompt_token_ids"], answer["choices"][0]["token_ids"])])
    found = (await backend.learner.logprobs(forest))[0]
    call = forest.trees[0].calls[0]
    assert found[call.start : call.stop] == pytest.approx(sampled, abs=1e-4)


async def test_a_saved_model_is_merged_and_says_the_same(
    start: Starter, plant: Planter, tmp_path: Path
) -> None:
    backend, forest = await start(lora=LORA), plant(CALLS)
    for _ in range(3):
        await backend.learner.forward_backward(forest, RATIO)
        await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2))
    found = await backend.learner.logprobs(forest)
    await backend.learner.save_model(tmp_path / "merged")
    assert await backend.learner.logprobs(forest) == found  # saving leaves the run as it was
    merged = await start(model=str(tmp_path / "merged"))
    for mine, theirs in zip(found, await merged.learner.logprobs(forest), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert not [name for name in json.loads((tmp_path / "merged/config.json").read_text()) if "lora" in name]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers so
async def test_saved_adapters_are_loaded_by_peft(
    start: Starter, model_directory: Path, plant: Planter, tmp_path: Path
) -> None:
    backend, forest = await start(model=str(model_directory), lora=LORA), plant([([7, 8, 9], [20])])
    await backend.learner.forward_backward(forest, RATIO)
    await backend.learner.optim_step(OptimizerConfig(learning_rate=3e-2))
    for name in ("one", "other"):
        await backend.learner.save_adapter(tmp_path / name)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()
    base = AutoModelForCausalLM.from_pretrained(model_directory)
    loaded = PeftModel.from_pretrained(base, tmp_path / "one").eval()
    with torch.no_grad():
        logprobs_V = torch.log_softmax(loaded(torch.tensor([[7, 8, 9]])).logits[0, -1], -1)
    found = await backend.learner.logprobs(forest)
    assert found[0][3] == pytest.approx(logprobs_V[20].item(), abs=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_training_goes_on_bit_by_bit_from_saved_adapters(
    start: Starter, plant: Planter, tmp_path: Path, dtype: str
) -> None:
    forest = plant(CALLS)

    async def train(backend: Backend, steps: int) -> None:
        for _ in range(steps):
            await backend.learner.forward_backward(forest, RATIO)
            await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-3))

    through, resumed = [await start(dtype=dtype, lora=LORA) for _ in range(2)]
    saved, one, other = (tmp_path / name for name in ("saved", "one", "other"))
    for directory in (saved, one, other):
        directory.mkdir()
    await train(through, 2)
    await through.learner.save_state(saved)
    await train(through, 2)
    await resumed.learner.load_state(saved)
    await train(resumed, 2)
    await through.learner.save_state(one)
    await resumed.learner.save_state(other)
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    assert (saved / "model.safetensors").stat().st_size < 100_000  # adapters, and nothing else


async def test_a_state_of_other_parameters_is_refused(start: Starter, tmp_path: Path) -> None:
    whole, adapted, narrow = [
        await start(lora=lora) for lora in (None, LORA, {**LORA, "targets": ["q_proj"]})
    ]
    for backend, name in ((whole, "whole"), (adapted, "adapted")):
        (tmp_path / name).mkdir()
        await backend.learner.save_state(tmp_path / name)
    with pytest.raises(EngineError, match=r"holds whole weights .* this run trains adapters"):
        await adapted.learner.load_state(tmp_path / "whole")
    with pytest.raises(EngineError, match=r"holds adapters .* this run trains whole weights"):
        await whole.learner.load_state(tmp_path / "adapted")
    with pytest.raises(EngineError, match="use the model and the lora options"):
        await narrow.learner.load_state(tmp_path / "adapted")


async def test_whole_weights_are_not_saved_as_adapters(start: Starter, tmp_path: Path) -> None:
    backend = await start()
    with pytest.raises(EngineError, match="trains whole weights"):
        await backend.learner.save_adapter(tmp_path / "adapter")


async def test_targets_are_the_layers_that_get_adapters(start: Starter) -> None:
    backend = await start(lora={"rank": 3, "targets": ["q_proj", "v_proj"]})
    named = dict(backend.engine._loaded.model.module.named_parameters())
    trained = [name for name, parameter in named.items() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert all(".q_proj." in name or ".v_proj." in name for name in trained)
    assert all(3 in named[name].shape for name in trained)


async def test_adapters_of_a_model_in_few_bits_are_kept_in_full(start: Starter) -> None:
    backend = await start(dtype="bfloat16", lora=LORA)
    types = {
        parameter.requires_grad: parameter.dtype
        for parameter in backend.engine._loaded.model.module.parameters()
    }
    assert types == {True: torch.float32, False: torch.bfloat16}


async def test_a_target_that_the_model_has_not_is_named(start: Starter) -> None:
    with pytest.raises(ConfigError, match="no_such_layer"):
        await start(lora={"targets": ["no_such_layer"]})


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": -1.0}, "alpha -1.0"),
        ({"dropout": 0.1}, "only 0 trains the policy"),
        ({"ranks": 4}, "rank"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(
    build_options: Options, tmp_path: Path, lora: Options, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create_backend({"build": build_options, "lora": lora}, seed=0, directory=tmp_path)
