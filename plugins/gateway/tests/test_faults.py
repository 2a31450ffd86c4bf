from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai
import pytest

from agentlightning.errors import ConfigError
from agentlightning.gateway import GatewayConfig, HttpUpstream
from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedLLM, ScriptedReply
from agentlightning.types import SpanStatus
from lightning_plugin_gateway import create_gateway

Serve = Callable[..., AbstractAsyncContextManager[Any]]

HELLO = [{"role": "user", "content": "hello"}]
GOOD = ScriptedAnswer(text="good")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        ScriptedFault(status=429),
        ScriptedFault(status=429, retry_after="0"),
        ScriptedFault(status=502),
        ScriptedFault(status=503),
        ScriptedFault(status=0),
    ],
    ids=lambda fault: f"{fault.status}{fault.retry_after}",
)
async def test_a_fault_that_passes_is_tried_again_and_is_one_call(
    serve: Serve, fault: ScriptedFault, stream: bool
) -> None:
    async with serve([fault, fault, GOOD]) as bench, bench.sdk() as sdk:
        result = await sdk.chat.completions.create(model="m", messages=HELLO, stream=stream)
        if stream:
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in result]) == "good"
        assert len(bench.llm.requests) == 3
        assert [span.status for span in (await bench.spans())] == [SpanStatus.OK]


@pytest.mark.parametrize(
    ("reply", "status", "fault", "tries"),
    [
        (ScriptedFault(status=503), 503, "upstream_error", 3),
        (ScriptedFault(status=0), 502, "upstream_closed", 3),
        (ScriptedFault(status=429, retry_after="60"), 429, "upstream_error", 1),
        (ScriptedFault(status=500), 500, "upstream_error", 1),
        (ScriptedFault(status=404), 404, "upstream_error", 1),
        (ScriptedFault(status=401), 502, "upstream_error", 1),
        (ScriptedFault(status=302, location="http://127.0.0.1:1/"), 502, "upstream_error", 1),
        (ScriptedFault(status=200, content_type="text/html", body="<html>"), 502, "invalid_answer", 1),
        (ScriptedFault(status=200, body="null"), 502, "invalid_answer", 1),
        (ScriptedFault(status=200, body='{"error": {"message": "lost"}}'), 502, "upstream_error", 1),
        (ScriptedFault(status=200, body="[" * 5000), 502, "invalid_answer", 1),
        (ScriptedAnswer(cut_at=50), 502, "invalid_answer", 1),
        (ScriptedAnswer(cut_at=50, cut="reset"), 502, "upstream_closed", 3),
        (ScriptedAnswer(cut_at=50, cut="stall"), 504, "timeout", 1),
    ],
)
async def test_a_fault_that_stays_is_told_and_recorded(
    serve: Serve, reply: ScriptedReply, status: int, fault: str, tries: int
) -> None:
    async with serve(lambda _: reply) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.chat.completions.create(model="m", messages=HELLO)
        assert len(bench.llm.requests) == tries
        (span,) = await bench.spans()
    assert (caught.value.status_code, caught.value.code) == (status, fault)
    assert (span.status, span.attributes["error.type"], span.tokens) == (SpanStatus.ERROR, fault, ())
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "60"


async def test_an_upstream_that_is_not_there_is_told(serve: Serve) -> None:
    with ScriptedLLM() as llm:
        gone = llm.base_url
    async with serve(upstreams={"m": HttpUpstream(base_url=gone)}) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.InternalServerError, match="cannot be reached"):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(openai.NotFoundError, match="configured are 'm'"):
            await sdk.chat.completions.create(model="other", messages=HELLO)
        assert [span.attributes["error.type"] for span in (await bench.spans())] == [
            "upstream_unreachable",
            "model_not_found",
        ]


async def test_the_upstreams_key_comes_from_the_environment_and_is_never_told(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-canary")
    replies = [
        GOOD,
        ScriptedFault(status=400, message="bad key sk-canary"),
        ScriptedFault(status=401, message="sk-canary"),
    ]
    with ScriptedLLM(replies) as llm:
        upstream = HttpUpstream(base_url=llm.base_url, api_key_env="UPSTREAM_KEY", model="real")
        async with serve(upstreams={"alias": upstream}) as bench, bench.sdk() as sdk:
            headers = {"cookie": "c", "x-forwarded-for": "f", "openai-organization": "o"}
            await sdk.chat.completions.create(model="alias", messages=HELLO, extra_headers=headers)
            for _ in range(2):
                with pytest.raises(openai.APIStatusError) as caught:
                    await sdk.chat.completions.create(model="alias", messages=HELLO)
                assert "canary" not in str(caught.value.response.text)
            assert "canary" not in str(await bench.spans())
            assert bench.key() not in str(llm.requests)
        sent = llm.requests[0]
    assert sent.headers["authorization"] == "Bearer sk-canary"
    assert sent.json["model"] == "real"
    assert {"cookie", "x-forwarded-for", "openai-organization"}.isdisjoint(sent.headers)


def test_a_missing_upstream_key_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    upstream = HttpUpstream(base_url="http://127.0.0.1:1/v1", api_key_env="UPSTREAM_KEY")
    with pytest.raises(ConfigError, match="'UPSTREAM_KEY', which is not set"):
        create_gateway(store=object(), upstreams={"m": upstream}, config=GatewayConfig())
