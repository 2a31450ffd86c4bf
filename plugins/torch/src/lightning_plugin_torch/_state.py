"""Checkpoints: safetensors and JSON, each file written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agentlightning.errors import EngineError
from lightning_plugin_torch._writing import writing

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
REFERENCE = "reference.safetensors"
VALUE_HEAD, VALUE_OPTIMIZER = "value_head.safetensors", "value_optimizer.safetensors"


@dataclass(frozen=True, slots=True)
class SavedState:
    """What a checkpoint holds, but for the reference and the value head."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    version: int


def write_state(
    directory: Path,
    *,
    weights: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    reference: Mapping[str, torch.Tensor] | None,
    state: Mapping[str, int],
) -> None:
    """Writes the files beside their places, and moves them there with `state.json` last.

    Raises:
        StoreUnavailable: They cannot be written.
    """
    files = {WEIGHTS: weights, OPTIMIZER: optimizer}
    if reference is not None:
        files[REFERENCE] = reference
    with writing(directory):
        _save(directory, files)
        (directory / f"{STATE}.new").write_text(json.dumps(dict(state)), encoding="utf-8")
        for name in (*files, STATE):
            (directory / f"{name}.new").replace(directory / name)


def write_value_head(
    directory: Path, *, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, torch.Tensor]
) -> None:
    """Writes a value head and its optimiser; `write_state` completes the checkpoint.

    Raises:
        StoreUnavailable: They cannot be written.
    """
    files = {VALUE_HEAD: weights, VALUE_OPTIMIZER: optimizer}
    with writing(directory):
        _save(directory, files)
        for name in files:
            (directory / f"{name}.new").replace(directory / name)


def read_state(directory: Path) -> SavedState:
    """Reads them back.

    Raises:
        EngineError: A file is missing or damaged.
    """
    missing = [name for name in (WEIGHTS, OPTIMIZER, STATE) if not (directory / name).is_file()]
    if missing:
        raise EngineError(
            f"checkpoint {str(directory)!r} has no {', '.join(missing)}; load one that save_state completed"
        )
    with _reading(directory):
        state = json.loads((directory / STATE).read_text(encoding="utf-8"))
        return SavedState(
            weights=load_file(directory / WEIGHTS),
            optimizer=load_file(directory / OPTIMIZER),
            version=int(state["version"]),
        )


def read_reference(directory: Path) -> dict[str, torch.Tensor]:
    """Reads the weights that the saved run began with.

    Raises:
        EngineError: The file is missing or damaged.
    """
    if not (directory / REFERENCE).is_file():
        raise EngineError(
            f"checkpoint {str(directory)!r} has no {REFERENCE}: its run kept no reference; "
            "resume it without, or begin a run with reference = true"
        )
    with _reading(directory):
        return load_file(directory / REFERENCE)


def read_value_head(directory: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Reads the weights of the value head, and the state of its optimiser.

    Raises:
        EngineError: A file is missing or damaged.
    """
    missing = [name for name in (VALUE_HEAD, VALUE_OPTIMIZER) if not (directory / name).is_file()]
    if missing:
        raise EngineError(
            f"checkpoint {str(directory)!r} has no {', '.join(missing)}: its run had no value head; "
            "resume it without, or begin a run with value_head = {}"
        )
    with _reading(directory):
        return load_file(directory / VALUE_HEAD), load_file(directory / VALUE_OPTIMIZER)


def _save(directory: Path, files: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    for name, tensors in files.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, directory / f"{name}.new")


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise EngineError(
            f"checkpoint {str(directory)!r} is damaged ({error}); load an earlier one"
        ) from error
