"""OpenTelemetry context for the time that a call or a generator's code runs, and never for its consumer's."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context


@contextmanager
def inside(values: Mapping[str, object], *, kept: list[Context] | None = None) -> Iterator[None]:
    """Sets values of the current context for the block, and undoes whatever else the block makes current.

    Args:
        values: What to set.
        kept: Keeps what the block has left; given again, the next block goes on with it.
    """
    here = kept.pop() if kept else _with(values)
    token = otel_context.attach(here)
    try:
        yield
    finally:
        if kept is not None:
            kept.append(otel_context.get_current())
        otel_context.detach(token)


def stepwise(iterator: Iterator[Any], values: Mapping[str, object]) -> Generator[Any, None, None]:
    """The same iterator, each of its steps inside of these values."""
    kept: list[Context] = []
    try:
        while True:
            with inside(values, kept=kept):
                try:
                    found = next(iterator)
                except StopIteration:
                    return
            yield found
    finally:
        cast("Generator[Any, None, None]", iterator).close()


async def astepwise(
    iterator: AsyncGenerator[Any, None], values: Mapping[str, object]
) -> AsyncGenerator[Any, None]:
    """The same async generator, each of its steps inside of these values."""
    kept: list[Context] = []
    first: Awaitable[Any] | None = _unlisted(iterator)
    try:
        while True:
            with inside(values, kept=kept):
                try:
                    found = await (first or anext(iterator))
                    first = None
                except StopAsyncIteration:
                    return
            yield found
    finally:
        await iterator.aclose()


def _unlisted(iterator: AsyncGenerator[Any, None]) -> Awaitable[Any]:
    """The first step of an async generator that the event loop does not get to know.

    A loop that ends closes all generators that it knows at once, and one that is being closed by another cannot be.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return anext(iterator)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _with(values: Mapping[str, object]) -> Context:
    here = otel_context.get_current()
    for key, value in values.items():
        here = otel_context.set_value(key, value, here)
    return here
