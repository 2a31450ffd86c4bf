"""Our numbers against those that peers recorded: `nox -s oracles` computes the peers' anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning_algorithm_lightningrl")

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import oracle_ours  # noqa: E402

RECORDS = {peer: json.loads((HERE / f"{peer}.json").read_text()) for peer in ("verl", "trl", "liger")}
CASES = [(peer, case) for peer, record in RECORDS.items() for case in record["numbers"]]


@pytest.fixture(scope="module")
def ours() -> dict[str, list[float]]:
    return oracle_ours.numbers()[1]


@pytest.mark.parametrize(("peer", "case"), CASES, ids=str)
def test_our_numbers_and_gradients_are_theirs(peer: str, case: str, ours: dict[str, list[float]]) -> None:
    assert ours[case] == pytest.approx(RECORDS[peer]["numbers"][case], abs=1e-6)


def test_what_the_table_in_the_docs_says_of_us_is_so(ours: dict[str, list[float]]) -> None:
    recorded = json.loads((HERE / "ours.json").read_text())["numbers"]
    assert recorded.keys() == ours.keys(), "run: python tests/oracles ours --write && python docs/generate.py"
    for case, numbers in ours.items():
        assert numbers == pytest.approx(recorded[case], abs=1e-9), case


def test_every_one_of_our_cases_has_a_peer(ours: dict[str, list[float]]) -> None:
    assert {case for _, case in CASES} == ours.keys()
