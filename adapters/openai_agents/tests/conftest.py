"""What the tests share: an instrumented process, a scripted model and rollouts that point at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from agents import Model, OpenAIResponsesModel, set_trace_processors

from agentlightning.testing import CaptureStage
from lightning_adapter_openai_agents import OpenAIAgentsAdapter


@pytest.fixture(scope="session", autouse=True)
def nothing_for_the_vendor() -> None:
    """Without an adapter traces would go to the vendor at the end of the process."""
    set_trace_processors([])


@pytest.fixture
def stage() -> Iterator[CaptureStage]:
    with CaptureStage(OpenAIAgentsAdapter(), model="trained") as stage:
        yield stage


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    """A model of the user's own, which leads nowhere."""
    transport = openai.DefaultAsyncHttpxClient(verify=False)
    async with openai.AsyncOpenAI(
        base_url="http://127.0.0.1:9/v1", api_key="users-own-key", max_retries=0, http_client=transport
    ) as client:
        yield OpenAIResponsesModel(model="users-own-model", openai_client=client)
