"""`memory://`: the store's semantics without durability, for tests and notebooks."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Self

from agentlightning.errors import StoreUnavailable
from agentlightning.store._executor import MemoryExecutor
from agentlightning.store._memory_tables import MemoryTables
from agentlightning.store._notifier import Notifier
from agentlightning.store._protocols import ResourceStore, RolloutStore, RunStore, SpanStore
from agentlightning.store._resources import Resources
from agentlightning.store._rollout_operations import sweep
from agentlightning.store._rollouts import Rollouts
from agentlightning.store._runs import Runs
from agentlightning.store._spans import Spans
