"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agentlightning.capture import in_rollout

README = Path(__file__).parents[1] / "README.md"


async def test_the_agent_of_the_readme_can_be_trained(stage: Any) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    found: dict[str, Any] = {"__name__": "readme"}
    exec(code, found)
    agent = found["agent"]
    assert stage.adapter.accepts(agent)
    assert sorted(one.name for one in stage.adapter.tunables(agent)) == [
        "get_weather.description",
        "weather.model",
        "weather.system_prompt",
    ]
    with in_rollout(stage.rollout()):
        answer = await stage.adapter.as_function(agent)("hi")
    assert answer["messages"][-1]["content"] == "ok"
