"""Makes `upstreams_bench` importable by the tests beside it, and its fixtures known."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from upstreams_bench import opened, servers

__all__ = ["opened", "servers"]
