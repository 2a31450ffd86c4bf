"""Writes calls down: durably, and before the client has the whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentlightning.errors import StoreError, StoreUnavailable
from agentlightning.gateway import AttemptGrant
from agentlightning.store import Store
from agentlightning.types import Span
from lightning_plugin_gateway._errors import ApiError

_TRIES = 3
_WAIT_S = 0.1


class Recorder:
    """Appends the spans of attempts."""

    def __init__(self, store: Store, *, late: Callable[[str], None]) -> None:
        """Prepares a recorder.

        Args:
            late: Told the id of an attempt that has ended, because a span of it came late.
        """
        self._store = store
        self._late = late

    async def append(self, span: Span, grant: AttemptGrant) -> None:
        """Returns when the span is kept. Raises `ApiError` if it cannot be: no answer is given unrecorded."""
        for failures in range(_TRIES):
            try:
                result = await self._store.spans.append([span], token=grant.token)
            except StoreUnavailable as error:
                if failures == _TRIES - 1:
                    message = f"the call could not be recorded: {error}"
                    raise ApiError(503, message, fault="not_recorded", retry_after="1") from error
            except StoreError as error:
                message = f"the call cannot be recorded: {error}"
                raise ApiError(500, message, fault="not_recorded", final=True) from error
            else:
                if result.late:
                    self._late(span.attempt_id)
                return
            await asyncio.sleep(_WAIT_S * 2**failures)
