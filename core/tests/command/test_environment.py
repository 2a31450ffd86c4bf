"""A command's environment: an allow-list, and what binds it to its attempt; and no secret in any message."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agentlightning.capture import Endpoint, RolloutContext, in_rollout
from agentlightning.command import INHERITED, CommandAgent, Result
from agentlightning.errors import AgentError
from agentlightning.types import Mode, Span

KEY = "agl-attempt+key/of=this"
WRITE = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"


class Nowhere:
    def add(self, span: Span) -> None:
        """Drops it."""


@pytest.fixture
def rollout() -> Iterator[RolloutContext]:
    endpoint = Endpoint(base_url="http://127.0.0.1:1/v1", api_key=KEY, model="tiny")
    context = RolloutContext(
        rollout_id="r 1", attempt_id="a,1", mode=Mode.TRAIN, sink=Nowhere(), seed=3, endpoint=endpoint
    )
    with in_rollout(context):
        yield context


async def environment_of(**settings: object) -> dict[str, str]:
    """All of a command's environment, past the capture that strikes secrets out."""
    file = os.path.abspath("environment.json")  # noqa: ASYNC240, PTH100
    await CommandAgent(["{python}", "-c", WRITE, file], **settings)(None)  # type: ignore[arg-type]
    with open(file) as written:  # noqa: ASYNC230, PTH123 - nothing waits here
        found: dict[str, str] = json.load(written)
    return found


async def test_only_allowed_variables_are_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AGL_KEY", "HTTP_PROXY", "ALLOWED", "PYTHONPATH"):
        monkeypatch.setenv(name, "of-the-runner")
    found = await environment_of(inherit=["ALLOWED", "NOT_THERE"])
    assert found["ALLOWED"] == "of-the-runner"
    assert list(found.values()).count("of-the-runner") == 1
    ours = {"HOME", "TMPDIR", "ALLOWED", "LC_CTYPE", "PWD", "__CF_USER_TEXT_ENCODING"}
    assert set(found) <= {*INHERITED, *ours}


async def test_home_and_temporary_files_are_the_attempts_own_unless_inherited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    found = await environment_of()
    assert found["HOME"].endswith("/home")
    assert found["TMPDIR"] == found["HOME"].removesuffix("/home") + "/tmp"
    assert (await environment_of(inherit=["HOME"]))["HOME"] == "/home/user"


async def test_models_of_both_wires_and_the_attempt_are_in_the_environment(rollout: RolloutContext) -> None:
    found = await environment_of()
    assert found["OPENAI_BASE_URL"] == "http://127.0.0.1:1/v1"
    assert found["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
    assert {found[f"{name}_API_KEY"] for name in ("OPENAI", "ANTHROPIC")} == {KEY}
    assert found["ANTHROPIC_AUTH_TOKEN"] == KEY
    assert (found["OPENAI_MODEL"], found["ANTHROPIC_MODEL"]) == ("tiny", "tiny")
    assert found["BAGGAGE"] == "agl.rollout.id=r%201,agl.attempt.id=a%2C1"
    assert found["OTEL_RESOURCE_ATTRIBUTES"] == found["BAGGAGE"]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in found


async def test_exporters_send_to_the_server_with_the_attempts_key(rollout: RolloutContext) -> None:
    found = await environment_of(telemetry="http://127.0.0.1:4747/")
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4747"
    assert found["OTEL_EXPORTER_OTLP_HEADERS"] == "x-api-key=agl-attempt%2Bkey%2Fof%3Dthis"
    assert found["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"


async def test_a_command_that_is_not_told_a_server_takes_its_endpoints(rollout: RolloutContext) -> None:
    assert rollout.endpoint is not None
    endpoint = replace(rollout.endpoint, telemetry="http://127.0.0.1:4747")
    with in_rollout(replace(rollout, endpoint=endpoint)):
        taken = await environment_of()
        own = await environment_of(telemetry="http://127.0.0.1:4848")
        nothing = await environment_of(telemetry="")
    assert taken["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4747"
    assert own["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4848"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in nothing


async def test_given_variables_win(rollout: RolloutContext) -> None:
    found = await environment_of(environment={"OPENAI_BASE_URL": "{base_url}/of/mine", "SEED": "{seed}"})
    assert found["OPENAI_BASE_URL"] == "http://127.0.0.1:1/v1/of/mine"
    assert found["SEED"] == "3"


LEAK = 'echo "$OPENAI_API_KEY $ANTHROPIC_AUTH_TOKEN $OTEL_EXPORTER_OTLP_HEADERS $MY_SECRET $BORROWED_TOKEN"'


@pytest.mark.parametrize("ending", ["exit 1", "exit 0", "echo no json; exit 0", "sleep 600"])
async def test_secrets_are_struck_out_wherever_a_command_prints_them(
    rollout: RolloutContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("BORROWED_TOKEN", "borrowed-from-the-runner")
    agent = CommandAgent(
        ["sh", "-c", f"{LEAK}; {LEAK} >&2; {ending}"],
        environment={"MY_SECRET": "given-as-a-variable"},
        inherit=["BORROWED_TOKEN"],
        telemetry="http://127.0.0.1:1",
        timeout_s=1.0 if "sleep" in ending else None,
        result=Result.JSON if "json" in ending else Result.TEXT,
    )
    try:
        said = str(await agent(None))
    except (AgentError, TimeoutError) as error:
        said = f"{error!r} {error.__cause__!r} {getattr(error.__cause__, '__notes__', '')}"
    assert "***" in said
    for secret in (KEY, "agl-attempt%2Bkey", "given-as-a-variable", "borrowed-from-the-runner"):
        assert secret not in said + caplog.text


async def test_no_argument_of_any_process_has_the_key(rollout: RolloutContext) -> None:
    agent = CommandAgent(["sh", "-c", "cat /proc/$PPID/cmdline /proc/$$/cmdline"])
    assert KEY not in str(await agent("x"))


async def test_outside_of_a_rollout_nothing_is_bound() -> None:
    found = await asyncio.create_task(environment_of())
    assert not [name for name in found if name.startswith(("OPENAI", "ANTHROPIC", "OTEL", "BAGGAGE"))]
