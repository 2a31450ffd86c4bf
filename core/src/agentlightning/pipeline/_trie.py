"""A prefix tree over token ids: radix segments of packed bytes, so that comparing and copying are C loops."""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

from agentlightning.types import (
    Call,
    TokenRecord,
    TokenTree,
    Transition,
    unpack_floats,
    unpack_ints,
)

WIDTH: Final = 4
"""Bytes of one packed token id or log-probability."""


@dataclass(slots=True, eq=False)
class Segment:
    """A run of nodes without a branch.

    Attributes:
        ids: Token ids, packed.
        first: Index of its first node.
        rollout_id: On a response: its rollout. None on context.
        agent: On the segment that ends the response of a call: who made it. None elsewhere.
        contexts: Context that follows, by first token.
        responses: Responses that follow, by rollout.
    """

    ids: bytes
    first: int
    parent: Segment | None
    rollout_id: str | None = None
    agent: str | None = None
    contexts: dict[bytes, Segment] | None = None
    responses: dict[str, list[Segment]] | None = None

    @property
    def last(self) -> int:
        """Index of its last node; -1 for the root."""
        return self.first + len(self.ids) // WIDTH - 1

    def next(self, token: bytes, rollout_id: str) -> list[Segment]:
        """What follows with this token and is open to this rollout."""
        found = []
        if self.responses:
            found = [child for child in self.responses.get(rollout_id, ()) if child.ids.startswith(token)]
        if self.contexts and token in self.contexts:
            found.append(self.contexts[token])
        return found

    def append(self, child: Segment) -> None:
        """Lets a segment follow this one."""
        child.parent = self
        if child.rollout_id is None:
            self.contexts = self.contexts or {}
            self.contexts[child.ids[:WIDTH]] = child
        else:
            self.responses = self.responses or {}
            self.responses.setdefault(child.rollout_id, []).append(child)

    def remove(self, child: Segment) -> None:
        """Takes a segment out."""
        if child.rollout_id is None and self.contexts:
            del self.contexts[child.ids[:WIDTH]]
        elif child.rollout_id is not None and self.responses:
            self.responses[child.rollout_id].remove(child)


class _Run(NamedTuple):
    """Nodes that were added at once: in order they are the tree's arrays."""

    ids: bytes
    parent: int
    depth: int
    record: TokenRecord | None


class _Latest(NamedTuple):
    """The call before, of the same agent in the same rollout."""

    end: Segment
    prompt: bytes
    response: bytes

    def is_prefix_of(self, prompt: bytes) -> bool:
        """Whether a prompt goes on where the call ended."""
        return prompt.startswith(self.prompt) and prompt.startswith(self.response, len(self.prompt))


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
        self._latest: dict[tuple[str, str], _Latest] = {}
        self._ambiguous: set[str] = set()

    def insert(self, transition: Transition, record: TokenRecord) -> None:
        """Adds one call."""
        prompt, rollout_id = record.prompt, transition.rollout_id
        key = rollout_id, transition.agent
        latest = self._latest.get(key)
        follows = latest if latest and latest.is_prefix_of(prompt) else None
        segment, offset, matched = self._place(prompt, rollout_id, follows)
        if latest and not follows and matched < len(prompt) and not _continues(segment, offset, key):
            self.mismatches[_mismatch(prompt, latest)] += 1
        end = _ending_at(segment, offset)
        if matched < len(prompt):
            end = self._add_context(end, prompt[matched:], depth=matched // WIDTH)
        prompt_node, start = end.last, self._size
        if record.response:
            end = self._add_response(end, transition, record)
        self._latest[key] = _Latest(end, prompt, record.response)
        self.tokens_in += len(prompt) // WIDTH + self._size - start
        self._calls.append(
            Call(
                transition_id=transition.id,
                rollout_id=rollout_id,
                prompt_node=prompt_node,
                start=start,
                stop=self._size,
            )
        )

    def tree(self) -> TokenTree:
        """The tree so far."""
        size = self._size
        # a node's parent is the one before it, except where a run begins
        ramp = struct.pack(f"<{size + 1}i", *range(-1, size))
        parents = unpack_ints(ramp[: WIDTH * size])
        ids, positions, logprobs, versions = [], [], [], []
        node = 0
        for run in self._runs:
            count = len(run.ids) // WIDTH
            parents[node] = run.parent
            ids.append(run.ids)
            positions.append(ramp[WIDTH * (run.depth + 1) : WIDTH * (run.depth + 1 + count)])
            logprobs.append(run.record.logprobs if run.record else bytes(len(run.ids)))
            version = run.record.version if run.record else -1
            versions.append(version.to_bytes(WIDTH, "little", signed=True) * count)
            node += count
        return TokenTree(
            group=self._group,
            token_ids=unpack_ints(b"".join(ids)),
            parents=parents,
            positions=unpack_ints(b"".join(positions)),
            logprobs=unpack_floats(b"".join(logprobs)),
            versions=unpack_ints(b"".join(versions)),
            advantages=array("f", bytes(WIDTH * size)),
            weights=array("f", bytes(WIDTH * size)),
            calls=tuple(self._calls),
        )

    def _place(self, prompt: bytes, rollout_id: str, follows: _Latest | None) -> tuple[Segment, int, int]:
        """Where the longest open path along the prompt ends: segment, bytes into it, bytes of the prompt."""
        # as long as no two paths open to the rollout read alike, the longest goes through any that matches
        if follows and rollout_id not in self._ambiguous:
            matched = len(follows.prompt) + len(follows.response)
            return _longest(follows.end, matched, prompt=prompt, rollout_id=rollout_id)
        return _longest(self._root, 0, prompt=prompt, rollout_id=rollout_id)

    def _add_context(self, parent: Segment, ids: bytes, *, depth: int) -> Segment:
        token = ids[:WIDTH]
        for rollout_id, responses in (parent.responses or {}).items():
            if any(response.ids.startswith(token) for response in responses):
                self._ambiguous.add(rollout_id)
        segment = Segment(ids, self._size, parent)
        parent.append(segment)
        self._append(_Run(ids, parent.last, depth, None))
        return segment

    def _add_response(self, parent: Segment, transition: Transition, record: TokenRecord) -> Segment:
        rollout_id = transition.rollout_id
        if parent.next(record.response[:WIDTH], rollout_id):
            self._ambiguous.add(rollout_id)
        segment = Segment(record.response, self._size, parent, rollout_id, transition.agent)
        parent.append(segment)
        self._append(_Run(record.response, parent.last, len(record.prompt) // WIDTH, record))
        return segment

    def _append(self, run: _Run) -> None:
        self._runs.append(run)
        self._size += len(run.ids) // WIDTH


def _ending_at(segment: Segment, offset: int) -> Segment:
    """The segment that ends at this place: itself, or its head, of which it becomes the tail."""
    parent = segment.parent
    if parent is None or offset == len(segment.ids):
        return segment
    parent.remove(segment)
    head = Segment(segment.ids[:offset], segment.first, parent, segment.rollout_id)
    parent.append(head)
    # the tail stays the same object: whoever holds the end of a call goes on holding it
    segment.ids, segment.first = segment.ids[offset:], segment.first + offset // WIDTH
    head.append(segment)
    return head


def _longest(start: Segment, matched: int, *, prompt: bytes, rollout_id: str) -> tuple[Segment, int, int]:
    """Walks every open path that reads like the prompt; of equally long ones any will do."""
    best = start, len(start.ids), matched
    if not start.contexts and not start.responses:
        return best
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


def _mismatch(prompt: bytes, earlier: _Latest) -> str:
    """Why a prompt does not continue its agent's call before."""
    common = _common(prompt, earlier.prompt + earlier.response)
    if common < len(earlier.prompt):
        return "rewritten"
    inside = common < len(earlier.prompt) + len(earlier.response) - WIDTH
    return "retokenisation" if inside else "template"
