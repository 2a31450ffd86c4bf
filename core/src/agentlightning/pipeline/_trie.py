"""A prefix tree over token ids: radix segments of packed bytes, so that comparing and copying are C loops."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from agentlightning.types import Call, TokenRecord, TokenTree, Transition, unpack_floats, unpack_ints

WIDTH: Final = 4
"""Bytes of one packed token id or log-probability."""


@dataclass(slots=True, eq=False)
class Segment:
    """A run of nodes without a branch.

    Attributes:
        ids: Token ids, packed.
        first: Index of its first node.
        agent: On the segment that ends the response of a call: who made it. None elsewhere.
        rollout_id: On a response: its rollout. None on context.
        contexts: Context that follows, by first token.
        responses: Responses that follow, by rollout.
    """

    ids: bytes
    first: int
    parent: Segment | None
    rollout_id: str | None = None
    agent: str | None = None
    contexts: dict[bytes, Segment] = field(default_factory=dict)
    responses: dict[str, list[Segment]] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """Index of its last node; -1 for the root."""
        return self.first + len(self.ids) // WIDTH - 1

    def next(self, token: bytes, rollout_id: str) -> list[Segment]:
        """What follows with this token and is open to this rollout."""
        own = [child for child in self.responses.get(rollout_id, ()) if child.ids.startswith(token)]
        context = self.contexts.get(token)
        return [*own, context] if context else own


@dataclass(frozen=True, slots=True)
class _Run:
    """Nodes that were added at once: in order they are the tree's arrays."""

    ids: bytes
    parent: int
    depth: int
    record: TokenRecord | None


class Trie:
    """The tree of one group while it grows."""

    def __init__(self, group: str) -> None:
        self.mismatches: Counter[str] = Counter()
        self.tokens_in = 0
        self._group = group
        self._root = Segment(b"", 0, None)
        self._size = 0
        self._runs: list[_Run] = []
        self._calls: list[Call] = []
        self._latest: dict[tuple[str, str], tuple[Segment, bytes, int]] = {}
        self._ambiguous: set[str] = set()

    def insert(self, transition: Transition, record: TokenRecord) -> None:
        """Adds one call."""
        prompt, response, rollout_id = record.prompt, record.response, transition.rollout_id
        key = rollout_id, transition.agent
        latest = self._latest.get(key)
        segment, offset, matched = self._place(prompt, rollout_id, latest)
        if latest and matched < len(prompt) and not _continues(segment, offset, key):
            self.mismatches[_mismatch(prompt, latest[1], latest[2])] += 1
        end = self._branch(segment, offset)
        if matched < len(prompt):
            end = self._add_context(end, prompt[matched:], depth=matched // WIDTH)
        start = self._size
        leaf = self._add_response(end, transition, record) if response else end
        self._latest[key] = leaf, prompt + response, len(prompt)
        self.tokens_in += (len(prompt) + len(response)) // WIDTH
        self._calls.append(
            Call(
                transition_id=transition.id,
                rollout_id=rollout_id,
                prompt_node=end.last,
                start=start,
                stop=self._size,
            )
        )

    def tree(self) -> TokenTree:
        """The tree so far."""
        size = self._size
        ramp = array("i", range(-1, size))
        parents, ramp_bytes = ramp[:size], memoryview(ramp).cast("B")
        positions, logprobs, versions = array("i"), [], array("i")
        node = 0
        for run in self._runs:
            count = len(run.ids) // WIDTH
            parents[node] = run.parent
            positions.frombytes(ramp_bytes[WIDTH * (run.depth + 1) : WIDTH * (run.depth + 1 + count)])
            logprobs.append(run.record.logprobs if run.record else bytes(len(run.ids)))
            versions.extend(array("i", [run.record.version if run.record else -1]) * count)
            node += count
        return TokenTree(
            group=self._group,
            token_ids=unpack_ints(b"".join([run.ids for run in self._runs])),
            parents=parents,
            positions=positions,
            logprobs=unpack_floats(b"".join(logprobs)),
            versions=versions,
            advantages=array("f", bytes(WIDTH * size)),
            weights=array("f", bytes(WIDTH * size)),
            calls=tuple(self._calls),
        )

    def _place(
        self, prompt: bytes, rollout_id: str, latest: tuple[Segment, bytes, int] | None
    ) -> tuple[Segment, int, int]:
        """Where the longest open path along the prompt ends: segment, bytes into it, bytes of the prompt."""
        # as long as no two paths open to the rollout read alike, the longest goes through any that matches
        if latest and rollout_id not in self._ambiguous and prompt.startswith(latest[1]):
            return _longest(latest[0], len(latest[1]), prompt=prompt, rollout_id=rollout_id)
        return _longest(self._root, 0, prompt=prompt, rollout_id=rollout_id)

    def _branch(self, segment: Segment, offset: int) -> Segment:
        """The segment that ends at this place: itself, or a new one made of its head."""
        if offset == len(segment.ids) or segment.parent is None:
            return segment
        parent = segment.parent
        head = Segment(segment.ids[:offset], segment.first, parent, segment.rollout_id)
        if segment.rollout_id is None:
            parent.contexts[head.ids[:WIDTH]] = head
        else:
            siblings = parent.responses[segment.rollout_id]
            siblings[siblings.index(segment)] = head
        # the tail stays the same object: whoever holds the end of a call goes on holding it
        segment.ids, segment.first, segment.parent = (
            segment.ids[offset:],
            segment.first + offset // WIDTH,
            head,
        )
        if segment.rollout_id is None:
            head.contexts[segment.ids[:WIDTH]] = segment
        else:
            head.responses[segment.rollout_id] = [segment]
        return head

    def _add_context(self, parent: Segment, ids: bytes, *, depth: int) -> Segment:
        segment = Segment(ids, self._size, parent)
        token = ids[:WIDTH]
        for rollout_id, responses in parent.responses.items():
            if any(response.ids.startswith(token) for response in responses):
                self._ambiguous.add(rollout_id)
        parent.contexts[token] = segment
        self._append(_Run(ids, parent.last, depth, None))
        return segment

    def _add_response(self, parent: Segment, transition: Transition, record: TokenRecord) -> Segment:
        rollout_id = transition.rollout_id
        segment = Segment(record.response, self._size, parent, rollout_id, transition.agent)
        if parent.next(record.response[:WIDTH], rollout_id):
            self._ambiguous.add(rollout_id)
        parent.responses.setdefault(rollout_id, []).append(segment)
        self._append(_Run(record.response, parent.last, len(record.prompt) // WIDTH, record))
        return segment

    def _append(self, run: _Run) -> None:
        self._runs.append(run)
        self._size += len(run.ids) // WIDTH


def _longest(start: Segment, matched: int, *, prompt: bytes, rollout_id: str) -> tuple[Segment, int, int]:
    """Walks every open path that reads like the prompt; of equally long ones any will do."""
    best = start, len(start.ids), matched
    waiting = [(start, matched)]
    while waiting:
        segment, offset = waiting.pop()
        for child in (
            segment.next(prompt[offset : offset + WIDTH], rollout_id) if offset < len(prompt) else ()
        ):
            if prompt.startswith(child.ids, offset):
                common = len(child.ids)
                waiting.append((child, offset + common))
            else:
                common = _common(child.ids, prompt[offset : offset + len(child.ids)])
            if offset + common > best[2]:
                best = child, common, offset + common
    return best


def _common(one: bytes, other: bytes) -> int:
    """Length in bytes of the common prefix in whole tokens; each byte is compared about twice, in C."""
    low, high = 0, min(len(one), len(other)) // WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        if one[WIDTH * low : WIDTH * middle] == other[WIDTH * low : WIDTH * middle]:
            low = middle
        else:
            high = middle - 1
    return WIDTH * low


def _continues(segment: Segment | None, offset: int, key: tuple[str, str]) -> bool:
    """Whether the path to this place holds a whole response of this rollout and agent."""
    if segment is not None and offset < len(segment.ids):
        segment = segment.parent
    while segment is not None:
        if (segment.rollout_id, segment.agent) == key:
            return True
        segment = segment.parent
    return False


def _mismatch(prompt: bytes, earlier: bytes, earlier_prompt_size: int) -> str:
    """Why a prompt does not continue the path of its agent's call before."""
    common = _common(prompt, earlier)
    if common < earlier_prompt_size:
        return "rewritten"
    return "template" if common >= len(earlier) - WIDTH else "retokenisation"
