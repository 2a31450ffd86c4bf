"""Prompts given as ids are what is sampled after, with adapters too; tool calls are read where servers can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import ConfigError, EngineError

SERVING = {"serve_only": True, "model": "some/model"}
READS = {"reads": True}
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
]


async def test_an_answer_is_sampled_after_the_ids_and_not_after_the_messages(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    answer = await backend.engine.chat(
        ask(prompt_token_ids=[3, 1, 4], logprobs=True, return_token_ids=True, max_completion_tokens=8)
    )
    (choice,) = answer["choices"]
    assert (answer["prompt_token_ids"], choice["token_ids"]) == ([3, 1, 4], [5, 9])
    assert choice["message"] == {"role": "assistant", "content": "model after [3, 1, 4]"}
    assert [entry["logprob"] for entry in choice["logprobs"]["content"]] == [-0.5, -0.25]
    assert (answer["object"], answer["model"], answer["policy_version"]) == ("chat.completion", "policy", 0)
    assert answer["usage"]["prompt_tokens"] == 3


async def test_the_newest_adapter_answers_after_ids(lab: Any, ask: Any) -> None:
    backend = await lab.start(learner={"lora": {"rank": 4}})
    answer = await backend.engine.chat(ask(prompt_token_ids=[3], return_token_ids=True))
    assert answer["prompt_token_ids"] == [3]
    assert await backend.engine.render(
        [{"role": "user", "content": "x"}], [], add_generation_prompt=True
    ) == [
        1,
        0,
        7,
    ]
    assert await backend.engine.decode([104, 105]) == "hi"


async def test_ids_that_nobody_asked_for_are_not_told(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING, fake=READS)
    answer = await backend.engine.chat(ask(prompt_token_ids=[3]))
    assert "prompt_token_ids" not in answer
    assert "token_ids" not in answer["choices"][0]
    assert answer["choices"][0]["message"]["content"] == "read [5]"


async def test_a_stream_after_ids_is_a_chat_stream(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    asked = ask(prompt_token_ids=[3], return_token_ids=True)
    chunks = [chunk async for chunk in backend.engine.stream(asked)]
    assert chunks[0]["prompt_token_ids"] == [3]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "model after [3]"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk.get("policy_version") for chunk in chunks] == [None, 0]


async def test_tool_calls_after_ids_are_read_by_the_server(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING, fake=READS)
    asked = ask(prompt_token_ids=[3], tools=TOOLS, return_token_ids=True)
    (choice,) = (await backend.engine.chat(asked))["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "add"
    assert (choice["finish_reason"], choice["token_ids"]) == ("tool_calls", [5, 9])
    first, last = [chunk async for chunk in backend.engine.stream(asked)]
    assert first["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    assert first["prompt_token_ids"] == [3]
    assert (last["policy_version"], last["usage"]["completion_tokens"]) == (0, 2)


async def test_tools_and_ids_are_refused_where_nobody_can_read_the_answer(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    with pytest.raises(ConfigError, match="--enable-scale-out"):
        await backend.engine.chat(ask(prompt_token_ids=[3], tools=TOOLS))
    with pytest.raises(ConfigError, match="--enable-scale-out"):
        _ = [chunk async for chunk in backend.engine.stream(ask(prompt_token_ids=[3], tools=TOOLS))]
    with pytest.raises(EngineError, match="--enable-scale-out"):
        await backend.engine.render([], TOOLS, add_generation_prompt=True)
    unused = await backend.engine.chat(ask(prompt_token_ids=[3], tools=TOOLS, tool_choice="none"))
    assert unused["choices"][0]["message"]["content"] == "model after [3]"


@pytest.mark.parametrize("prompt", [[], "text", [1.5], [True], {}])
async def test_what_is_no_list_of_ids_is_refused(lab: Any, ask: Any, prompt: object) -> None:
    with pytest.raises(ConfigError, match="list of at least one id"):
        await lab.backend(**SERVING).engine.chat(ask(prompt_token_ids=prompt))


@pytest.mark.parametrize(
    ("file", "text", "parser"),
    [
        (
            "chat_template.jinja",
            "{%- for call in calls %}<tool_call>{{ call | tojson }}</tool_call>",
            "hermes",
        ),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": "<tool_call><function={{ name }}>"}),
            "qwen3_coder",
        ),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"template": "[TOOL_CALLS]"}]}), "mistral"),
        ("tokenizer_config.json", "no json", ""),
        ("chat_template.jinja", "{{ messages }}", ""),
    ],
)
async def test_the_parser_of_tool_calls_is_told_by_the_template(
    lab: Any, tmp_path: Path, file: str, text: str, parser: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / file).write_text(text)
    backend = await lab.start(serve_only=True, model=str(model))
    arguments = (await lab.state(backend))["arguments"]
    found = arguments[arguments.index("--tool-call-parser") + 1] if "--tool-call-parser" in arguments else ""
    assert found == parser
    assert ("--enable-auto-tool-choice" in arguments) == bool(parser)
    assert "--enable-scale-out" in arguments


async def test_parsers_and_reading_are_set_by_options(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING, tool_parser="pythonic", exact_turns=False)
    arguments = (await lab.state(backend))["arguments"]
    assert arguments[arguments.index("--tool-call-parser") + 1] == "pythonic"
    assert "--enable-scale-out" not in arguments
    assert (await backend.engine.chat(ask(tools=TOOLS)))["policy_version"] == 0


async def test_tools_without_a_parser_are_refused_with_the_remedy(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    with pytest.raises(ConfigError, match="set tool_parser in the engine's section"):
        await backend.engine.chat(ask(tools=TOOLS))
