from __future__ import annotations

import asyncio
import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway.upstreams._events import Events
from lightning_plugin_gateway.upstreams._faults import UpstreamFault
from lightning_plugin_gateway.upstreams._protocols import PROTOCOLS

calm = settings(deadline=None, derandomize=True)
CHUNKS = [b'{"choices": [{"delta": {"content": "\xc3\xa9 %d"}}]}' % place for place in range(5)]
WHOLE = b": hi\r\n\r\n" + b"".join(b"data: " + chunk + b"\r\n\r\n" for chunk in CHUNKS) + b"data: [DONE]\n\n"


class Parts:
    """The network, as an answer shows it."""

    secrets = ()

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        places = [0, *sorted(cuts), len(data)]
        self.parts = [data[start:end] for start, end in itertools.pairwise(places) if start < end]

    async def part(self) -> bytes:
        return self.parts.pop(0) if self.parts else b""


def texts(data: bytes, cuts: list[int]) -> tuple[list[str], bool]:
    """What is read, and whether it was told that it is broken."""

    async def read() -> tuple[list[str], bool]:
        events: Any = Events(Parts(data, cuts), PROTOCOLS["chat"])  # type: ignore[arg-type]
        seen = []
        try:
            while await events.fill():
                seen += [event["choices"][0]["delta"]["content"] for event in events.batch]
        except UpstreamFault:
            return seen, True
        return seen, False

    return asyncio.run(read())


ALL = [f"é {place}" for place in range(5)]


@calm
@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=30))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    assert texts(WHOLE, cuts) == (ALL, False)


@calm
@given(end=st.integers(0, len(WHOLE)), cuts=st.lists(st.integers(0, len(WHOLE)), max_size=5))
def test_a_stream_that_ends_anywhere_gives_what_came_whole(end: int, cuts: list[int]) -> None:
    seen, broken = texts(WHOLE[:end], [cut for cut in cuts if cut <= end])
    assert seen == ALL[: len(seen)]
    assert len(seen) >= WHOLE[:end].count(b"}\r\n\r\n")
    assert not broken


@calm
@given(place=st.integers(0, 4), cuts=st.lists(st.integers(0, len(WHOLE)), max_size=5))
def test_what_comes_before_nonsense_is_read(place: int, cuts: list[int]) -> None:
    broken = WHOLE.replace(CHUNKS[place], b"{nonsense" + CHUNKS[place][9:])
    assert texts(broken, cuts) == (ALL[:place], True)
