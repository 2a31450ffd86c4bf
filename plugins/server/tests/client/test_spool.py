"""The spool: what was put is there after a crash at any byte, and only one process has it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_plugin_server.client._spool import Spool, left_spool, new_spool

PAYLOADS = st.lists(st.binary(max_size=40), max_size=6)


def spool_at(path: Path) -> Spool:
    return Spool(path, most_bytes=2**20)


@given(payloads=PAYLOADS, dropped=st.integers(0, 6), more=PAYLOADS)
def test_payloads_come_out_in_order_once_each(payloads: list[bytes], dropped: int, more: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = spool_at(Path(folder) / "one.spool")
        for payload in payloads:
            spool.put(payload)
        for payload in payloads[:dropped]:
            assert spool.first() == payload
            spool.drop(payload)
        for payload in more:
            spool.put(payload)
        assert list(spool.payloads()) == [*payloads[dropped:], *more]
        assert spool.empty is not bool([*payloads[dropped:], *more])
        spool.close()


@given(payloads=PAYLOADS, cut=st.integers(0, 400))
def test_a_crash_at_any_byte_costs_only_what_was_not_whole(payloads: list[bytes], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.spool"
        spool, ends = spool_at(path), [0]
        for payload in payloads:
            spool.put(payload)
            ends.append(spool.size_bytes)
        raw = path.read_bytes()
        spool.close()
        path.write_bytes(raw[:cut])
        whole = payloads[: sum(end <= min(cut, len(raw)) for end in ends) - 1]
        again = spool_at(path)
        assert list(again.payloads()) == whole
        again.put(b"more")
        assert list(again.payloads()) == [*whole, b"more"]
        again.close()


@given(noise=st.binary(min_size=1, max_size=60) | st.just(b"\x01\0\0\0\0\0\0\0x"))
def test_noise_at_the_end_is_left_out(noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.spool"
        spool = spool_at(path)
        spool.put(b"first")
        spool.close()
        path.write_bytes(path.read_bytes() + noise)
        again = spool_at(path)
        assert list(again.payloads()) == [b"first"]
        again.close()


def test_a_spool_is_taken_over_when_its_owner_is_gone(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, most_bytes=2**20)
    spool.put(b"payload")
    assert left_spool(tmp_path, most_bytes=2**20) is None
    spool.close()
    taken = left_spool(tmp_path, most_bytes=2**20)
    assert taken is not None
    assert taken.first() == b"payload"
    with pytest.raises(BlockingIOError):
        spool_at(next(tmp_path.glob("*.spool")))
    taken.drop(b"payload")
    taken.close()
    assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_to_take_over_where_nothing_is(tmp_path: Path) -> None:
    assert left_spool(tmp_path / "missing", most_bytes=2**20) is None
