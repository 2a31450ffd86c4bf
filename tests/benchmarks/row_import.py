"""Row `import`: what `import agentlightning` and `agl --help` cost beyond a bare interpreter.

The opponent is the OpenTelemetry SDK alone, which whoever traces anything loads anyway. Costs are CPU seconds of
whole processes, with byte code cached.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial

from measurement import Row, Spread, interleaved

COMMANDS = {
    "bare": ("-c", "pass"),
    "sdk": ("-c", "import opentelemetry.sdk.trace"),
    "import": ("-c", "import agentlightning"),
    "help": (
        "-c",
        "import sys; sys.argv = ['agl', '--help']; from agentlightning.cli import main; sys.exit(main())",
    ),
}


def measure(*, rounds: int = 15) -> Row:
    """Runs each command in turn and compares it to the SDK."""
    with tempfile.TemporaryDirectory() as cache:
        contenders = {name: partial(_run, arguments, cache) for name, arguments in COMMANDS.items()}
        cpu_s = interleaved(contenders, rounds=rounds)
    bare_s = statistics.median(cpu_s.pop("bare"))
    extra_s = {name: [sample - bare_s for sample in samples] for name, samples in cpu_s.items()}
    sdk_s = statistics.median(extra_s["sdk"])
    return Row(
        ratios={name: sdk_s / statistics.median(extra_s[name]) for name in ("import", "help")},
        detail={
            "rounds": rounds,
            "bare_cpu_s": round(bare_s, 4),
            "extra_cpu_s": {name: asdict(Spread.of(samples)) for name, samples in extra_s.items()},
        },
    )


def _run(arguments: tuple[str, ...], cache: str) -> float:
    """CPU seconds of one interpreter; a failing one has no cost worth comparing."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command, env=environment | {"PYTHONPYCACHEPREFIX": cache}, stdout=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime
