"""What does not work yet, and what works only beside other packages."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import SystemMessage
from langchain_core.runnables import RunnableLambda

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.types import PromptTemplate

QUESTION = {"messages": [{"role": "user", "content": "hi"}]}


def test_a_model_on_the_sdk_of_anthropic(stage: Any) -> None:
    pytest.importorskip("lightning_adapter_anthropic")
    models = pytest.importorskip("langchain_anthropic")
    model = models.ChatAnthropic(model="claude", base_url="http://127.0.0.1:9", api_key="own", max_retries=0)
    agent = create_agent(model, tools=[], system_prompt="You help.", name="helper")
    assert {one.name: one.value for one in stage.adapter.tunables(agent)} == {
        "helper.model": "claude",
        "helper.system_prompt": "You help.",
    }
    context = stage.rollout(resources={"helper.system_prompt": PromptTemplate(template="You rule.")})
    with in_rollout(context), stage.adapter.bind(agent, context):
        agent.invoke(QUESTION)
    (request,) = stage.llm.requests
    assert request.path.startswith("/v1/messages")
    assert "You rule." in str(request.json["system"])
    assert stage.path(stage.one(semconv.OPERATION_CHAT)) == ["model", "invoke_agent helper"]


@pytest.mark.xfail(strict=True, reason="models on no SDK are recorded, but not led to the rollout's endpoint")
def test_a_model_on_no_sdk_goes_to_the_endpoint(stage: Any) -> None:
    with in_rollout(stage.rollout()):
        FakeListChatModel(responses=["own"]).invoke("hi")
    assert len(stage.llm.requests) == 1


@pytest.mark.xfail(strict=True, reason="a text that stands in a function's code is not found")
def test_a_prompt_in_a_functions_code_is_a_tunable(stage: Any) -> None:
    model = stage.model()
    agent = RunnableLambda(lambda text: model.invoke([SystemMessage("You help."), ("user", text)]))
    assert "You help." in [one.value for one in stage.adapter.tunables(agent)]


@pytest.mark.xfail(strict=True, reason="LangChain's newest way to stream has no door that could be wrapped")
@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_the_newest_way_to_stream_takes_the_rollouts_model(stage: Any) -> None:
    model = stage.model()
    context = stage.rollout(resources={"model": PromptTemplate(template="other")})
    with in_rollout(context), stage.adapter.bind(model, context):
        assert model.stream_events("hi", version="v3").output.text == "ok"
    assert stage.llm.requests[0].json["model"] == "other"
