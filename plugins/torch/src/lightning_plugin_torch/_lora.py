"""Low-rank adapters: trained instead of the weights, saved as PEFT does, merged for whoever knows no adapters."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from agentlightning.errors import ConfigError, EngineError, MissingExtra
from lightning_plugin_torch._options import LoraOptions
from lightning_plugin_torch._writing import writing

ADAPTER = "default"
WEIGHTS = "adapter_model.safetensors"


def add_adapters(module: torch.nn.Module, options: LoraOptions, *, seed: int) -> None:
    """Puts adapters into a model, in place, and freezes all else; the model computes what it did before.

    Args:
        module: A `transformers` model.
        options: Rank and places.
        seed: Seed of the adapters' random halves; the others are zero.

    Raises:
        ConfigError: The model has no layer of a name in `targets`.
        MissingExtra: `peft` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtra(
            f"engine 'torch', lora: adapters need peft, which cannot be imported ({error}); "
            "install it with: pip install 'lightning-plugin-torch[lora]'"
        ) from error
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # a plain factor, whatever its declared type
        target_modules=list(options.targets) or "all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # it finds out by itself how GPT-2 lays out its weights
            torch.manual_seed(seed)
            inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    except ValueError as error:
        raise ConfigError(
            f"engine 'torch', lora: adapters cannot be put into targets {list(options.targets)!r} of "
            f"{type(module).__name__}: {error}"
        ) from error
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # adapters are small: keep every bit of their updates


def merged_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights under the names that they had before adapters came, with what the adapters add to them."""
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        if ".lora_" in name:
            continue
        layer_name, base, _ = name.rpartition(".base_layer.weight")
        if base:
            layer: Any = module.get_submodule(layer_name)
            with torch.no_grad():
                tensor = (tensor.float() + layer.get_delta_weight(ADAPTER).float()).to(tensor.dtype)  # noqa: PLW2901
        weights[name.replace(".base_layer.", ".")] = tensor
    return weights


def write_adapter(module: torch.nn.Module, directory: Path) -> None:
    """Writes the adapters as `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        EngineError: The model has no adapters.
        StoreUnavailable: The files cannot be written.
    """
    adapters = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": parameter.detach().contiguous()
        for name, parameter in module.named_parameters()
        if ".lora_" in name
    }
    if not adapters:
        raise EngineError("this learner trains whole weights, not adapters; set lora, or use save_model")
    holder: Any = module
    config = copy.copy(holder.peft_config[ADAPTER])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # the same adapters, the same bytes
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        save_file(adapters, directory / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(directory))
