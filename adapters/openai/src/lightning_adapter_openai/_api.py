"""The ways in which the SDK calls a model: what each asks and answers, and where it is found on a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import openai

from agentlightning import semconv
from agentlightning.types import Json
from lightning_adapter_openai import _completions, _describe, _embeddings, _fold, _responses

Client = openai.OpenAI | openai.AsyncOpenAI
Resource = Any
"""`chat.completions` and its like, sync or async: the SDK gives them no common type."""


@dataclass(frozen=True, kw_only=True)
class Api:
    """One resource of the SDK.

    Attributes:
        operation: Its `gen_ai.operation.name`.
        on: The resource of a client.
        asked: Span attributes of a request, with or without its content.
        answered: Span attributes of an answer, an object of the SDK or plain data.
        fold: An answer of the bytes of a response, and whether it came to its end.
        bound: Inside of a rollout it goes to the rollout's endpoint.
    """

    operation: str
    on: Callable[[Client], Resource]
    asked: Callable[[Mapping[str, object], bool], _describe.Attributes]
    answered: Callable[[object, bool], _describe.Attributes]
    fold: Callable[[bytes], tuple[dict[str, Json], bool]]
    bound: bool = True


CHAT: Final = Api(
    operation=semconv.OPERATION_CHAT,
    on=lambda client: client.chat.completions,
    asked=_describe.request_attributes,
    answered=_describe.response_attributes,
    fold=_fold.fold,
)
RESPONSES: Final = Api(
    operation=semconv.OPERATION_CHAT,
    on=lambda client: client.responses,
    asked=_responses.request_attributes,
    answered=_responses.response_attributes,
    fold=_responses.fold,
)
COMPLETIONS: Final = Api(
    operation=semconv.OPERATION_COMPLETION,
    on=lambda client: client.completions,
    asked=_completions.request_attributes,
    answered=_completions.response_attributes,
    fold=_completions.fold,
)
EMBEDDINGS: Final = Api(
    operation=semconv.OPERATION_EMBEDDINGS,
    on=lambda client: client.embeddings,
    asked=_embeddings.request_attributes,
    answered=_embeddings.response_attributes,
    fold=_fold.fold,
    bound=False,  # no embedding model is trained: the agent's own goes on serving it
)
