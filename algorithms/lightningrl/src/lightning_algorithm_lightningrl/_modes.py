"""Settings of where rollouts come from, and of which groups are worth an update."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from agentlightning.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Chance = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Asynchronous(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rollouts go on while the learner learns; `max_staleness` above 0 asks for it.

    Attributes:
        in_flight: Weights change under answers that are being sampled, where the engine can; otherwise calls in flight
            end before.
    """

    in_flight: bool = False


class Order(StrEnum):
    """How groups are drawn from a store: each as likely as any other, the newest, or by what there is to learn."""

    UNIFORM = "uniform"
    RECENT = "recent"
    PRIORITY = "priority"


class Offline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Updates from stored rollouts alone; nothing is played for them.

    Attributes:
        runs: Ids of the runs whose training rollouts are learned from; empty is every rollout for training that
            finished before this run began.
        store: URL of the store that has them; empty is the run's own.
        order: Which groups an update draws, without putting any of them twice into one.
        window: Draws from so many newest groups, for `recent`; 0 is as many as an update takes.
        exponent: How much the priority of a group counts, for `priority`: alpha of prioritised replay (Schaul et al.
            2016, equation 1); 0 is uniform. 0.6 unless given. The priority is what the rewards of the group differ from
            their mean, on average: what there is to learn from comparing them.
        importance: How much of the bias of that the weights of the loss undo: beta (§3.4); 1, all of it, unless given.
    """

    runs: tuple[str, ...] = ()
    store: str = ""
    order: Order = Order.UNIFORM
    window: Count = 0
    exponent: NonNegative | None = None
    importance: NonNegative | None = None

    def __post_init__(self) -> None:
        for name in ("exponent", "importance"):
            if getattr(self, name) is not None and self.order is not Order.PRIORITY:
                raise ConfigError(
                    f"offline: {name} is {getattr(self, name)!r}, and order {self.order.value!r} has no priorities; "
                    f"take order 'priority', or leave {name} out"
                )
        if self.window and self.order is not Order.RECENT:
            raise ConfigError(
                f"offline: window is {self.window!r}, and order {self.order.value!r} draws from all groups; take "
                "order 'recent', or leave window out"
            )


class Curriculum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks whose last pass rate was too low or too high come more seldom.

    Attributes:
        passed: Least outcome of a rollout that counts as passed.
        lowest: Tasks with this pass rate or less are too hard for now.
        highest: Tasks with this pass rate or more are too easy.
        keep: Chance that such a task is played nevertheless when its turn comes.
    """

    passed: float = 0.5
    lowest: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    highest: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    keep: Chance = 0.25

    def __post_init__(self) -> None:
        if self.lowest >= self.highest:
            raise ConfigError(
                f"curriculum: no pass rate is above lowest = {self.lowest!r} and below highest = {self.highest!r}; "
                "take a lower lowest or a higher highest"
            )


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which groups an update is made of.

    Attributes:
        replace_flat: Most groups of one update that are replaced by groups of further tasks, because nothing can be
            learned from them: all their credits are equal (dynamic sampling, arXiv 2503.14476). They are in none of
            the loss's denominators. What is flat beyond that stays.
        curriculum: Which tasks are passed over; none unless given.
    """

    replace_flat: Count = 0
    curriculum: Curriculum | None = None
