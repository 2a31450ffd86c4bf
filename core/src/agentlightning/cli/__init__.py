"""The command line `agl`. Its built-in commands are registered through the same hook as a plugin's."""

from agentlightning.cli._main import main

__all__ = ["main"]
