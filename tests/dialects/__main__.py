"""Records traces of other instrumentations: `python tests/dialects [NAME …] [--expect]`, or `nox -s dialects`.

Each instrumentation gets an environment of its own in a temporary folder, and a small agent that calls a scripted
model on a loopback port. What it exports goes to `core/tests/pipeline/golden`, without anything of this machine in it.
`--expect` records nothing: it writes what is made of the recordings now beside them, for a person to read.
"""

# ruff: noqa: T201 - what a program prints is its result
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from scrub import scrubbed

from agentlightning.testing import (
    ScriptedAnswer,
    ScriptedFault,
    ScriptedLLM,
    ScriptedReply,
    ScriptedRequest,
    ScriptedToolCall,
)

AGENTS = Path(__file__).parent / "agents"
TESTS = Path(__file__).parents[2] / "core" / "tests" / "pipeline"
GOLDEN = TESTS / "golden"
LIMIT_S = 120


class Dialect(NamedTuple):
    """One instrumentation: its agent, what that needs, and its arguments."""

    agent: str
    requirements: tuple[str, ...]
    arguments: tuple[str, ...] = ()


SDK = "opentelemetry-sdk>=1.45,<2"
DIALECTS = {
    "openinference_openai": Dialect(
        "openinference_openai", ("openinference-instrumentation-openai==0.1.66", "openai==3.54.0", SDK)
    ),
    "openinference_langchain": Dialect(
        "openinference_langchain",
        (
            "openinference-instrumentation-langchain==0.1.80",
            "langchain==1.4.7",
            "langchain-openai==1.7.3",
            SDK,
        ),
    ),
    "traceloop_sdk": Dialect("traceloop_sdk", ("traceloop-sdk==0.62.4", "openai==3.54.0", "httpx")),
    "openllmetry_indexed": Dialect(
        "openllmetry_indexed",
        ("opentelemetry-instrumentation-openai==0.40.14", "openai<2", "setuptools<80", SDK),
    ),
    "agentops_sdk": Dialect("agentops_sdk", ("agentops==0.4.21", "openai<1.90", "httpx")),
    **{
        f"openai_v2_{form}": Dialect(
            "openai_v2",
            (
                "opentelemetry-instrumentation-openai-v2==2.4b0",
                "opentelemetry-util-genai==0.4b0",
                "openai==3.54.0",
                "httpx<1",
                SDK,
            ),
            (form,),
        )
        for form in ("logs", "attributes")
    },
}


def answer(request: ScriptedRequest) -> ScriptedReply:
    """The scripted model: a tool call, an answer to its result, a stream, an error, a response."""
    body: Any = request.json
    if "messages" not in body:
        return ScriptedAnswer(text="Blue")
    last = body["messages"][-1]
    if last["role"] == "tool":
        return ScriptedAnswer(text="It is 5.")
    if "Fail" in str(last["content"]):
        return ScriptedFault(status=400, message="refused")
    if "Count" in str(last["content"]):
        return ScriptedAnswer(text="One, two, three.", chunk_chars=8)
    call = ScriptedToolCall(name="add", arguments={"a": 2, "b": 3}, id="call_1")
    return ScriptedAnswer(tool_calls=(call,))


def record(name: str, folder: Path) -> None:
    """Runs an agent under its instrumentation and keeps what it exported."""
    dialect = DIALECTS[name]
    python = environment(folder / "environment", dialect.requirements)
    target = folder / f"{name}.json"
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OTEL", "OPENAI"))
    }
    with ScriptedLLM(answer) as model:
        command = [
            str(python),
            str(AGENTS / f"{dialect.agent}.py"),
            model.base_url,
            str(target),
            *dialect.arguments,
        ]
        subprocess.run(command, env=clean, timeout=LIMIT_S, check=True)
    for path in sorted(folder.glob(f"{name}*.json")):
        text = json.dumps(scrubbed(json.loads(path.read_text())), indent=1, ensure_ascii=False)
        (GOLDEN / path.name).write_text(text + "\n")
        print(f"recorded {path.name}: {len(text):,} characters")


def environment(folder: Path, requirements: tuple[str, ...]) -> Path:
    """A fresh environment with the requirements; its Python."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if uv := shutil.which("uv"):
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *requirements], check=True)
    return python


def expect() -> None:
    """Writes what is made of each recording."""
    spec = importlib.util.spec_from_file_location("golden_tests", TESTS / "test_normalise_golden.py")
    if spec is None or spec.loader is None:
        raise SystemExit("the tests of the recordings are missing")
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    for name in tests.NAMES:
        text = json.dumps(tests.understood(name), indent=1, ensure_ascii=False)
        (GOLDEN / f"{name}.expected.json").write_text(text + "\n")
        print(f"wrote {name}.expected.json")


def main() -> None:
    """Records what the command line names, or everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DIALECTS)}")
    parser.add_argument("--expect", action="store_true", help="write what is made of the recordings")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in DIALECTS]:
        parser.error(f"there is no dialect {unknown[0]!r}; there are: {', '.join(DIALECTS)}")
    if chosen.expect:
        expect()
        return
    GOLDEN.mkdir(exist_ok=True)
    for name in chosen.names or DIALECTS:
        with tempfile.TemporaryDirectory() as folder:
            record(name, Path(folder))


if __name__ == "__main__":
    main()
