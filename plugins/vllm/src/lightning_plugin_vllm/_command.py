"""The command line and the environment of a server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lightning_plugin_vllm._options import LARGEST_RANK, VllmOptions
from lightning_plugin_vllm._templates import tool_parser

MODULE = "vllm.entrypoints.openai.api_server"
INSIDE = Path(__file__).parent / "inside"
EXTENSION = "agl_vllm_worker.AglWeights"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, LARGEST_RANK)
"""Limits that a server can be set up for."""
ADAPTERS_AT_ONCE = 2
"""The current version, and the one before while its last answers end."""

PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD")
PASSED_ON_PREFIXES = (
    *(
        "LC_",
        "CUDA",
        "NVIDIA_",
        "HIP_",
        "ROCR_",
        "NCCL_",
        "GLOO_",
        "OMP_",
        "MKL_",
        "KMP_",
        "TORCH",
        "TRITON_",
    ),
    *("HF_", "TRANSFORMERS_", "VLLM_", "XDG_", "SSL_CERT_"),
)
"""Variables that a server gets; an agent's or a store's credentials are none of its business."""
KEPT_BACK = ("VLLM_API_KEY",)


def command(options: VllmOptions, *, model: str, served_as: str, port: int) -> list[str]:
    """What starts a server of the weights in directory `model` under the name `served_as`."""
    arguments = {
        "--model": model,
        "--served-model-name": served_as,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--generation-config": "vllm",  # sampling is what the request says, not what a file beside the weights does
        "--logprobs-mode": "processed_logprobs",  # of the distribution that was sampled from
        "--worker-extension-cls": EXTENSION,
    }
    if options.dtype != "auto":
        arguments["--dtype"] = options.dtype
    if options.context:
        arguments["--max-model-len"] = str(options.context)
    if options.lora_rank:
        arguments["--max-lora-rank"] = str(next(rank for rank in RANKS if rank >= options.lora_rank))
        arguments["--max-loras"] = str(ADAPTERS_AT_ONCE)
    parser = tool_parser(Path(model)) if options.tool_parser == "auto" else options.tool_parser
    if parser and "--tool-call-parser" not in options.arguments:
        arguments["--tool-call-parser"] = parser
    flags = {
        "--enable-lora": bool(options.lora_rank),
        "--enable-auto-tool-choice": "--tool-call-parser" in arguments,
        "--enable-scale-out": options.exact_turns,
    }
    python = options.python or sys.executable
    pairs = [part for pair in arguments.items() for part in pair]
    wanted = [flag for flag, on in flags.items() if on and flag not in options.arguments]
    return [python, "-m", MODULE, *pairs, *wanted, *options.arguments]


def environment(options: VllmOptions) -> dict[str, str]:
    """All variables of a server."""
    mine = {
        name: value
        for name, value in os.environ.items()
        if (name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)) and name not in KEPT_BACK
    }
    fixed = {
        "VLLM_SERVER_DEV_MODE": "1",  # pause, sleep and the worker's own methods; the server listens on loopback only
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if Path(options.model).is_dir() or options.build is not None:
        fixed["HF_HUB_OFFLINE"] = "1"
    found = mine | fixed | options.environment
    paths = [str(INSIDE), *filter(None, [options.environment.get("PYTHONPATH")])]
    return found | {"PYTHONPATH": os.pathsep.join(paths)}


def secrets(options: VllmOptions) -> list[str]:
    """Values in the environment that a log must not repeat."""
    marks = ("KEY", "TOKEN", "SECRET", "PASSWORD")
    return [
        value
        for name, value in environment(options).items()
        if len(value) >= 8 and any(mark in name.upper() for mark in marks)
    ]
