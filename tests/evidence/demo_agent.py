"""The demo's agent, imported as a script of its own: from its folder, with its neighbours."""

from __future__ import annotations

import sys
from pathlib import Path

from agentlightning import demo

sys.path.insert(0, str(Path(demo.__file__).parent))

from agent import MAX_CALLS, MAX_TOKENS, solve, use

__all__ = ["MAX_CALLS", "MAX_TOKENS", "solve", "use"]
