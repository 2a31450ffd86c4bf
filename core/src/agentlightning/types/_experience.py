"""Experience: episodes taken apart into transitions, and put together as a forest of tokens."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from agentlightning.types._export import ChatExample, PreferencePair
from agentlightning.types._policy_lineage import PolicyLineage
from agentlightning.types._reward import Reward
from agentlightning.types._rollout import Attempt, Json, Rollout
from agentlightning.types._span import Span, TokenRecord


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One finished attempt as it was captured: spans in order of sequence, late ones left out."""

    rollout: Rollout
    attempt: Attempt
    spans: tuple[Span, ...]


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One decision of one agent.

    Attributes:
        id: Unique: `attempt/span` of the span it was made from, with `:index` of the choice if there are several.
        index: Place in its trajectory, from 0.
        agent: Who decided; empty if nobody said.
        location: Node or function of the agent's program.
        state: What the agent saw: messages, emitted state.
        action: What it decided: message, tool call, chosen option.
        tokens: Exact tokens, when a language model decided.
        model: Model that served the call.
        reward: Reward aimed at this decision itself; None if there is none.
        signals: Intermediate rewards from what the decision led to, by kind of signal; empty unless the stage `signals`
            was given weights.
        credit: Share of the return this decision is given, by the credit stage, on the scale of returns.
        value: Return that a critic expected before the decision; None if there is no critic.
    """

    id: str
    rollout_id: str
    index: int
    agent: str = ""
    location: str = ""
    state: Json = None
    action: Json = None
    tokens: TokenRecord | None = None
    model: str = ""
    reward: float | None = None
    signals: dict[str, float] = {}
    credit: float | None = None
    value: float | None = None


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """The ordered transitions of one attempt, over any number of agents.

    Attributes:
        outcome: Reward of the whole attempt; None if nobody gave one.
        outcomes: The outcome by dimension.
        rewards: All rewards, those aimed at single spans included.
        episode_return: What the credits of its transitions are shares of, by the credit stage: the outcome, or with
            rewards along the way all that was earned. None until then.
    """

    rollout: Rollout
    attempt: Attempt
    transitions: tuple[Transition, ...]
    rewards: tuple[Reward, ...] = ()
    outcome: float | None = None
    outcomes: dict[str, float] = {}
    episode_return: float | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Trajectories of one task that are compared with each other."""

    key: str
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Where one LLM call lies in its tree.

    Attributes:
        transition_id: The transition that the call is.
        prompt_node: Node of the prompt's last token; -1 for an empty prompt.
        start: First node of the response.
        stop: One past the last node of the response; response nodes are contiguous, each the parent of the next.
    """

    transition_id: str
    rollout_id: str
    prompt_node: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTree:
    """The calls of one group as a prefix tree over tokens, as parallel arrays over its `N` nodes.

    Nodes are in order of insertion, so a parent always comes before its children.

    Attributes:
        token_ids: `array('i')`, `[N]`.
        parents: `array('i')`, `[N]`; -1 for a first token.
        positions: `array('i')`, `[N]`; distance from the start of the sequence, from 0.
        logprobs: `array('f')`, `[N]`; the sampler's log-probability on response nodes, 0 elsewhere.
        versions: `array('i')`, `[N]`; policy version on response nodes, -1 elsewhere.
        advantages: `array('f')`, `[N]`; 0 until `TokenForest.assign`.
        weights: `array('f')`, `[N]`; loss weight, 0 on everything that is not trained.
        calls: Every call inserted.
        old_logprobs: `array('f')`, `[N]`; log-probabilities under the learner's weights when the update began, which
            ratios are taken to; empty if the sampler's `logprobs` stand for them.
        reference_logprobs: `array('f')`, `[N]`; log-probabilities under a reference policy; empty if there is none.
        values: `array('f')`, `[N]`; return that a value head expected before each node when the update began; empty if
            there is none.
        returns: `array('f')`, `[N]`; return that it is to expect; empty if there is none.
    """

    group: str
    token_ids: array[int]
    parents: array[int]
    positions: array[int]
    logprobs: array[float]
    versions: array[int]
    advantages: array[float]
    weights: array[float]
    calls: tuple[Call, ...]
    old_logprobs: array[float] = field(default_factory=lambda: array("f"))
    reference_logprobs: array[float] = field(default_factory=lambda: array("f"))
    values: array[float] = field(default_factory=lambda: array("f"))
    returns: array[float] = field(default_factory=lambda: array("f"))

    def __len__(self) -> int:
        return len(self.token_ids)

    def path(self, node: int) -> list[int]:
        """Token ids from the root to `node`, both included; empty for -1."""
        ids: list[int] = []
        while node >= 0:
            ids.append(self.token_ids[node])
            node = self.parents[node]
        ids.reverse()
        return ids


Column = Literal["advantages", "weights", "old_logprobs", "reference_logprobs", "values", "returns"]
"""Columns of a `TokenTree` that are filled in after the tree was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenForest:
    """The trees of a batch: every token that several calls share is there once.

    Attributes:
        mismatches: Why calls could not continue an earlier one, with counts
            (`template`, `retokenisation`, `rewritten`).
        tokens_in: Tokens of all calls before merging, prompts and responses.
    """

    trees: tuple[TokenTree, ...]
    mismatches: Mapping[str, int] = field(default_factory=dict)
    tokens_in: int = 0

    @property
    def size(self) -> int:
        """Unique tokens after merging."""
        return sum(len(tree) for tree in self.trees)

    def assign(self, *, advantages: Mapping[str, float], weights: Mapping[str, float]) -> TokenForest:
        """Returns the forest with an advantage and a per-token loss weight on each call's response tokens.

        Args:
            advantages: By transition id; calls that are absent are not trained.
            weights: By transition id: the weight of each response token of that call in the loss.
        """
        return replace(self, trees=tuple(_assign(tree, advantages, weights) for tree in self.trees))

    def with_column(self, name: Column, values: Sequence[Sequence[float]]) -> TokenForest:
        """Returns the forest with one column of every tree replaced.

        Args:
            name: Which column.
            values: `[trees][N]`, one number per node.

        Raises:
            ValueError: The numbers are not as many as the nodes.
        """
        found = [len(numbers) for numbers in values]
        sizes = [len(tree) for tree in self.trees]
        if found != sizes:
            raise ValueError(
                f"column {name!r} has {found!r} numbers for trees of {sizes!r} nodes; give one per node"
            )
        trees = tuple(_with_column(*pair, name=name) for pair in zip(self.trees, values, strict=True))
        return replace(self, trees=trees)


def _assign(tree: TokenTree, advantages: Mapping[str, float], weights: Mapping[str, float]) -> TokenTree:
    advantage_N, weight_N = array("f", bytes(4 * len(tree))), array("f", bytes(4 * len(tree)))
    for call in tree.calls:
        if call.transition_id in advantages:
            count = call.stop - call.start
            advantage_N[call.start : call.stop] = array("f", [advantages[call.transition_id]] * count)
            weight_N[call.start : call.stop] = array("f", [weights[call.transition_id]] * count)
    return replace(tree, advantages=advantage_N, weights=weight_N)


def _with_column(tree: TokenTree, values: Sequence[float], *, name: Column) -> TokenTree:
    column = array("f", values)
    match name:
        case "advantages":
            return replace(tree, advantages=column)
        case "weights":
            return replace(tree, weights=column)
        case "old_logprobs":
            return replace(tree, old_logprobs=column)
        case "reference_logprobs":
            return replace(tree, reference_logprobs=column)
        case "values":
            return replace(tree, values=column)
        case "returns":
            return replace(tree, returns=column)


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """Something a stage left out, and why."""

    id: str
    reason: str


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """Something a stage noticed and kept, and what is odd about it."""

    id: str
    reason: str


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage did, kept with the run.

    Attributes:
        before: Counts by noun (`episodes`, `spans`, `trajectories`, `transitions`, `groups`, `tokens`, `chats`,
            `preferences`) on the way in.
        after: The same on the way out.
        dropped: How many were left out, by reason.
        remarks: How many were noticed and kept, by reason.
        ids: The first few that were left out or noticed, by reason.
    """

    stage: str
    before: dict[str, int]
    after: dict[str, int]
    dropped: dict[str, int]
    remarks: dict[str, int] = {}
    ids: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What flows through the pipeline; each stage fills in or rewrites a part and returns a new one.

    Attributes:
        episodes: What was captured.
        environment: Decisions that are not trained, as `attempt/span`, with the reason; from the `select` stage on.
        trajectories: What the agents decided, from the `transitions` stage on.
        groups: Trajectories by task, from the `group` stage on.
        forest: Token trees, one per group, from the `forest` stage on.
        chats: Conversations to imitate, from the `chat` stage on.
        preferences: Better and worse answers to the same, from the `preferences` stage on.
        drops: What the stage just run left out; the pipeline empties it between stages.
        remarks: What the stage just run noticed and kept; likewise.
        reports: One per stage that has run.
        lineages: Of policy versions, by the run that the rollouts belong to; a run that is not in it has loaded none.
    """

    episodes: tuple[Episode, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    trajectories: tuple[Trajectory, ...] = ()
    groups: tuple[Group, ...] = ()
    forest: TokenForest | None = None
    chats: tuple[ChatExample, ...] = ()
    preferences: tuple[PreferencePair, ...] = ()
    drops: tuple[Drop, ...] = ()
    remarks: tuple[Remark, ...] = ()
    reports: tuple[StageReport, ...] = ()
    lineages: Mapping[str | None, PolicyLineage] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How much is in it, by noun."""
        return {
            "episodes": len(self.episodes),
            "spans": sum(len(episode.spans) for episode in self.episodes),
            "trajectories": len(self.trajectories),
            "transitions": sum(len(trajectory.transitions) for trajectory in self.trajectories),
            "groups": len(self.groups),
            "tokens": self.forest.size if self.forest else 0,
            "chats": len(self.chats),
            "preferences": len(self.preferences),
        }
