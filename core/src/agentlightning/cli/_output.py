"""What commands print: JSON for machines, compact tables for people."""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

MISSING: Final = "n/a"
"""What stands where there is no value."""
_PLAIN_WIDTH: Final = 160
"""Width of tables that go to a file or a pipe, in columns."""
_STYLES: Final = {
    "succeeded": "green",
    "ok": "green",
    "loaded": "green",
    "live": "green",
    "running": "cyan",
    "leased": "cyan",
    "queued": "blue",
    "interrupted": "yellow",
    "stopped": "yellow",
    "cancelled": "yellow",
    "warning": "yellow",
    "disabled": "dim",
    "failed": "red",
    "lost": "red",
    "timed_out": "red",
    "broken": "red",
}


def print_json(value: object) -> None:
    """One line of JSON on stdout; bytes become base64."""
    print(json.dumps(msgspec.to_builtins(value), allow_nan=False))


def aside(as_json: bool) -> AbstractContextManager[object]:
    """Where agents run in this process: what they print goes to stderr if stdout is for a machine."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def console() -> Console:
    """Stdout as a rich console: colours in a terminal only."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def show(*renderables: RenderableType) -> None:
    """Prints for people."""
    target = console()
    for renderable in renderables:
        target.print(renderable, markup=False)


def new_table(*columns: str) -> Table:
    """A compact table without lines."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold" if column in {"id", "run"} else "ellipsis")
    return table


def status_text(status: str) -> Text:
    """A status in its colour."""
    from rich.text import Text

    return Text(status, style=_STYLES.get(status, ""))


def plain(text: object) -> Text:
    """Text as it is, whatever brackets it holds."""
    from rich.text import Text

    return Text(MISSING if text is None or text == "" else str(text))


def shortened(value: object, length: int = 60) -> str:
    """A value on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def ago(moment: float | None, *, now: float | None = None) -> str:
    """How long ago a moment was."""
    if moment is None:
        return MISSING
    return f"{duration(max(0.0, (time.time() if now is None else now) - moment))} ago"


def duration(seconds: float | None) -> str:
    """A duration in at most two units: `3 min 12 s`."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit, smaller, part in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = int(seconds % size // smaller)
            return (
                f"{int(seconds // size)} {unit} {rest} {part}" if rest else f"{int(seconds // size)} {unit}"
            )
    return f"{seconds:.0f} s"


def number(value: object) -> str:
    """A number as people read it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
