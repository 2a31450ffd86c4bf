"""What the processes of torchrun do that do not lead: they load the same model, and do each job with the leader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from agentlightning.errors import AglError
from lightning_plugin_torch._lora import add_adapters
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import TorchOptions, decode_lora
from lightning_plugin_torch._ranks import LEAVE, PATIENCE, START, STOP, Group
from lightning_plugin_torch._trainer import Trainer
from lightning_plugin_torch._value_trainer import create_trainer


@dataclass(slots=True)
class Unsampled:
    """Stands where the leader has a sampler."""

    version: int = 0

    def weights_changed(self) -> None:
        """Nothing to forget."""


def meet() -> bool:
    """Joins the processes that torchrun started; returns whether this one leads."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    return dist.get_rank() == 0


def leave() -> None:
    """Ends the group; the leader sends the others home."""
    if dist.is_initialized():
        Group(torch.device("cpu")).announce(LEAVE)
        dist.destroy_process_group()


def follow() -> None:
    """Does what the leader announces, until it leaves."""
    trainer: Trainer | None = None
    ears = Group(torch.device("cpu"))
    while True:
        job, arguments = ears.hear()
        if job == LEAVE:
            return leave()
        if job in (START, STOP):
            trainer = _trainer(*arguments) if job == START else None
            continue
        try:
            getattr(trainer, job)(*arguments)
        except AglError:
            continue  # the leader has the same error, and tells it


def _trainer(path: object, options: object, seed: object) -> Trainer:
    if not (isinstance(path, Path) and isinstance(options, TorchOptions) and isinstance(seed, int)):
        raise TypeError(f"cannot start a learner with {path!r}, {options!r} and {seed!r}")
    model = load(path, options)
    if options.lora is not None:
        add_adapters(model.module, decode_lora(options.lora), seed=seed)
    return create_trainer(
        model, Unsampled(), options=options, directory=path.parent, ranks=Group(model.device), checked=True
    )
