"""Computes a peer's numbers anew and compares them with the recorded ones: `python tests/oracles PEER [--write]`.

Runs in the peer's own environment and imports nothing of the workspace.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

HERE = Path(__file__).parent
PEERS = ("ours", "verl", "trl", "liger")
TOLERANCE = 1e-9


def main(arguments: list[str]) -> int:
    """Returns 1 if a number is another one than recorded."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    if len(names) != 1 or names[0] not in PEERS:
        say(f"name one of {', '.join(PEERS)}, not {' '.join(names)!r}")
        return 2
    record = HERE / f"{names[0]}.json"
    versions, numbers = importlib.import_module(f"oracle_{names[0]}").numbers()
    if "--write" in arguments:
        rounded = {name: [float(f"{value:.12g}") for value in values] for name, values in numbers.items()}
        content = {"versions": versions, "numbers": rounded}
        record.write_text(json.dumps(content, indent=1, sort_keys=True).replace(",\n   ", ", ") + "\n")
        say(f"wrote {len(numbers)} cases to {record.name}: {versions!r}")
        return 0
    recorded = json.loads(record.read_text())["numbers"]
    moved = sorted(
        name for name in recorded.keys() | numbers.keys() if not same(recorded.get(name), numbers.get(name))
    )
    for name in moved:
        say(f"{name}: recorded {recorded.get(name)!r}, computed {numbers.get(name)!r}")
    say(f"{names[0]}: {len(numbers) - len(moved)} of {len(numbers)} cases as recorded, with {versions!r}")
    return int(bool(moved))


def say(line: str) -> None:
    """Writes a line."""
    sys.stdout.write(f"{line}\n")


def same(recorded: list[float] | None, computed: list[float] | None) -> bool:
    """Whether both are there and equal."""
    if recorded is None or computed is None or len(recorded) != len(computed):
        return False
    return all(
        math.isclose(*pair, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for pair in zip(recorded, computed, strict=True)
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
