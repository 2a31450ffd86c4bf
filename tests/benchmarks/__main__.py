"""Runs benchmarks: `python tests/benchmarks [NAME …] [--rounds N] [--json]`. Each file `row_NAME.py` is one row.

A row has `measure(*, rounds) -> Row`. With `--json` the last line of each row is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

PREFIX = "row_"


def main() -> None:
    """Measures the rows that were asked for, or all."""
    names = sorted(path.stem.removeprefix(PREFIX) for path in Path(__file__).parent.glob(f"{PREFIX}*.py"))
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Measures against named opponents.")
    parser.add_argument("name", nargs="*", help=f"rows to measure, of: {', '.join(names)} (default: all)")
    parser.add_argument("--rounds", type=int, help="rounds that count (default: what the row finds enough)")
    parser.add_argument("--json", action="store_true", help="end each row with one line of JSON")
    options = parser.parse_args()
    if unknown := sorted(set(options.name) - set(names)):
        parser.error(f"no row is called {', '.join(unknown)}; there are: {', '.join(names)}")
    rounds = {} if options.rounds is None else {"rounds": options.rounds}
    for name in options.name or names:
        row = import_module(f"{PREFIX}{name}").measure(**rounds)
        print(f"{name}: {', '.join(f'{key} {ratio:.2f}' for key, ratio in row.ratios.items())}")
        for key, value in row.detail.items():
            print(f"  {key}: {value}")
        if options.json:
            print(json.dumps({"name": name, "ratios": row.ratios, "detail": row.detail}))


if __name__ == "__main__":
    main()
