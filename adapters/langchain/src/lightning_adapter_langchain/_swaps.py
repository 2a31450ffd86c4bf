"""What a rollout puts in the place of an agent's prompts, tool descriptions and models; the agent stays as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.prompts import PromptTemplate

from lightning_adapter_langchain._walk import Template


class Swaps:
    """Replacements, looked up where a template is filled in or a model is asked.

    Attributes:
        templates: Texts of messages with variables.
        texts: Texts of system messages, by the message; it may also be rebuilt on its way, which `by_text` is for.
        by_text: The same by the text, where that says which.
        descriptions: Descriptions by the name of the tool and its own description.
        models: Settings of models.
    """

    def __init__(self) -> None:
        self.templates: list[tuple[Template, str]] = []
        self.texts: list[tuple[SystemMessage, str]] = []
        self.by_text: dict[str, str] = {}
        self.descriptions: dict[tuple[str, str], str] = {}
        self.models: list[tuple[BaseChatModel, dict[str, object]]] = []

    def template(self, found: Template) -> Template | None:
        """The template to fill in instead."""
        for known, text in self.templates:
            if known is found:
                old = cast("PromptTemplate", found.prompt)
                new = PromptTemplate.from_template(
                    text, template_format=old.template_format, partial_variables=dict(old.partial_variables)
                )
                return found.model_copy(update={"prompt": new})
        return None

    def messages(self, given: Sequence[BaseMessage]) -> list[BaseMessage]:
        """The messages to send instead."""
        return [
            self._message(message) if isinstance(message, SystemMessage) else message for message in given
        ]

    def _message(self, message: SystemMessage) -> BaseMessage:
        texts = [text for known, text in self.texts if known is message]
        if not texts and isinstance(message.content, str) and message.content in self.by_text:
            texts = [self.by_text[message.content]]
        return message.model_copy(update={"content": texts[0]}) if texts else message

    def tools(self, given: object) -> object:
        """The tools to send instead."""
        return [self._tool(tool) for tool in given] if isinstance(given, list | tuple) else given

    def _tool(self, tool: object) -> object:
        if not isinstance(tool, dict):
            return tool
        if isinstance(inner := tool.get("function"), dict):
            return {**tool, "function": self._tool(inner)}
        text = self.descriptions.get((str(tool.get("name")), str(tool.get("description"))))
        return tool if text is None else {**tool, "description": text}

    def settings(self, model: BaseChatModel) -> dict[str, object]:
        """Arguments of the model's calls."""
        return next((settings for known, settings in self.models if known is model), {})


_current: ContextVar[Swaps | None] = ContextVar("agl_langchain_swaps", default=None)


def current_swaps() -> Swaps | None:
    """Those of the rollout that this code runs in."""
    return _current.get()


@contextmanager
def swapped(swaps: Swaps) -> Iterator[None]:
    """Makes them the current ones for the block."""
    token = _current.set(swaps)
    try:
        yield
    finally:
        _current.reset(token)


def format_messages(
    method: Callable[..., Any], template: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> object:
    """Wraps `format_messages` of templates of messages."""
    swaps = current_swaps()
    if swaps is not None and isinstance(template, Template):
        other = swaps.template(template)
        if other is not None:
            return [other.format(**kwargs)]
    return method(*args, **kwargs)


async def aformat_messages(
    method: Callable[..., Any], template: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> object:
    """Wraps `aformat_messages` of templates of messages."""
    swaps = current_swaps()
    if swaps is not None and isinstance(template, Template):
        other = swaps.template(template)
        if other is not None:
            return [await other.aformat(**kwargs)]
    return await cast("Awaitable[Any]", method(*args, **kwargs))
