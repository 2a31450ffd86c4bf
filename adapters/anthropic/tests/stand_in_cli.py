"""Stands in for the Claude Agent SDK's program: its stream of JSON lines, and one call of the Messages API per prompt.

What is between `[` and `]` in a prompt is obeyed: `[fail]` ends with an error, `[hold]` never ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)  # noqa: T201 - this is how the program talks


def call(prompt: str, *, model: str, system: str) -> str:
    body = {
        "model": model,
        "max_tokens": 9,
        "system": system,
        "messages": [{"role": "user", "content": prompt}],
    }
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {os.environ['ANTHROPIC_AUTH_TOKEN']}",
        "anthropic-version": "2023-06-01",
        "traceparent": os.environ.get("TRACEPARENT", ""),
    }
    url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
        return str(json.load(answer)["content"][0]["text"])


def answer(prompt: str) -> None:
    if "[hold]" in prompt:
        Path(prompt.rsplit(maxsplit=1)[-1]).write_text(str(os.getpid()))
        time.sleep(600)
    model, system = (option(name) for name in ("--model", "--system-prompt"))
    text = call(prompt, model=model or "claude-default", system=system or "none")
    content = [{"type": "text", "text": text}]
    say(type="assistant", message={"role": "assistant", "model": "m", "content": content}, session_id="s")
    failed = "[fail]" in prompt
    told = {"is_error": failed, "result": "no luck" if failed else text}
    say(
        type="result", subtype="success", duration_ms=1, duration_api_ms=1, num_turns=1, session_id="s", **told
    )  # fmt: skip


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else ""


def main() -> None:
    if "-v" in sys.argv or "--version" in sys.argv:
        print("99.0.0 (stand-in)")  # noqa: T201 - as above
        return
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "control_request":
            ident = message["request_id"]
            say(type="control_response", response={"subtype": "success", "request_id": ident, "response": {}})
        elif message["type"] == "user":
            content = message["message"]["content"]
            answer(content if isinstance(content, str) else content[0]["text"])


if __name__ == "__main__":
    main()
