"""Command-line agents: any program as a trainable agent, run as a black box per attempt."""

from agentlightning.command._agent import CommandAgent
from agentlightning.command._environment import INHERITED, attempt_environment
from agentlightning.command._file import command_of, load_command
from agentlightning.command._options import Keep, Result

__all__ = ["INHERITED", "CommandAgent", "Keep", "Result", "attempt_environment", "command_of", "load_command"]
