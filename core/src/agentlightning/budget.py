"""Budgets: how much a run may spend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from agentlightning import semconv
from agentlightning.errors import BudgetExhausted, ConfigError
from agentlightning.gateway import HttpUpstream, Price
from agentlightning.types import Episode, Json, Span, SpanSource

_TOKEN_BYTES = 4
_ANY = "*"


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Hard limits of a run; None is unlimited. Evaluation counts too. A limit below 0 is a `ConfigError`.

    Attributes:
        rollouts: Most rollouts.
        tokens: Most tokens, prompts and answers of recorded LLM calls together.
        seconds: Longest wall time in seconds, of all the processes that have driven the run.
        money: Most that LLM calls may cost, in the currency of the upstreams' prices.
    """

    rollouts: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise ConfigError(
                    f"the limit of {name} is {limit!r}; give 0 or more, or leave it out for none"
                )


def prices_of(
    budget: Budget, *, engine: str | None, upstreams: Mapping[str, HttpUpstream]
) -> dict[str, Price]:
    """Prices by model, for a run that counts money.

    Raises:
        ConfigError: The budget limits money, and what calls cost is not known.
    """
    prices = {name: upstream.price for name, upstream in upstreams.items() if upstream.price is not None}
    # a call is recorded under the name that its upstream knows the model by
    known = {one.model: one.price for one in upstreams.values() if one.model and one.price is not None}
    if budget.money is None:
        return known | prices
    if engine is not None or not upstreams:
        where = f"engine {engine!r} has no price" if engine else "calls do not go through the gateway"
        raise ConfigError(
            f"budget.money is {budget.money!r}, and {where}; limit rollouts, tokens or seconds, or name upstreams "
            "with prices"
        )
    if unpriced := sorted(upstreams.keys() - prices.keys()):
        raise ConfigError(
            f"budget.money is {budget.money!r}, and what {unpriced!r} cost is not known; give "
            f"gateway.upstreams.{unpriced[0]}.price its prompt and response prices per million tokens"
        )
    return known | prices


class BudgetMeter:
    """Counts what a run spends and refuses what its budget does not allow.

    Args:
        budget: The limits.
        rollouts: Spent before.
        tokens: Spent before.
        prices: By model; `*` is every other one. Without any, calls cost nothing.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        rollouts: int = 0,
        tokens: int = 0,
        prices: Mapping[str, Price] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._prices = dict(prices or {})
        self._clock = clock
        self._started = clock()
        self._seconds_before = 0.0
        self._counted: set[str] = set()
        self.rollouts = rollouts
        self.tokens = tokens
        self.money = 0.0

    @property
    def seconds(self) -> float:
        """Wall time in seconds, that of earlier processes included."""
        return self._seconds_before + self._clock() - self._started

    def spent(self) -> dict[str, Json]:
        """What was spent, for the run's summary and its checkpoints."""
        spent: dict[str, Json] = {"rollouts": self.rollouts, "tokens": self.tokens}
        return spent | ({"money": self.money} if self._prices else {})

    def manifest(self) -> dict[str, Json]:
        """What `restore` takes."""
        return {**self.spent(), "seconds": self.seconds}

    def restore(self, manifest: Mapping[str, Json]) -> None:
        """Goes on from what an earlier process had spent at a checkpoint."""
        self.rollouts = int(str(manifest["rollouts"]))
        self.tokens = int(str(manifest["tokens"]))
        self.money = float(str(manifest.get("money", 0.0)))
        self._seconds_before = float(str(manifest.get("seconds", 0.0)))

    def count(self, episodes: Iterable[Episode]) -> None:
        """Counts the calls of finished rollouts, each rollout once."""
        for episode in episodes:
            if episode.rollout.id in self._counted:
                continue
            self._counted.add(episode.rollout.id)
            for span in episode.spans:
                prompt, response = _tokens(span)
                self.tokens += prompt + response
                if price := self._price(span):
                    told = _told(span)
                    asked, answered = told if any(told) else (prompt, response)
                    self.money += (asked * price.prompt + answered * price.response) / 1e6

    def check_time(self) -> None:
        """Refuses to go on when the time is up.

        Raises:
            BudgetExhausted: It is.
        """
        limit = self._budget.seconds
        if limit is not None and self.seconds >= limit:
            raise BudgetExhausted(f"{self.seconds:.0f} s have passed, the budget allows {limit:.0f} s")

    def reserve(self, rollouts: int) -> None:
        """Counts rollouts about to start.

        Raises:
            BudgetExhausted: They, or what was spent so far, pass a limit; nothing is counted.
        """
        budget = self._budget
        if budget.rollouts is not None and self.rollouts + rollouts > budget.rollouts:
            raise BudgetExhausted(
                f"{rollouts} more rollouts would make {self.rollouts + rollouts}, the budget allows {budget.rollouts}"
            )
        if budget.tokens is not None and self.tokens >= budget.tokens:
            raise BudgetExhausted(f"{self.tokens} tokens are spent, the budget allows {budget.tokens}")
        if budget.money is not None and self.money >= budget.money:
            raise BudgetExhausted(f"{self.money:g} is spent, the budget allows {budget.money:g}")
        self.check_time()
        self.rollouts += rollouts

    def _price(self, span: Span) -> Price | None:
        if span.source is not SpanSource.GATEWAY or span.operation == semconv.OPERATION_BEGUN:
            return None
        asked = str(span.attributes.get(semconv.REQUEST_MODEL, ""))
        return self._prices.get(asked) or self._prices.get(_ANY)


def _tokens(span: Span) -> tuple[int, int]:
    """Recorded tokens of prompts and answers."""
    prompt = sum(len(record.prompt) for record in span.tokens) // _TOKEN_BYTES
    return prompt, sum(len(record.response) for record in span.tokens) // _TOKEN_BYTES


def _told(span: Span) -> tuple[int, int]:
    """What the upstream says that it used, which is what it charges."""
    asked, answered = (span.attributes.get(name) for name in (semconv.INPUT_TOKENS, semconv.OUTPUT_TOKENS))
    return (asked if isinstance(asked, int) else 0), (answered if isinstance(answered, int) else 0)
