from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway._sse import EventTooLong, SseParser

LINES = st.sampled_from(
    [
        "data: {}",
        "data:x",
        "data:  é𝄞 ",
        "data",
        ": comment",
        "event: e",
        "id: 1",
        "",
        "data: [DONE]",
        "nonsense",
    ]
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def parse(parts: list[bytes]) -> list[bytes]:
    parser = SseParser()
    events = [event for part in parts for event in parser.feed(part)]
    last = parser.close()
    return events if last is None else [*events, last]


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(LINES, max_size=12), end=ENDS, cuts=st.sets(st.integers(0, 150)), mark=st.booleans())
def test_events_do_not_depend_on_where_the_bytes_are_split(
    lines: list[str], end: str, cuts: set[int], mark: bool
) -> None:
    data = ("\ufeff" * mark + "".join(line + end for line in lines)).encode()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    parts = [data[low:high] for low, high in pairwise(bounds)]
    expected, pending = [], []
    for line in [*lines, ""]:
        if line.startswith("data:"):
            pending.append(line.removeprefix("data:").removeprefix(" "))
        if not line and pending:
            expected.append("\n".join(pending).encode())
            pending = []
    assert parse(parts) == expected
    assert parse([data[at : at + 1] for at in range(len(data))]) == expected


def test_every_single_split_point_gives_the_same_events() -> None:
    data = "\ufeffdata: é𝄞\r\ndata: two\r\n\r\n: c\n\ndata:x\r\rdata: last".encode()
    for at in range(len(data) + 1):
        assert parse([data[:at], data[at:]]) == ["é𝄞\ntwo".encode(), b"x", b"last"]


@pytest.mark.parametrize("line", [b"data: " + b"x" * 10_000, b"data: " + b"x" * 10_000 + b"\n"])
def test_a_stream_without_blank_lines_is_given_up(line: bytes) -> None:
    parser = SseParser()
    with pytest.raises(EventTooLong):
        any(map(parser.feed, [line] * 2_000))
