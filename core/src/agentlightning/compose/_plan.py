"""Which algorithms learn in a run, and how they go together: plain data, kept with the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from agentlightning.compose._expression import Written, read
from agentlightning.errors import ConfigError
from agentlightning.types import Json


class How(StrEnum):
    """How the parts of a composition go together: one after the other, in turn, or at once."""

    SEQUENCE = "sequence"
    ALTERNATE = "alternate"
    TOGETHER = "together"


_OWN: Final[Mapping[str, frozenset[str]]] = {
    How.SEQUENCE: frozenset(),
    How.ALTERNATE: frozenset({"steps", "rounds"}),
    How.TOGETHER: frozenset(),
}
"""Parameters of the compositions."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An algorithm, or a composition of them. Made by `part`, `sequence`, `alternate` and `together`.

    Attributes:
        name: Of the algorithm, or `sequence`, `alternate` or `together`.
        params: Parameters of the algorithm, or of `alternate`.
        parts: Of the composition, in order.
        agents: Names of the agents whose decisions it learns from; empty is all.
        resources: Names of the resources that it may change; empty is all.
    """

    name: str
    params: dict[str, Json] = {}
    parts: tuple[Plan, ...] = ()
    agents: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()

    @property
    def how(self) -> How | None:
        """How its parts go together; None for an algorithm."""
        return How(self.name) if self.name in set(How) else None

    @property
    def algorithms(self) -> tuple[Plan, ...]:
        """The algorithms in it, in order."""
        if self.how is None:
            return (self,)
        return tuple(one for each in self.parts for one in each.algorithms)

    @property
    def title(self) -> str:
        """The names of its algorithms, as the run shows them: `lightningrl+decisions`."""
        return "+".join(one.name for one in self.algorithms)


PlanLike = str | tuple[str, Mapping[str, Json]] | Plan
"""A name or an expression of them, a name with parameters, or a plan."""


def part(
    name: str,
    params: Mapping[str, Json] | None = None,
    *,
    agents: Sequence[str] = (),
    resources: Sequence[str] = (),
) -> Plan:
    """An algorithm as part of a composition: `agl.part("lightningrl", {"updates": 50}, agents=["writer"])`.

    Args:
        name: Of the algorithm.
        params: Its parameters.
        agents: Names of the agents whose decisions it learns from; empty is all. What the others decide is part of
            the rollouts as before.
        resources: Names of the resources that it may change; empty is all.

    Raises:
        ConfigError: The name is that of a composition.
    """
    if name in set(How):
        raise ConfigError(f"{name!r} is no algorithm; write agl.{name}(…) with its parts")
    return Plan(name=name, params=dict(params or {}), agents=_names(agents), resources=_names(resources))


def sequence(*parts: PlanLike, agents: Sequence[str] = (), resources: Sequence[str] = ()) -> Plan:
    """One after another, each going on from what the one before it learned: `agl.sequence("sft", "lightningrl")`.

    Args:
        parts: Algorithms and compositions.
        agents: As for `part`, of all parts.
        resources: As for `part`, of all parts.

    Raises:
        ConfigError: There are no parts, or one cannot be read.
    """
    return _composed(How.SEQUENCE, parts, agents=agents, resources=resources)


def alternate(
    *parts: PlanLike,
    steps: int = 1,
    rounds: int | None = None,
    agents: Sequence[str] = (),
    resources: Sequence[str] = (),
) -> Plan:
    """Each for some steps in turn: `agl.alternate("apo", "lightningrl", steps=5)`.

    A part can be set aside where it saves its state: its turn ends with the first checkpoint that it writes after so
    many steps. One that never does has a single turn.

    Args:
        parts: Algorithms and compositions.
        steps: Least steps of a turn.
        rounds: Turns of each part; None goes on until all have ended.
        agents: As for `part`, of all parts.
        resources: As for `part`, of all parts.

    Raises:
        ConfigError: There are no parts, one cannot be read, or a number is below 1.
    """
    params: dict[str, Json] = {"steps": steps}
    if rounds is not None:
        params["rounds"] = rounds
    return _composed(How.ALTERNATE, parts, agents=agents, resources=resources, params=params)


def together(*parts: PlanLike, agents: Sequence[str] = (), resources: Sequence[str] = ()) -> Plan:
    """At once, from the same rollouts, the first leading: `agl.together("lightningrl", "memory")`.

    Args:
        parts: Algorithms and compositions.
        agents: As for `part`, of all parts.
        resources: As for `part`, of all parts.

    Raises:
        ConfigError: There are no parts, or one cannot be read.
    """
    return _composed(How.TOGETHER, parts, agents=agents, resources=resources)


def plan_of(
    choice: PlanLike | Sequence[PlanLike], *, sections: Mapping[str, Mapping[str, Json]] | None = None
) -> Plan:
    """What was chosen as a plan; several are a sequence.

    Args:
        choice: Names, expressions such as `together(lightningrl, decisions)`, or plans.
        sections: Parameters by algorithm, for those that are named in an expression; what that says itself wins.

    Raises:
        ConfigError: It cannot be read, or there is none.
    """
    match choice:
        case Plan():
            return choice
        case str():
            return _of_written(read(choice), sections=sections or {}, text=choice)
        case (str(name), Mapping() as params):
            return part(name, params)
    found = [plan_of(one, sections=sections) for one in choice]
    return found[0] if len(found) == 1 else sequence(*found)


def _composed(
    how: How,
    parts: Sequence[PlanLike],
    *,
    agents: Sequence[str],
    resources: Sequence[str],
    params: Mapping[str, Json] | None = None,
) -> Plan:
    if not parts:
        raise ConfigError(f"{how.value} has no parts; name algorithms, such as {how.value}('lightningrl')")
    for name, value in (params or {}).items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{how.value}: {name} must be a whole number of at least 1, got {value!r}")
    return Plan(
        name=how.value,
        params=dict(params or {}),
        parts=tuple(plan_of(one) for one in parts),
        agents=_names(agents),
        resources=_names(resources),
    )


def _of_written(found: Written, *, sections: Mapping[str, Mapping[str, Json]], text: str) -> Plan:
    settings = dict(found.settings)
    agents, resources = (_names(settings.pop(key, ())) for key in ("agents", "resources"))
    parts = [_of_written(one, sections=sections, text=text) for one in found.parts]
    if found.name in set(How):
        how = How(found.name)
        if unknown := sorted(settings.keys() - _OWN[how]):
            valid = ", ".join(sorted({"agents", "resources", *_OWN[how]}))
            raise ConfigError(f"{text!r}: {how.value} has no setting {unknown[0]!r}; valid are {valid}")
        if how is How.ALTERNATE:
            settings = {"steps": 1} | settings
        return _composed(how, parts, agents=agents, resources=resources, params=settings)
    if parts:
        raise ConfigError(
            f"{text!r}: {found.name!r} is no composition and has parts; write sequence(…), alternate(…) or together(…)"
        )
    known = {**sections.get(found.name, {}), **settings}
    return part(found.name, known, agents=agents, resources=resources)


def _names(value: Json | Sequence[str]) -> tuple[str, ...]:
    """One name, or several."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(one, str) and one for one in names):
        raise ConfigError(f"agents and resources of a part are names, got {value!r}")
    return tuple(str(one) for one in names)
