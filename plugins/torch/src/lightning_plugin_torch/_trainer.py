"""Forward, backward and optimiser steps over token forests; every method runs on the worker's thread."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint

from agentlightning.engine import LossSpec, OptimizerConfig
from agentlightning.errors import EngineError, NumericalError
from agentlightning.types import TokenForest, TokenTree
from lightning_plugin_torch._layout import Batch, lay_out, plan
from lightning_plugin_torch._lora import write_adapter
from lightning_plugin_torch._loss import load_loss
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._optimizer import Optimizer
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._probe import check_forest
from lightning_plugin_torch._rows import rows_of
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._state import read_state, write_state

LOGITS_AT_ONCE = 2**25
"""Most logits that exist at a time, in numbers: 128 MiB of float32."""

Wanted = tuple[int, TokenTree, list[int]]


class Trainer:
    """Trains the weights that the sampler uses; between its calls nothing is sampled."""

    def __init__(
        self, model: LoadedModel, sampler: Sampler, *, options: TorchOptions, directory: Path
    ) -> None:
        self._model = model
        self._sampler = sampler
        self._limit = options.micro_batch_tokens
        self._rows = options.rows
        self._directory = directory
        self._optimizer = Optimizer(model.module)
        self._checked = False

    @property
    def version(self) -> int:
        """Optimiser steps so far."""
        return self._sampler.version

    def forward_backward(self, forest: TokenForest, spec: LossSpec) -> dict[str, float]:
        """Adds gradients; see `TorchLearner.forward_backward`."""
        loss = load_loss(spec)
        trees = rows_of(forest.trees) if self._rows else forest.trees
        totals = {"loss": 0.0}
        count = 0
        for batch in self._batches(trees, trained=True):
            logprobs_K = self._logprobs(batch)
            old_K, advantages_K, weights_K = self._columns(batch, trees)
            value, metrics = loss(
                logprobs_K,
                old_logprobs_T=old_K,
                advantages_T=advantages_K,
                weights_T=weights_K,
                **spec.params,
            )
            totals["loss"] += value.item()
            for name, metric_K in metrics.items():
                totals[name] = totals.get(name, 0.0) + metric_K.detach().double().sum().item()
            count += len(batch.origin_K)
            torch.autograd.backward(value)
        self._check(forest, spec, loss=totals["loss"])
        means = {name: total if name == "loss" else total / count for name, total in totals.items()}
        return {**means, "tokens": float(count)}

    @torch.no_grad()
    def logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Log-probabilities of every node; see `TorchLearner.logprobs`."""
        found = [[0.0] * len(tree) for tree in forest.trees]
        for batch in self._batches(forest.trees, trained=False):
            for (tree, node), value in zip(batch.origin_K, self._logprobs(batch).tolist(), strict=True):
                found[tree][node] = value
        return found

    def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        """Applies and clears the gradients; the sampler uses the new weights from its next token on."""
        metrics = self._optimizer.step(config)
        self._sampler.version += 1
        self._sampler.weights_changed()
        return metrics

    def publish(self) -> int:
        """The version that is sampled from; prompts are prefilled anew."""
        self._sampler.weights_changed()
        return self._sampler.version

    def save_state(self, directory: Path) -> None:
        """Writes weights, optimiser and version."""
        write_state(
            directory,
            weights=self._weights(),
            optimizer=self._optimizer.tensors(),
            state={"version": self._sampler.version},
        )

    def load_state(self, directory: Path) -> None:
        """Puts them back; gradients are discarded."""
        saved = read_state(directory)
        wanted = self._weights()
        if saved.weights.keys() != wanted.keys():
            raise EngineError(
                f"checkpoint {str(directory)!r} holds {_kind(saved.weights)}, but this run trains {_kind(wanted)}; "
                "use the model and the lora options that it was saved with"
            )
        self._model.module.load_state_dict(saved.weights, strict=False)
        self._optimizer.restore(saved.optimizer)
        self._sampler.version = saved.version
        self._sampler.weights_changed()

    def save_model(self, directory: Path) -> None:
        """Writes a Hugging Face model directory."""
        self._model.save(directory)

    def save_adapter(self, directory: Path) -> None:
        """Writes the adapters as PEFT does."""
        write_adapter(self._model.module, directory)

    def _weights(self) -> dict[str, torch.Tensor]:
        """What is trained."""
        return {name: p.detach() for name, p in self._model.module.named_parameters() if p.requires_grad}

    def _batches(self, trees: tuple[TokenTree, ...], *, trained: bool) -> Iterator[Batch]:
        if not self._checked:
            check_forest(self._model)
            self._checked = True
        wanted: list[Wanted] = []
        for index, tree in enumerate(trees):
            nodes = [
                node
                for node, parent in enumerate(tree.parents)
                if parent >= 0 and not (trained and tree.weights[node] == 0)
            ]
            if nodes:
                wanted.append((index, tree, nodes))
        for places in plan(wanted, limit=self._limit):
            yield lay_out([wanted[place] for place in places], device=self._model.device)

    def _logprobs(self, batch: Batch) -> torch.Tensor:
        """Log-probability of each wanted node, `[K]`; no more logits exist at a time than fit."""
        hidden_K_D = self._model.hidden(batch.layout)[batch.parent_K]
        size = max(1, LOGITS_AT_ONCE // self._model.vocabulary)
        if len(hidden_K_D) <= size:
            return self._score(hidden_K_D, batch.target_K)
        parts = zip(torch.split(hidden_K_D, size), torch.split(batch.target_K, size), strict=True)
        return torch.cat([checkpoint(self._score, *part, use_reentrant=False) for part in parts])

    def _score(self, hidden_K_D: torch.Tensor, target_K: torch.Tensor) -> torch.Tensor:
        return -torch.nn.functional.cross_entropy(self._model.head(hidden_K_D), target_K, reduction="none")

    def _columns(
        self, batch: Batch, trees: tuple[TokenTree, ...]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Old log-probabilities, advantages and weights of the wanted nodes, each `[K]`."""
        rows = [
            (tree.logprobs[node], tree.advantages[node], tree.weights[node])
            for tree, node in ((trees[index], node) for index, node in batch.origin_K)
        ]
        old_K, advantages_K, weights_K = torch.tensor(rows, device=self._model.device).unbind(1)
        return old_K, advantages_K, weights_K

    def _check(self, forest: TokenForest, spec: LossSpec, *, loss: float) -> None:
        """Discards the gradients and keeps the batch if a number is not finite."""
        norm = self._optimizer.gradient_norm()
        if torch.isfinite(torch.tensor(loss)) and torch.isfinite(norm):
            return
        self._optimizer.clear()
        path = self._directory / f"rejected-batch-{self._sampler.version}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([_as_json(tree) for tree in forest.trees]), encoding="utf-8")
        raise NumericalError(
            f"loss {spec.name!r} is {loss!r} with gradient norm {norm.item()!r} at version {self._sampler.version}; "
            f"the gradients were discarded and the batch is in {str(path)!r}: lower the learning rate, or look for "
            "extreme advantages and log-probabilities in it"
        )


def _kind(weights: Mapping[str, torch.Tensor]) -> str:
    kind = "adapters" if any(".lora_A." in name for name in weights) else "whole weights"
    return f"{kind} in {len(weights)} tensors"


def _as_json(tree: TokenTree) -> dict[str, object]:
    columns = ("token_ids", "parents", "logprobs", "versions", "advantages", "weights")
    return {"group": tree.group, **{name: getattr(tree, name).tolist() for name in columns}}
