"""Every error this project raises, as one tree.

AglError
├── ConfigError (ValueError)            a setting, flag or file that cannot be used
├── TargetError (ImportError)           an agent, grader or object named by import string that cannot be loaded
├── PluginError (ImportError)           a plugin that cannot be loaded
│   ├── PluginNotFound                  no installed plugin has that name
│   ├── PluginConflict                  two distributions claim one name
│   └── MissingExtra                    a plugin is known but its dependencies are not installed
├── StoreError (RuntimeError)
│   ├── NotFound (LookupError)          no such rollout, attempt, run or resource set
│   ├── IllegalTransition               a move the lifecycle table forbids
│   ├── LeaseLost                       a fencing token older than the attempt's
│   ├── Conflict                        same key, other payload; or a compare-and-set that lost
│   ├── LimitExceeded                   a size or count limit
│   └── StoreUnavailable (OSError)      the medium is full, read-only, locked or away
├── StageError (RuntimeError)           a pipeline stage failed
├── InvalidReward (ValueError)          NaN, infinite, boolean or not a number
├── AccessError (PermissionError)
│   ├── Unauthorised                    no key, or one that the server does not know
│   └── Forbidden                       a key whose scope does not reach that far
├── ServerError (RuntimeError)          the server could not start, or answered something unexpected
├── GatewayError (RuntimeError)         the gateway could not start or serve
├── EngineError (RuntimeError)          an inference engine or learner failed
├── NumericalError (ArithmeticError)    NaN or infinity in training; the batch was saved
├── BudgetExhausted (RuntimeError)      a hard budget was reached
├── AgentError (RuntimeError)           the agent under training raised
└── Interrupted (RuntimeError)          the run was stopped on request and can be resumed

Messages say what was asked, what was found, and what to do next.
"""

from __future__ import annotations

__all__ = [
    "AccessError",
    "AgentError",
    "AglError",
    "BudgetExhausted",
    "ConfigError",
    "Conflict",
    "EngineError",
    "Forbidden",
    "GatewayError",
    "IllegalTransition",
    "Interrupted",
    "InvalidReward",
    "LeaseLost",
    "LimitExceeded",
    "MissingExtra",
    "NotFound",
    "NumericalError",
    "PluginConflict",
    "PluginError",
    "PluginNotFound",
    "ServerError",
    "StageError",
    "StoreError",
    "StoreUnavailable",
    "TargetError",
    "Unauthorised",
    "in_full",
]


class AglError(Exception):
    """Root of every error raised on purpose by this project."""


class ConfigError(AglError, ValueError):
    """A setting, flag or file that cannot be used; the message names the nearest valid one."""


class TargetError(AglError, ImportError):
    """An import string (`module:object` or `file.py:object`) that leads nowhere."""


class PluginError(AglError, ImportError):
    """A plugin that cannot be loaded."""


class PluginNotFound(PluginError):
    """No installed plugin has the name that was asked for."""


class PluginConflict(PluginError):
    """Two distributions claim one plugin name."""


class MissingExtra(PluginError):
    """A plugin is installed, but something it needs is not; the message has the install command."""


class StoreError(AglError, RuntimeError):
    """Root of the store's errors."""


class NotFound(StoreError, LookupError):
    """No such rollout, attempt, run or resource set."""


class IllegalTransition(StoreError):
    """A move that the lifecycle table forbids; nothing was changed."""


class LeaseLost(StoreError):
    """The fencing token is older than the attempt's: another worker owns the work now."""


class Conflict(StoreError):
    """The same key came with another payload, or a compare-and-set lost the race."""


class LimitExceeded(StoreError):
    """A documented size or count limit was passed."""


class StoreUnavailable(StoreError, OSError):
    """The medium is full, read-only, locked or out of reach; nothing acknowledged was lost."""


class StageError(AglError, RuntimeError):
    """A pipeline stage failed; the message names it, the cause is what it raised."""


class InvalidReward(AglError, ValueError):
    """A reward that is NaN, infinite, boolean or not a number."""


class AccessError(AglError, PermissionError):
    """Root of refusals for want of a key."""


class Unauthorised(AccessError):
    """There was no key, or one that is unknown or expired."""


class Forbidden(AccessError):
    """The key is good, but its scope does not reach that far."""


class ServerError(AglError, RuntimeError):
    """The server could not start, or answered something unexpected."""


class GatewayError(AglError, RuntimeError):
    """The gateway could not start or serve."""


class EngineError(AglError, RuntimeError):
    """An inference engine or learner failed."""


class NumericalError(AglError, ArithmeticError):
    """NaN or infinity in training; the message says where the offending batch was saved."""


class BudgetExhausted(AglError, RuntimeError):
    """A hard budget was reached; what was done so far is kept."""


class AgentError(AglError, RuntimeError):
    """The agent under training raised; the original exception is the cause."""


class Interrupted(AglError, RuntimeError):
    """The run was stopped on request; the message says how to resume it."""


def in_full(error: BaseException) -> str:
    """What an error says, with the notes that others have added to it."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{error} ({notes})" if notes else str(error)
