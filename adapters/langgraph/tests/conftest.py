"""What the tests share: an instrumented process with a scripted endpoint, and a model of the user's own."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from langchain_openai import ChatOpenAI

from agentlightning.testing import CaptureStage
from lightning_adapter_langgraph import LangGraphAdapter


class Stage(CaptureStage):
    """A stage with models of the user's own, which lead nowhere."""

    def model(self, **options: object) -> ChatOpenAI:
        """A chat model; loading certificates is most of what making one costs."""
        return ChatOpenAI(
            model="own-model",
            base_url="http://127.0.0.1:9/v1",
            api_key="own-key",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(verify=False),
            http_async_client=openai.DefaultAsyncHttpxClient(verify=False),
            **options,
        )


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(LangGraphAdapter()) as stage:
        yield stage
