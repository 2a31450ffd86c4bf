"""The instrumentor by itself, and beside those of others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import wrapt
from langchain_core.callbacks import BaseCallbackManager
from langchain_core.language_models import FakeListChatModel
from langchain_core.tracers import context
from opentelemetry.sdk.trace import TracerProvider

from agentlightning import semconv
from agentlightning.agents import Adapter
from agentlightning.capture import in_rollout
from agentlightning.testing import InstrumentorContract
from agentlightning.types import PromptTemplate
from lightning_adapter_langchain import LangChainAdapter

PROGRAM = """
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

@tool
def add(a: int, b: int) -> int:
    'Adds.'
    return a + b

model = ChatOpenAI(model="m", base_url=base_url, api_key="k")
agent = create_agent(model, tools=[add], name="calculator")
agent.invoke({"messages": [{"role": "user", "content": "1 + 2"}]})
"""


class TestLangChainInstrumentor(InstrumentorContract):
    entry_point: ClassVar[str] = "agl_langchain"
    dependencies: ClassVar[Sequence[str]] = ("langchain-core >= 1.2.18, < 2",)
    program: ClassVar[str] = PROGRAM
    expected: ClassVar[Mapping[str, str]] = {
        "invoke_agent calculator": "",
        "model": "",
        "chat m": semconv.INPUT_MESSAGES,
        "execute_tool add": semconv.TOOL_CALL_ARGUMENTS,
    }

    def make_adapter(self) -> Adapter:
        return LangChainAdapter()


def test_its_hooks_load_nothing_of_the_framework() -> None:
    program = "import sys, lightning_adapter_langchain.hooks as h; h.agl_register_adapters(); "
    program += (
        "print([name for name in sys.modules if name.startswith(('langchain', 'langgraph', 'openai'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def somebody_elses() -> Iterator[None]:
    """LangChain as another package instruments it."""

    def wrapper(method: Any, _: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return method(*args, **kwargs)

    wrapper.__module__ = "openinference.instrumentation.langchain"
    original = BaseCallbackManager.__init__
    BaseCallbackManager.__init__ = wrapt.FunctionWrapper(original, wrapper)  # type: ignore[method-assign]
    yield
    BaseCallbackManager.__init__ = original  # type: ignore[method-assign]


def test_beside_another_instrumentation_it_binds_and_does_not_record(
    stage: Any, provider: TracerProvider, somebody_elses: None
) -> None:
    hooks = list(context._configure_hooks)
    stage.adapter.uninstrument()
    assert len(context._configure_hooks) == len(hooks) - 1
    stage.adapter.instrument(provider)
    rollout = stage.rollout(resources={"model": PromptTemplate(template="other")})
    model = stage.model()
    with in_rollout(rollout), stage.adapter.bind(model, rollout):
        FakeListChatModel(responses=["x"]).invoke("hi")
        model.invoke("hi")
    assert [span.name for span in stage.spans] == ["chat other"]
