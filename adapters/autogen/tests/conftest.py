"""What the tests share: an instrumented process, a scripted model and rollouts that point at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

from agentlightning.testing import CaptureStage
from lightning_adapter_autogen import AutoGenAdapter


@pytest.fixture
def stage() -> Iterator[CaptureStage]:
    with CaptureStage(AutoGenAdapter(), model="trained") as stage:
        yield stage


INFO = ModelInfo(
    vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True
)


@pytest.fixture
async def model_client() -> AsyncIterator[OpenAIChatCompletionClient]:
    """A client of the user's own, which leads nowhere."""
    client = OpenAIChatCompletionClient(
        model="users-own-model",
        base_url="http://127.0.0.1:9/v1",
        api_key="users-own-key",
        model_info=INFO,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=False),
    )
    yield client
    await client.close()
