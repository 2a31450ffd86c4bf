"""The vLLM engine: starts or joins servers, and gives them each new version of the weights while they run."""

from lightning_plugin_vllm._backend import create_backend

__all__ = ["create_backend"]
