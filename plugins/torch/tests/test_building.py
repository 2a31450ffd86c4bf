"""Building models, options and registration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    GptOssConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
)

from agentlightning.errors import ConfigError, EngineError
from agentlightning.types import TokenForest
from lightning_plugin_torch import create_backend
from lightning_plugin_torch._build import build
from lightning_plugin_torch._cache import Page, Rows
from lightning_plugin_torch._forward import Forward
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import BuildOptions, TorchOptions
from lightning_plugin_torch._sizes import agreeing_rows, safe_sizes

Options = dict[str, object]
Planter = Callable[..., TokenForest]


def test_the_same_seed_builds_the_same_files(build_options: Options, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        build(BuildOptions(**build_options), seed=seed, directory=tmp_path / name)
    one = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert one == {path.name: path.read_bytes() for path in (tmp_path / "same").iterdir()}
    assert one["model.safetensors"] != (tmp_path / "other" / "model.safetensors").read_bytes()
    assert one["tokenizer.json"] == (tmp_path / "other" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("digits", [1, 2])
def test_numbers_are_split_into_tokens_of_so_many_digits(
    build_options: Options, tmp_path: Path, digits: int
) -> None:
    build(BuildOptions(**{**build_options, "vocabulary": 480}, digits=digits), seed=0, directory=tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [tokenizer.decode([token]) for token in tokenizer("What is 12 + 7345?")["input_ids"]]
    numbers = [text for text in texts if text.strip().isdigit()]
    assert numbers == (["1", "2", "7", "3", "4", "5"] if digits == 1 else ["12", "73", "45"])
    assert "".join(texts) == "What is 12 + 7345?"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of model and build"),
        ({"model": "x", "build": {"corpus": "y"}}, "one of model and build"),
        ({"model": "nowhere"}, r"has no config\.json"),
        ({"modle": "x"}, "did you mean 'model'"),
        ({"build": {"corpus": "nowhere.jsonl"}}, "is not a file"),
        ({"build": {"corpus": "x", "layer": 2}}, "did you mean 'layers'"),
        ({"build": {"corpus": "x", "width": 30, "heads": 4}}, "multiple of twice the heads"),
        ({"build": {"corpus": "x", "style": "mamba"}}, "style"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: Options, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        create_backend(options, seed=0, directory=tmp_path)


@pytest.fixture
def broken(corpus: Path, tmp_path: Path) -> Path:
    path = tmp_path / "broken.jsonl"
    path.write_text(corpus.read_text().splitlines()[0] + '\n{"text": "no messages"}\n')
    return path


async def test_a_corpus_line_that_is_no_conversation_is_named(
    build_options: Options, broken: Path, tmp_path: Path
) -> None:
    backend = create_backend({"build": {**build_options, "corpus": str(broken)}}, seed=0, directory=tmp_path)
    with pytest.raises(ConfigError, match="line 2 of corpus"):
        await backend.engine.start()


async def test_a_damaged_model_is_refused(model_directory: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    backend = create_backend({"model": str(broken)}, seed=0, directory=tmp_path)
    with pytest.raises(EngineError, match="cannot load the model"):
        await backend.engine.start()


async def test_a_context_beyond_the_model_is_refused(model_directory: Path, tmp_path: Path) -> None:
    backend = create_backend({"model": str(model_directory), "context": 9999}, seed=0, directory=tmp_path)
    with pytest.raises(ConfigError, match=r"context 9999 is more than the model's 160"):
        await backend.engine.start()


def test_some_number_of_rows_is_safe(model_directory: Path) -> None:
    model = load(model_directory, TorchOptions(model=str(model_directory)))
    assert safe_sizes(Forward(model), largest=1) == (1,)
    assert safe_sizes(Forward(model), largest=16)[-1] <= 16


def _random_model(config: PreTrainedConfig, tokenizer_from: Path, directory: Path) -> str:
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(directory)
    return str(directory)


SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "eos_token_id": 6,
}


async def test_a_window_is_never_left(model_directory: Path, tmp_path: Path) -> None:
    model = _random_model(MistralConfig(**SIZES, sliding_window=16), model_directory, tmp_path / "mistral")
    backend = create_backend({"model": model}, seed=0, directory=tmp_path)
    await backend.engine.start()
    answer = await backend.engine.chat({"messages": [{"role": "user", "content": "1"}], "seed": 0})
    await backend.engine.stop()
    assert answer["usage"]["total_tokens"] <= 16


async def test_an_architecture_without_keys_and_values_is_refused(
    model_directory: Path, tmp_path: Path
) -> None:
    config = MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1, max_position_embeddings=64)
    model = _random_model(config, model_directory, tmp_path / "mamba")
    backend = create_backend({"model": model}, seed=0, directory=tmp_path)
    with pytest.raises(EngineError, match="MambaForCausalLM cannot be sampled from"):
        await backend.engine.start()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (Gemma2Config(**SIZES, head_dim=16), "Gemma2Attention changes attention by softcap"),
        (
            GptOssConfig(**SIZES, head_dim=16, num_local_experts=2, num_experts_per_tok=1),
            "GptOssAttention changes attention by s_aux",
        ),
    ],
)
async def test_an_architecture_with_attention_of_its_own_is_refused(
    config: PreTrainedConfig, what: str, model_directory: Path, tmp_path: Path
) -> None:
    model = _random_model(config, model_directory, tmp_path / "model")
    backend = create_backend({"model": model}, seed=0, directory=tmp_path)
    with pytest.raises(EngineError, match=what):
        await backend.engine.start()


async def test_an_architecture_that_changes_its_logits_is_not_trained(
    model_directory: Path, tmp_path: Path, plant: Planter
) -> None:
    config = CohereConfig(**SIZES, logit_scale=0.5)
    model = _random_model(config, model_directory, tmp_path / "cohere")
    backend = create_backend({"model": model}, seed=0, directory=tmp_path)
    await backend.engine.start()
    with pytest.raises(ConfigError, match="CohereForCausalLM computes a token tree differently"):
        await backend.learner.logprobs(plant([([7, 8], [9])]))
    await backend.engine.stop()


class UnevenModel:
    """Stands for a machine on which the numbers of a row depend on how many rows there are, and maybe on its place."""

    small, vocabulary, device = True, 8, torch.device("cpu")

    def __init__(self, *, uneven_places: bool) -> None:
        self._uneven_places = uneven_places
        self.model = self

    def rows(self, rows: Rows) -> torch.Tensor:
        ids_R_W, _, _ = rows.feed(self.device)
        zeros_R_1_W_1 = torch.zeros(len(ids_R_W), 1, ids_R_W.shape[1], 1)
        rows.update(zeros_R_1_W_1, zeros_R_1_W_1, 0)
        return torch.zeros(len(ids_R_W), 1) + 1e-6 * (len(ids_R_W) == 4)

    def page(self, page: Page) -> torch.Tensor:
        ids_S_1, _, _ = page.feed()
        uneven_S_1 = torch.arange(len(ids_S_1))[:, None] if self._uneven_places else float(len(ids_S_1) >= 32)
        return ids_S_1 + 1e-6 * uneven_S_1


def test_only_numbers_of_rows_that_agree_are_used() -> None:
    assert safe_sizes(UnevenModel(uneven_places=False), largest=0) == (32, 64)
    assert safe_sizes(UnevenModel(uneven_places=True), largest=0) == (1,)


def test_only_numbers_of_blocks_that_agree_are_computed_together() -> None:
    assert agreeing_rows(UnevenModel(uneven_places=False), width=16, most=8) == (1, 2, 8)
    assert agreeing_rows(UnevenModel(uneven_places=False), width=16, most=1) == (1,)


def test_hooks_load_without_torch() -> None:
    code = (
        "import sys; from lightning_plugin_torch import hooks; (spec,) = hooks.agl_register_engines(); "
        "assert spec.name == 'torch' and 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
