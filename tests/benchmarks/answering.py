"""The other end of a `Worker`: a program that answers questions, one JSON line each, of the standard library alone."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Question = dict[str, Any]


class Stopwatch:
    """CPU seconds of this process, all threads together, and seconds on the clock, since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._cpu_s = time.process_time()
        self._wall_s = time.perf_counter()

    def per(self, count: int) -> dict[str, float]:
        """What one of `count` took."""
        wall_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        return {"cpu_s": cpu_s / count, "wall_s": wall_s / count}


def open_channel() -> tuple[IO[str], IO[str]]:
    """Questions and answers; whatever else prints goes to standard error from now on."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return sys.stdin, answers


def answer(file: IO[str], value: object) -> None:
    """Sends one answer."""
    print(json.dumps(value), file=file, flush=True)


def serve(cells: Mapping[str, Callable[..., object]]) -> None:
    """Answers each question with what its cell returns, until there are no more."""
    questions, answers = open_channel()
    answer(answers, "ready")
    for line in questions:
        question: Question = json.loads(line)
        answer(answers, cells[question.pop("cell")](**question))
