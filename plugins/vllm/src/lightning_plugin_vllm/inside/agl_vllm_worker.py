"""Runs inside vLLM's workers: loads other weights of the same model without a restart.

This folder, and nothing else of the package, is on the path of the server's Python: only what vLLM brings is imported.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

KNOWN = {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"}


class AglWeights:
    """Mixed into vLLM's worker by `--worker-extension-cls`, and called through `/collective_rpc`."""

    device: Any
    model_runner: Any
    vllm_config: Any

    def agl_load_weights(self, directory: str) -> dict[str, str]:
        """Loads a Hugging Face model directory in place.

        Returns:
            `loaded`, or `refused` with the reason: then nothing was changed.
        """
        if self.device.type != "cpu":
            worker: Any = self
            worker.reload_weights(weights_path=directory)
            return {"loaded": directory}
        mine = dict(self.model_runner.get_model().named_modules())
        for name, module in mine.items():
            method = type(getattr(module, "quant_method", None)).__name__
            if method not in KNOWN | {"NoneType"}:
                return {
                    "refused": f"{name} keeps its weights in the way of {method}, which only a restart changes"
                }
        fresh = self._agl_fresh(directory)
        # On CPU a layer packs its weight into a closure when it is loaded, so that copying into the parameter would
        # change nothing: the packed form is handed over from a model that was loaded beside this one.
        for name, module in fresh.named_modules():
            mine[name]._parameters.update(module._parameters)
            if "cpu_linear" in vars(module):
                mine[name].cpu_linear = module.cpu_linear
        return {"loaded": directory}

    def _agl_fresh(self, directory: str) -> Any:  # noqa: ANN401 - torch is not this package's to import
        """The model with other weights, unknown to the layers that are served."""
        loader = importlib.import_module("vllm.model_executor.model_loader")
        current = importlib.import_module("vllm.config").set_current_vllm_config
        config = copy.copy(self.vllm_config)
        config.model_config = copy.copy(config.model_config)
        config.model_config.model = directory
        config.compilation_config = copy.copy(config.compilation_config)
        config.compilation_config.static_forward_context = {}
        with current(config):
            return loader.get_model(vllm_config=config, model_config=config.model_config)
