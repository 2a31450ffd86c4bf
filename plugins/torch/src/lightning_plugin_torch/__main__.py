"""`torchrun --nproc-per-node N -m lightning_plugin_torch …`: the first process runs `agl …`, the others follow it."""

from __future__ import annotations

import sys

from agentlightning.cli import main as agl
from lightning_plugin_torch._following import follow, leave, meet


def main() -> int:
    """Leads or follows; returns the exit code."""
    if not meet():
        follow()
        return 0
    try:
        return agl(sys.argv[1:])
    finally:
        leave()


if __name__ == "__main__":
    sys.exit(main())
