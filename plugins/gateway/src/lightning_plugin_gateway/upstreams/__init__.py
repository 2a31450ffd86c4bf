"""What is behind the gateway: engines in this process, and servers behind URLs, several for one model."""

from lightning_plugin_gateway.upstreams._breaker import BreakerState
from lightning_plugin_gateway.upstreams._engine import EngineModel
from lightning_plugin_gateway.upstreams._http import HttpModel
from lightning_plugin_gateway.upstreams._model import CallRoute, Model
from lightning_plugin_gateway.upstreams._models import Models
from lightning_plugin_gateway.upstreams._policy import HttpPolicy
from lightning_plugin_gateway.upstreams._protocols import COUNT
from lightning_plugin_gateway.upstreams._status import ModelStatus, ServerStatus

__all__ = [
    "COUNT", "BreakerState", "CallRoute", "EngineModel", "HttpModel", "HttpPolicy", "Model", "ModelStatus", "Models",
    "ServerStatus",
]  # fmt: skip
