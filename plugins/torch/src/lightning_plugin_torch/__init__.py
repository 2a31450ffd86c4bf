"""The torch engine: sampler and learner in one process, on CPU or GPU, sharing weights."""

from lightning_plugin_torch._backend import create_backend

__all__ = ["create_backend"]
