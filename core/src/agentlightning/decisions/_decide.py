"""`agl.decide`: takes an option by the rollout's policy, and records what was known and how probable it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TypeVar

import msgspec
from opentelemetry.util.types import AttributeValue

from agentlightning import semconv
from agentlightning.capture import RolloutContext, current_rollout
from agentlightning.capture._plain import to_json, to_plain
from agentlightning.capture._tracer import own_tracer
from agentlightning.decisions._policy import draw, propensities
from agentlightning.types import DecisionPolicy, Json, Mode

_Option = TypeVar("_Option")


def decide(name: str, options: Sequence[_Option], *, context: object = None) -> _Option:
    """A decision point that can be learned: returns one of the options.

    A `DecisionPolicy` among the rollout's resources decides; without one, and outside of rollouts, the first option is
    taken. The same decision (name, options, context) in a rollout of the same seed is always decided alike; where it
    comes up several times, each time by a draw of its own. Never waits, so sync and async code use it alike.

    Args:
        name: What is decided, stable over runs.
        options: What there is to choose from; the first is the default. Plain data, or objects that are known by their
            `name` or `__name__`.
        context: What the decision depends on, as far as a policy can use it.

    Raises:
        ValueError: There are no options, the name is empty, or two policies of the rollout claim the decision.
        TypeError: `name` is no string, `options` no sequence, or, inside a rollout, options or context cannot be
            expressed as JSON.
    """
    _check(name, options)
    rollout = current_rollout()
    if rollout is None:
        return options[0]
    described = [_described(option, path=f"options[{index}]") for index, option in enumerate(options)]
    state = to_plain(context, path="context")
    listed = to_json(described, path="options")
    index, shares = 0, [1.0]
    attributes: dict[str, AttributeValue] = {
        semconv.OPERATION: semconv.OPERATION_DECISION,
        semconv.DECISION_NAME: name,
        semconv.DECISION_OPTIONS: listed,
    }
    if context is not None:
        attributes[semconv.STATE] = to_json(state, path="context")
    if (found := _policy(rollout, name)) is not None:
        resource, policy = found
        greedy = policy.greedy and rollout.mode is not Mode.TRAIN
        shares = propensities(policy, name, options=described, context=state, greedy=greedy)
        index = draw(shares, seed=_seed(rollout, name, what=(listed, attributes.get(semconv.STATE))))
        attributes |= {
            semconv.DECISION_INDEX: index,
            semconv.DECISION_PROPENSITIES: shares,
            semconv.DECISION_POLICY: resource,
            semconv.POLICY_VERSION: policy.version,
        }
    attributes[semconv.DECISION_CHOICE] = to_json(described[index], path="choice")
    attributes[semconv.DECISION_PROPENSITY] = shares[index]
    own_tracer().start_span(f"decide {name}", attributes=attributes).end()
    return options[index]


def _check(name: object, options: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name is a {type(name).__name__}, {name!r}; give the decision a name such as 'tool'")
    if not name:
        raise ValueError("name is empty; give the decision a name such as 'tool'")
    if isinstance(options, str | bytes) or not isinstance(options, Sequence):
        raise TypeError(
            f"options of decide({name!r}) are a {type(options).__name__}, {options!r}; give a list, in an order that "
            "is the same each time"
        )
    if not options:
        raise ValueError(f"decide({name!r}) has no options; give at least the default one")


def _described(option: object, *, path: str) -> Json:
    """An option as plain data; an object by its name, if it has one."""
    plain = option is None or isinstance(option, str | int | float | Mapping | list | tuple | Enum)
    if not plain:
        for attribute in ("name", "__name__"):
            known = getattr(option, attribute, None)
            if isinstance(known, str) and known:
                return known
    return to_plain(option, path=path)


def _policy(rollout: RolloutContext, name: str) -> tuple[str, DecisionPolicy] | None:
    """The policy that takes a decision, with its name: one that lists it, else one that takes all."""
    policies = [(key, one) for key, one in rollout.resources.items() if isinstance(one, DecisionPolicy)]
    listed = [(key, one) for key, one in policies if name in one.points]
    found = listed or [(key, one) for key, one in policies if not one.points]
    if len(found) > 1:
        raise ValueError(
            f"decision {name!r} is claimed by the policies {sorted(key for key, _ in found)!r}; give each its points"
        )
    return found[0] if found else None


def _seed(rollout: RolloutContext, name: str, *, what: object) -> str:
    """What the draw follows from. What is decided is part of it: parallel branches draw alike in any order."""
    digest = hashlib.blake2b(msgspec.json.encode([name, what]), digest_size=8).hexdigest()
    start = rollout.rollout_id if rollout.seed is None else rollout.seed
    return f"{start}/{digest}/{rollout.occurrence(digest)}"
