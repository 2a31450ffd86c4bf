"""Span attributes of an embedding."""

from __future__ import annotations

from collections.abc import Mapping

from agentlightning import semconv
from lightning_adapter_openai._describe import Attributes, answered, asked


def request_attributes(request: Mapping[str, object], content: bool) -> Attributes:
    """What is asked. The texts are left out: they are documents more often than not."""
    del content
    return asked(request, operation=semconv.OPERATION_EMBEDDINGS, longest=None)


def response_attributes(answer: object, content: bool) -> Attributes:
    """What came back, without the vectors."""
    del content
    return answered(answer, usage=("prompt_tokens", ""))
