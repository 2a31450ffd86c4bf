"""A rollout as a tree: spans below the spans they happened in, with messages, tool calls and rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agentlightning import semconv
from agentlightning.cli._messages import Message, messages_of
from agentlightning.cli._output import MISSING, duration, number, shortened, status_text
from agentlightning.errors import InvalidReward
from agentlightning.types import Attempt, Json, Rollout, Span, SpanStatus, reward_of

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

_ROLES = {"system": "magenta", "user": "blue", "assistant": "green", "tool": "yellow"}
_LONGEST = 600


def trace_tree(rollout: Rollout, *, attempt: Attempt | None, spans: Sequence[Span]) -> Tree:
    """The tree of one attempt, rewards of the whole attempt last."""
    from rich.tree import Tree

    tree = Tree(_header(rollout, attempt))
    tree.add(_labelled("task", rollout.task))
    _Trace(spans).fill(tree)
    if rollout.output is not None:
        tree.add(_labelled("output", rollout.output))
    failure = (attempt.failure if attempt else None) or rollout.failure
    if failure is not None:
        tree.add(_text(f"{failure.kind.value}: {failure.message}", "red"))
    rewards = [span for span in spans if span.operation == semconv.OPERATION_REWARD]
    for span in rewards:
        tree.add(_reward(span))
    return tree


def rewards_text(rewards: Mapping[str, float]) -> Text:
    """Rewards by dimension, in the colour of their sign."""
    if not rewards:
        return _text(MISSING, "dim")
    only = list(rewards) == ["reward"]
    text = ", ".join(number(value) if only else f"{name} {number(value)}" for name, value in rewards.items())
    return _text(text, "green" if sum(rewards.values()) > 0 else "red")


class _Trace:
    """Spans by their parents, and the messages that were shown already, by agent."""

    def __init__(self, spans: Sequence[Span]) -> None:
        ids = {span.span_id for span in spans}
        self._children: dict[str | None, list[Span]] = {}
        self._shown: dict[str | None, list[Message]] = {}
        for span in spans:
            if span.operation != semconv.OPERATION_REWARD:
                parent = span.parent_id if span.parent_id in ids and span.parent_id != span.span_id else None
                self._children.setdefault(parent, []).append(span)

    def fill(self, tree: Tree) -> None:
        """Hangs every span into the tree; spans whose parents form a ring are left out."""
        self._hang(tree, None)

    def _hang(self, tree: Tree, parent: str | None) -> None:
        for span in sorted(self._children.get(parent, ()), key=lambda one: (one.start_ns, one.sequence)):
            branch = tree.add(_title(span))
            for line in self._details(span):
                branch.add(line)
            self._hang(branch, span.span_id)

    def _details(self, span: Span) -> list[Text]:
        lines = [*self._messages(span)]
        for key, label in (
            (semconv.TOOL_CALL_ARGUMENTS, "arguments"),
            (semconv.TOOL_CALL_RESULT, "result"),
            (semconv.STATE, "state"),
            (semconv.ACTION, "action"),
            (semconv.MESSAGE, "message"),
            (semconv.OBJECT, "object"),
            (semconv.DECISION_CHOICE, "chose"),
        ):
            if key in span.attributes:
                lines.append(_labelled(label, span.attributes[key]))
        if span.error:
            lines.append(_text(span.error, "red"))
        return lines

    def _messages(self, span: Span) -> list[Text]:
        """What is new in this call: what was shown at an earlier call of the agent is not repeated."""
        inputs = messages_of(span.attributes.get(semconv.INPUT_MESSAGES))
        outputs = messages_of(span.attributes.get(semconv.OUTPUT_MESSAGES))
        if not inputs and not outputs:
            return []
        shown = self._shown.get(span.agent, [])
        known = 0
        while known < min(len(inputs), len(shown)) and inputs[known] == shown[known]:
            known += 1
        self._shown[span.agent] = [*inputs, *outputs]
        lines = [_text(f"… {known} messages as before", "dim")] if known else []
        return lines + [line for message in [*inputs[known:], *outputs] for line in _message(message)]


def _header(rollout: Rollout, attempt: Attempt | None) -> Text:
    text = _text(f"rollout {rollout.id}  ", "bold").append_text(status_text(rollout.status.value))
    text.append(f"  {rollout.mode.value}", "dim")
    if attempt is not None:
        took = duration(attempt.finished_at - attempt.leased_at if attempt.finished_at else None)
        text.append(f"  attempt {attempt.sequence}, {took}", "dim")
    return text


def _title(span: Span) -> Text:
    text = _text(span.name, "bold red" if span.status is SpanStatus.ERROR else "bold")
    text.append(f"  {duration((span.end_ns - span.start_ns) / 1e9)}", "dim")
    if span.agent:
        text.append(f"  {span.agent}", "magenta")
    for record in span.tokens:
        sampled = f"{len(record.prompt) // 4} + {len(record.response) // 4} tokens"
        text.append(
            f"  {record.incomplete or sampled}, policy {record.version}",
            "yellow" if record.incomplete else "dim",
        )
    if span.late:
        text.append("  late", "yellow")
    return text


def _message(message: Message) -> list[Text]:
    style = _ROLES.get(message.role, "")
    lines = message.lines or ("(empty)",)
    return [
        _text(f"{message.role or 'message'}: ", style).append(shortened(line, _LONGEST), "") for line in lines
    ]


def _reward(span: Span) -> Text:
    try:
        reward = reward_of(span)
    except InvalidReward as error:
        return _text(f"reward: {error}", "red")
    if reward is None:
        return _text(span.name)
    text = _text("reward ", "bold").append_text(rewards_text({reward.dimension: reward.value}))
    text.append(f"  by {reward.source.value}", "dim")
    if reward.target:
        text.append(f"  for {reward.target}", "dim")
    if reward.reason:
        text.append(f"  {reward.reason}", "dim")
    return text


def _labelled(label: str, value: Json) -> Text:
    return _text(f"{label}: ", "dim").append(shortened(value, _LONGEST), "")


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style)
