"""The Claude Agent SDK against a program that stands in for its own: bound per rollout, and left alone otherwise."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import Endpoint, RolloutContext, in_rollout
from agentlightning.errors import AgentError, ConfigError, TargetError
from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from agentlightning.types import Mode, PromptTemplate, Span

sdk = pytest.importorskip("claude_agent_sdk", reason="needs the extra claude-agent")
from lightning_adapter_anthropic import ClaudeAgentAdapter  # noqa: E402 - what it adapts comes first

STAND_IN = Path(__file__).with_name("stand_in_cli.py")


class Nowhere:
    def add(self, span: Span) -> None:
        """Drops it: the gateway records what the program does."""


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM(
        lambda request: ScriptedAnswer(text=f"for {request.headers['authorization'][7:]}")
    ) as serving:
        yield serving


@pytest.fixture
def adapter() -> Iterator[ClaudeAgentAdapter]:
    adapter = ClaudeAgentAdapter()
    adapter.instrument(TracerProvider())
    yield adapter
    adapter.uninstrument()


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLAUDE_AGENT_SDK_SKIP_VERSION_CHECK", "1")
    program = tmp_path / "claude"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{STAND_IN}" "$@"\n')
    program.chmod(0o755)

    def options(**settings: Any) -> Any:
        return sdk.ClaudeAgentOptions(cli_path=str(program), **settings)

    return options


@pytest.fixture
def rollout(llm: ScriptedLLM) -> Callable[..., RolloutContext]:
    def rollout(number: int = 0, *, model: str | None = None, **settings: Any) -> RolloutContext:
        endpoint = Endpoint(base_url=llm.base_url, api_key=f"key-{number}", model=model)
        return RolloutContext(
            rollout_id=f"r{number}",
            attempt_id=f"a{number}",
            mode=Mode.TRAIN,
            sink=Nowhere(),
            endpoint=endpoint,
            **settings,
        )

    return rollout


async def ask(options: Any, prompt: str) -> str:
    """As the SDK's own documentation asks."""
    said = ""
    async for message in sdk.query(prompt=prompt, options=options):
        if isinstance(message, sdk.ResultMessage):
            said = str(message.result)
    return said


@pytest.mark.usefixtures("adapter")
async def test_a_query_goes_to_the_rollouts_endpoint_with_its_key(
    llm: ScriptedLLM, options: Any, rollout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "users-own-key")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    with in_rollout(rollout(model="tiny")):
        assert await ask(options(model="claude-of-the-user"), "hello") == "for key-0"
    (request,) = llm.requests
    assert (request.path, request.json["model"]) == ("/v1/messages", "tiny")
    assert "users-own-key" not in repr(request)


@pytest.mark.usefixtures("adapter")
async def test_sixteen_clients_at_once_have_their_own_attempts(
    llm: ScriptedLLM, options: Any, rollout: Any
) -> None:
    shared = options()

    async def one(number: int) -> str:
        with in_rollout(rollout(number)):
            async with sdk.ClaudeSDKClient(options=shared) as client:
                await client.query(f"hello {number}")
                return "".join(
                    [
                        str(m.result)
                        async for m in client.receive_response()
                        if isinstance(m, sdk.ResultMessage)
                    ]
                )

    assert await asyncio.gather(*map(one, range(16))) == [f"for key-{number}" for number in range(16)]
    assert shared.env == {}
    asked = {
        request.json["messages"][0]["content"]: request.headers["authorization"] for request in llm.requests
    }
    assert asked == {f"hello {number}": f"Bearer key-{number}" for number in range(16)}


async def test_a_program_is_bound_to_its_attempt_by_environment(options: Any, rollout: Any) -> None:
    from lightning_adapter_anthropic._claude_agent import bound_options

    before = options(env={"MINE": "1", "ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}, fallback_model="other")
    found = bound_options(before, rollout(3, model="tiny"))
    assert found.env["MINE"] == "1"
    assert found.env["ANTHROPIC_BASE_URL"].startswith("http://127.0.0.1:")
    assert found.env["ANTHROPIC_BASE_URL"] != before.env["ANTHROPIC_BASE_URL"]
    assert found.env["BAGGAGE"] == "agl.rollout.id=r3,agl.attempt.id=a3"
    assert {
        found.env[name] for name in ("AGL_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK")
    } == {""}
    assert found.env["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "tiny"
    assert (found.model, found.fallback_model, before.fallback_model) == ("tiny", None, "other")


async def test_outside_of_rollouts_and_after_the_end_nothing_changes(
    llm: ScriptedLLM, options: Any, rollout: Any
) -> None:
    mine = options(
        env={"ANTHROPIC_BASE_URL": llm.base_url.removesuffix("/v1"), "ANTHROPIC_AUTH_TOKEN": "my-own-key"}
    )
    transport = sdk._internal.transport.subprocess_cli.SubprocessCLITransport
    original = transport.connect
    adapter = ClaudeAgentAdapter()
    adapter.instrument(TracerProvider())
    assert await ask(mine, "outside") == "for my-own-key"
    adapter.instrument(TracerProvider())
    other = ClaudeAgentAdapter()
    other.instrument(TracerProvider())
    other.uninstrument()
    with in_rollout(rollout()):
        assert await ask(mine, "inside") == "for key-0"
    adapter.uninstrument()
    assert transport.connect is original
    with in_rollout(rollout()):
        assert await ask(mine, "after") == "for my-own-key"


async def test_options_are_an_agent(adapter: ClaudeAgentAdapter, options: Any, rollout: Any) -> None:
    agent = options()
    assert adapter.accepts(agent)
    assert not adapter.accepts("claude")
    function: Any = adapter.as_function(agent)
    with in_rollout(rollout()):
        assert await function("hello") == "for key-0"
        with pytest.raises(AgentError, match="no luck"):
            await function({"question": "[fail]"})
    with pytest.raises(TargetError, match="pass `ClaudeAgentOptions`"):
        adapter.as_function("claude")


async def test_the_system_prompt_can_be_tuned(
    adapter: ClaudeAgentAdapter, llm: ScriptedLLM, options: Any, rollout: Any
) -> None:
    agent = options(system_prompt="Be kind.")
    (tunable,) = adapter.tunables(agent)
    assert (tunable.name, tunable.value) == ("claude.system_prompt", "Be kind.")
    context = rollout(resources={tunable.name: PromptTemplate(template="Be brief.")})
    with in_rollout(context), adapter.bind(agent, context) as bound:
        await adapter.as_function(bound)("hello")  # type: ignore[misc]
    assert llm.requests[0].json["system"] == "Be brief."
    assert agent.system_prompt == "Be kind."
    preset = options(system_prompt={"type": "preset", "preset": "claude_code", "append": "Be kind."})
    assert adapter.tunables(preset)[0].value == "Be kind."
    with adapter.bind(preset, context) as bound:
        assert bound.system_prompt == preset.system_prompt | {"append": "Be brief."}  # type: ignore[attr-defined]
    assert adapter.tunables(options()) == []
    with pytest.raises(ConfigError), adapter.bind(agent, rollout(resources={tunable.name: object()})):
        pass


async def test_a_cancelled_query_ends_its_program(
    adapter: ClaudeAgentAdapter, options: Any, rollout: Any, tmp_path: Path
) -> None:
    started = tmp_path / "pid"

    async def hold() -> None:
        with in_rollout(rollout()):
            await adapter.as_function(options())(f"[hold] {started}")  # type: ignore[misc]

    holding = asyncio.create_task(hold())
    async with asyncio.timeout(30):
        while not (started.exists() and started.read_text()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
        pid = int(started.read_text())
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        while (Path("/proc") / str(pid)).exists():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
