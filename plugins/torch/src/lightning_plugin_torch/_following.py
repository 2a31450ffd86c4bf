"""What the processes of torchrun do that do not lead: they load the same model, and do each job with the leader."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist

from agentlightning.errors import AglError
from lightning_plugin_torch._lora import add_adapters
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import TorchOptions, decode_lora
from lightning_plugin_torch._ranks import LEAVE, PATIENCE, START, STOP, Group
from lightning_plugin_torch._trainer import Trainer
from lightning_plugin_torch._value_trainer import create_trainer

_THREADS: Final = 2  # of gloo
_LET_GO_S: Final = 10.0
_LOOK_S: Final = 0.02


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
        _let_go()
        dist.destroy_process_group()


def _let_go() -> None:
    """Waits until the group's threads have let go of what they were given.

    They live as long as the process, because torch's caches know the group. One that lets go of a tensor while the
    interpreter ends aborts the process, after all its work is done.
    """
    works, given = [], []
    for _ in range(_THREADS):
        tensor = torch.zeros(1)
        given.append(weakref.ref(tensor))
        works.append(dist.broadcast(tensor, src=0, async_op=True))
        del tensor
    for work in works:
        work.wait()
    works.clear()
    del work
    until = time.monotonic() + _LET_GO_S
    time.sleep(_LOOK_S)  # for what they were given before
    while any(one() is not None for one in given) and time.monotonic() < until:
        time.sleep(_LOOK_S)


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
