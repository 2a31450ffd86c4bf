"""The agent, the tool and the tasks that `agl demo` trains on, and the demo itself."""

from agentlightning.demo._demo import MODEL, WARM_START, DemoReport, DemoSize, Score, run_demo

__all__ = ["MODEL", "WARM_START", "DemoReport", "DemoSize", "Score", "run_demo"]
