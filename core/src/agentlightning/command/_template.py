"""Templates of arguments, files and variables: `{task.question}` and a few names more, and nothing is executed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from agentlightning.errors import ConfigError
from agentlightning.types import Json

NAMES: Final = (
    "attempt_id",
    "base_url",
    "directory",
    "mode",
    "model",
    "python",
    "rollout_id",
    "seed",
    "task",
)
"""What can be filled in. A key cannot: other processes can read arguments, and files outlive the attempt."""

_FIELD: Final = re.compile(r"(\{?)\{([A-Za-z_]\w*(?:\.[\w-]+)*)\}(\}?)")


def check(template: str, *, of: str) -> bool:
    """Whether a template mentions the task.

    A name in braces is filled in, in double braces it stays as it is; other braces mean nothing.

    Args:
        of: What the template is for, for messages.

    Raises:
        ConfigError: It has a name that means nothing, a half of double braces, or a NUL character.
    """
    if "\0" in template:
        raise ConfigError(f"{of} {template!r} has a NUL character, which no program can be given")
    found = False
    for opened, name, closed in _FIELD.findall(template):
        if opened and closed:
            continue
        if opened or closed:
            raise ConfigError(
                f"{of} {template!r} has {opened}{{{name}}}{closed}: write {{{name}}} to have it filled in, "
                f"or {{{{{name}}}}} for the text itself"
            )
        head, _, rest = name.partition(".")
        if head not in NAMES or (rest and head != "task"):
            near = difflib.get_close_matches(head, NAMES, n=1, cutoff=0.6)
            hint = f"did you mean {{{near[0]}}}?" if near else f"there are {', '.join(NAMES)} and task.FIELD"
            raise ConfigError(
                f"{of} {template!r} has {{{name}}}, which means nothing; {hint} "
                f"(write {{{{{name}}}}} for the text itself)"
            )
        found |= head == "task"
    return found


def fill(template: str, values: Mapping[str, Json]) -> str:
    """The text that a checked template stands for; what was filled in is not looked at again.

    Args:
        values: By name; texts are filled in as they are, other values as JSON, None as nothing.

    Raises:
        ConfigError: The task has no such field.
    """

    def found(match: re.Match[str]) -> str:
        opened, name, _ = match.groups()
        if opened:
            return f"{{{name}}}"
        return _text(_value(values, name))

    return _FIELD.sub(found, template)


def _value(values: Mapping[str, Json], name: str) -> Json:
    head, *path = name.split(".")
    value = values.get(head)
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            has = f"has {', '.join(map(repr, value))}" if isinstance(value, Mapping) else f"is {value!r:.80}"
            raise ConfigError(
                f"the command asks for {{{name}}}, but there is no {key!r}: the task {has}; "
                "change the command's template or the task"
            )
        value = value[key]
    return value


def _text(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
