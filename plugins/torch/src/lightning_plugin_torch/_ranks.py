"""Who shares the work of a learner: this process alone, or all that torchrun started.

With several, the weights that are trained lie in shards, a part of each in every process (FSDP2). The first process
leads: it announces each job with its arguments, and all of them do it together, each with its share of the
micro-batches. It alone samples, from whole weights of its own, which are written anew after each step.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from agentlightning.errors import ConfigError
from lightning_plugin_torch._hidden import way_of
from lightning_plugin_torch._layout import Batch
from lightning_plugin_torch._model import LoadedModel, layers_of
from lightning_plugin_torch._scoring import Asked, score
from lightning_plugin_torch._value_head import ValueHead

Item = TypeVar("Item")
Score = Callable[[Batch, Asked], torch.Tensor]

START, STOP, LEAVE = "start", "stop", "leave"
"""Jobs beside those of a trainer: a learner begins, it ends, and no further one begins."""

PATIENCE = timedelta(days=30)
"""How long a process waits for the next job: as long as agents may take."""


class Ranks(Protocol):
    """The processes of a learner.

    Attributes:
        leads: Whether this one announces jobs.
    """

    leads: bool

    def place(self, model: LoadedModel, head: ValueHead | None) -> tuple[torch.nn.Module, Score]:
        """The module whose parameters are trained, and what computes with it and the head; the head stays itself."""
        ...

    def announce(self, job: str, *arguments: object) -> None:
        """Lets the others begin the same job."""
        ...

    def share(self, items: Sequence[Item]) -> list[tuple[Item, float]]:
        """This process's items, each with the factor of its gradient; all processes get equally many."""
        ...

    def joined(self, own: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
        """One tensor of what all computed for the items of a `share`, in the order of the items.

        Args:
            own: `[sizes[i], …]` for each of this process's items, all but the first size alike.
            sizes: Of all items.
        """
        ...

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes."""
        ...

    def serve(self, model: LoadedModel, weights: Mapping[str, torch.Tensor]) -> None:
        """Writes trained weights into the model that is sampled from."""
        ...


class Alone:
    """One process: it trains the weights that are sampled from."""

    leads = True

    def place(self, model: LoadedModel, head: ValueHead | None) -> tuple[torch.nn.Module, Score]:
        """The model itself."""
        return model.module, lambda batch, asked: score(model, batch, asked=asked, head=head)

    def announce(self, job: str, *arguments: object) -> None:
        """Tells nobody."""

    def share(self, items: Sequence[Item]) -> list[tuple[Item, float]]:
        """All items."""
        return [(item, 1.0) for item in items]

    def joined(self, own: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:  # noqa: ARG002
        """What this process computed."""
        return torch.cat(list(own))

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The sums."""
        return dict(sums)

    def serve(self, model: LoadedModel, weights: Mapping[str, torch.Tensor]) -> None:
        """Nothing: they are the same."""


class Group:
    """The processes that torchrun started.

    Attributes:
        leads: Whether this one announces jobs.
        size: How many there are.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        rank, self.size = dist.get_rank(), dist.get_world_size()
        self.leads = rank == 0
        self._rank = rank
        self._device = device

    def place(self, model: LoadedModel, head: ValueHead | None) -> tuple[torch.nn.Module, Score]:
        """The model in shards, in float32; it computes in the type of the model. The head is put in shards as it is.

        The leader samples from what it has, and puts a copy in shards.
        """
        dtype = next(model.module.parameters()).dtype
        policy = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32
        )
        way_of(model)  # every process has to know it before their layers are called together
        mesh = init_device_mesh(self._device.type, (self.size,))
        module = copy.deepcopy(model.module) if self.leads else model.module
        scorer = _Scorer(replace(model, module=module.float()), head)
        for layer in layers_of(scorer.module):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        if head is not None:
            fully_shard(head, mesh=mesh)  # by itself: it computes in float32, whatever the model does
        fully_shard(scorer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        return scorer.module, scorer

    def announce(self, job: str, *arguments: object) -> None:
        """Sends the job, if this process leads."""
        if self.leads:
            dist.broadcast_object_list([job, arguments], src=0)

    def hear(self) -> tuple[str, tuple[object, ...]]:
        """The next job, once the leader announces it."""
        heard: list[object] = [None, None]
        dist.broadcast_object_list(heard, src=0)
        job, arguments = heard
        if not (isinstance(job, str) and isinstance(arguments, tuple)):
            raise TypeError(f"heard {job!r} with {arguments!r} instead of a job with its arguments")
        return job, arguments

    def share(self, items: Sequence[Item]) -> list[tuple[Item, float]]:
        """Every so many-th item. Who has none left computes one that is not counted: all have to take part.

        FSDP divides gradients by the number of processes; the factor takes that back.
        """
        rounds = -(-len(items) // self.size)
        places = range(self._rank, rounds * self.size, self.size)
        return [(items[min(p, len(items) - 1)], self.size * float(p < len(items))) for p in places]

    def joined(self, own: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
        """What all computed."""
        offsets = [sum(sizes[:place]) for place in range(len(sizes))]
        found = torch.zeros((sum(sizes), *(own[0].shape[1:] if own else ())), device=self._device)
        for mine, place in zip(own, range(self._rank, len(sizes), self.size), strict=False):
            found[offsets[place] : offsets[place] + sizes[place]] = mine
        dist.all_reduce(found)
        return found

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes; names that one alone knows count too."""
        every: list[dict[str, float]] = [{}] * self.size
        dist.all_gather_object(every, dict(sums))
        names = dict.fromkeys(name for found in every for name in found)
        return {name: sum(found.get(name, 0.0) for found in every) for name in names}

    @torch.no_grad()
    def serve(self, model: LoadedModel, weights: Mapping[str, torch.Tensor]) -> None:
        """Gathers them, for the leader to write."""
        served = dict(model.module.named_parameters())
        for name, weight in weights.items():
            gathered = whole(weight)
            if self.leads:
                served[name].copy_(gathered)


def join(ranks: int, *, device: torch.device) -> Ranks:
    """The processes that a learner was told to use.

    Args:
        ranks: How many there have to be.
        device: Where this one computes.

    Raises:
        ConfigError: Torchrun started another number of processes, or did not start this one.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks != started:
        raise ConfigError(
            f"engine 'torch': ranks is {ranks!r}, but this is one of {started!r} processes of torchrun; "
            f"set both alike: torchrun --nproc-per-node {max(ranks, 2)} -m lightning_plugin_torch train …"
        )
    if ranks == 1:
        return Alone()
    if not dist.is_initialized():
        raise ConfigError(
            f"engine 'torch': ranks is {ranks!r}, but the other processes do not follow; "
            f"start with torchrun --nproc-per-node {ranks} -m lightning_plugin_torch train …"
        )
    return Group(device)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this process may have a shard; every process has to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out(tensor: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, in shards if another is; every process has to call it."""
    if isinstance(like, DTensor) and tensor.ndim:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)


class _Scorer(torch.nn.Module):
    """Everything that weights take part in, as one module: FSDP gathers shards at its beginning and end."""

    def __init__(self, model: LoadedModel, head: ValueHead | None) -> None:
        super().__init__()
        self.module = model.module
        self.head = head
        self._model = model

    def forward(self, batch: Batch, asked: Asked) -> torch.Tensor:
        return score(self._model, batch, asked=asked, head=self.head)
