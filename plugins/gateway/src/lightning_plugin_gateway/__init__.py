"""The gateway: serves model calls over the OpenAI wire and records each with token ids and log-probabilities."""

from lightning_plugin_gateway._gateway import LocalGateway, create_gateway
from lightning_plugin_gateway._http_model import HttpPolicy

__all__ = ["HttpPolicy", "LocalGateway", "create_gateway"]
