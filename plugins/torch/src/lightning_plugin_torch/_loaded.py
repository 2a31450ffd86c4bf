"""What exists once the model is loaded, and how it comes to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_plugin_torch._build import build
from lightning_plugin_torch._codec import Codec
from lightning_plugin_torch._compact import CHAT_TEMPLATE, CompactFormat
from lightning_plugin_torch._forward import Forward
from lightning_plugin_torch._lora import add_adapters
from lightning_plugin_torch._model import LoadedModel, load
from lightning_plugin_torch._options import TorchOptions, decode_build, decode_lora
from lightning_plugin_torch._ranks import START, join
from lightning_plugin_torch._sampler import MIB, Sampler
from lightning_plugin_torch._sizes import safe_sizes
from lightning_plugin_torch._template import TemplateFormat
from lightning_plugin_torch._trainer import Trainer
from lightning_plugin_torch._value_trainer import create_trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model with what samples from it, what trains it, and what reads and writes its tokens."""

    model: LoadedModel
    sampler: Sampler
    codec: Codec
    trainer: Trainer


def load_all(options: TorchOptions, *, seed: int, directory: Path) -> Loaded:
    """Builds the model if it is to be built, and loads it; runs on the worker's thread.

    Raises:
        ConfigError: The corpus, the device, the context or the chat template cannot be used.
        EngineError: The model cannot be loaded, or not be sampled from.
    """
    path = Path(options.model)
    if options.build is not None:
        path = directory / "model"
        build(decode_build(options.build), seed=seed, directory=path)
    model = load(path, options)
    if options.lora is not None:
        add_adapters(model.module, decode_lora(options.lora), seed=seed)
    threads = options.threads or (1 if model.small and model.device.type == "cpu" else 0)
    if threads:
        torch.set_num_threads(threads)
    sizes = safe_sizes(Forward(model), largest=options.batch)
    sampler = Sampler(
        model,
        sizes=sizes,
        max_active=options.max_active,
        cache_bytes=options.prefix_cache_mib * MIB,
        recompute=options.in_flight == "recompute",
    )
    ranks = join(options.ranks, device=model.device)
    ranks.announce(START, path, options, seed)
    trainer = create_trainer(model, sampler, options=options, directory=directory, ranks=ranks)
    return Loaded(model=model, sampler=sampler, codec=_codec(model), trainer=trainer)


def _codec(model: LoadedModel) -> Codec:
    if model.tokenizer.chat_template == CHAT_TEMPLATE:
        return Codec(CompactFormat(model.tokenizer))
    return Codec(TemplateFormat(model.tokenizer, end_ids=model.end_ids))
