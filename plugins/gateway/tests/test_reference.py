"""`docs/reference/gateway.md` lists what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from lightning_plugin_gateway._errors import Fault
from lightning_plugin_gateway._live import LiveStatus
from lightning_plugin_gateway._metrics import metrics_text

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/gateway.md"


def listed(section: str) -> set[str]:
    """The names in the first column of a section's table."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


def test_every_class_of_failure_is_listed() -> None:
    assert listed("Failures") == set(get_args(Fault))


def test_every_metric_is_listed() -> None:
    text = metrics_text({}, live=LiveStatus(recorded=0, waiting=0, dropped=0))
    assert listed("Metrics") == {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
