"""The Anthropic adapter passes the contract of adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anthropic
from anthropic.lib.tools import BetaAsyncFunctionTool, BetaFunctionTool

from agentlightning.agents import Adapter
from agentlightning.testing import AdapterContract
from lightning_adapter_anthropic import AnthropicAdapter

KEY, MODEL = "users-own-key", "users-own-model"


class TestAnthropicAdapter(AdapterContract):
    def make_adapter(self) -> Adapter:
        return AnthropicAdapter()

    def originals(self) -> Sequence[object]:
        tools = [BetaFunctionTool.call, BetaAsyncFunctionTool.call]
        return [anthropic.Anthropic.request, anthropic.AsyncAnthropic.request, *tools]

    def client(self, base_url: str) -> anthropic.AsyncAnthropic:
        transport = anthropic.DefaultAsyncHttpxClient(
            verify=False
        )  # certificates are most of a client's cost
        return anthropic.AsyncAnthropic(
            base_url=base_url.removesuffix("/v1"), auth_token=KEY, max_retries=0, http_client=transport
        )

    async def ask(self, base_url: str, text: str) -> object:
        async with self.client(base_url) as client:
            return await client.messages.create(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": text}]
            )

    def ask_in_thread(self, base_url: str, text: str) -> object:
        transport = anthropic.DefaultHttpxClient(verify=False)
        with anthropic.Anthropic(
            base_url=base_url.removesuffix("/v1"), auth_token=KEY, max_retries=0, http_client=transport
        ) as client:
            return client.messages.create(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": text}]
            )

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        async with (
            self.client(base_url) as client,
            client.messages.stream(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": text}]
            ) as stream,
        ):
            async for piece in stream.text_stream:
                yield piece

    def text_of(self, result: object) -> str:
        assert isinstance(result, anthropic.types.Message)
        (block,) = result.content
        assert block.type == "text"
        return block.text
