"""A prefix tree over token ids: radix segments of packed bytes, so that comparing and copying are C loops."""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Mapping
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
_NO_VERSION: Final = (-1).to_bytes(WIDTH, "little", signed=True)


@dataclass(slots=True, eq=False)
class Segment:
    """A run of nodes without a branch.

    Attributes:
        ids: Token ids, packed.
        last: Index of its last node; -1 for the root.
        rollout_id: On a response: its rollout. None on context.
        agent: On the segment that ends the response of a call: who made it. None elsewhere.
        contexts: Context that follows, by first token.
        responses: Responses that follow, by first token and rollout.
    """

    ids: bytes
    last: int
    parent: Segment | None
    rollout_id: str | None = None
    agent: str | None = None
    contexts: dict[bytes, Segment] | None = None
    responses: dict[bytes, dict[str, list[Segment]]] | None = None

    def next(self, token: bytes, rollout_id: str) -> list[Segment]:
        """What follows with this token and is open to this rollout."""
        found = list(self.responses.get(token, _NONE).get(rollout_id, ())) if self.responses else []
        if self.contexts and token in self.contexts:
            found.append(self.contexts[token])
        return found

    def append(self, child: Segment) -> None:
        """Lets a segment follow this one."""
        child.parent = self
        token = child.ids[:WIDTH]
        if child.rollout_id is None:
            self.contexts = self.contexts or {}
            self.contexts[token] = child
        else:
            self.responses = self.responses or {}
            self.responses.setdefault(token, {}).setdefault(child.rollout_id, []).append(child)

    def remove(self, child: Segment) -> None:
        """Takes a segment out."""
        token = child.ids[:WIDTH]
        if child.rollout_id is None and self.contexts:
            del self.contexts[token]
        elif child.rollout_id is not None and self.responses:
            self.responses[token][child.rollout_id].remove(child)


_NONE: Final[Mapping[str, list[Segment]]] = {}


class Ramp:
    """-1, 0, 1, 2, … packed, as long as it was asked for; the trees of one forest share it."""

    def __init__(self) -> None:
        self._packed = b""

    def upto(self, size: int) -> bytes:
        """The first numbers, at least `size` of them."""
        if len(self._packed) < WIDTH * size:
            size = max(size, len(self._packed) // WIDTH * 2)
            self._packed = struct.pack(f"<{size}i", *range(-1, size - 1))
        return self._packed


class _Break(NamedTuple):
    """A node whose parent is not the node before it, and how deep it lies."""

    node: int
    parent: int
    depth: int


class _Latest(NamedTuple):
    """The call before, of the same agent in the same rollout."""

    end: Segment
    prompt: bytes
    response: bytes


class Trie:
    """The tree of one group while it grows."""

    def __init__(self, group: str, ramp: Ramp) -> None:
        self.mismatches: Counter[str] = Counter()
        self.tokens_in = 0
        self._group = group
        self._ramp = ramp
        self._root = Segment(b"", -1, None)
        self._size = 0
        # the columns of the tree in pieces, in order of nodes
        self._ids: list[bytes] = []
        self._logprobs: list[bytes] = []
        self._versions: list[bytes] = []
        self._breaks: list[_Break] = []
        self._calls: list[Call] = []
        self._latest: dict[tuple[str, str], _Latest] = {}
        self._ambiguous: set[str] = set()

    def insert(self, transition: Transition, record: TokenRecord) -> None:
        """Adds one call."""
        prompt, response, rollout_id = record.prompt, record.response, transition.rollout_id
        key = rollout_id, transition.agent
        latest = self._latest.get(key)
        follows = (
            latest is not None
            and prompt.startswith(latest.prompt)
            and prompt.startswith(latest.response, len(latest.prompt))
        )
        segment, offset, matched = self._place(prompt, rollout_id, latest if follows else None)
        if latest and not follows and matched < len(prompt) and not _continues(segment, offset, key):
            self.mismatches[_mismatch(prompt, latest)] += 1
        end = segment if offset == len(segment.ids) else _ending_at(segment, offset)
        if matched < len(prompt):
            end = self._add_context(end, prompt[matched:], depth=matched // WIDTH)
        prompt_node, start = end.last, self._size
        if response:
            end = self._add_response(end, transition, record)
        self._latest[key] = _Latest(end, prompt, response)
        self.tokens_in += (len(prompt) + len(response)) // WIDTH
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
        ramp = self._ramp.upto(size + 1)
        parents = unpack_ints(ramp[: WIDTH * size])
        positions = []
        node, depth = 0, 0
        for at, parent, deep in self._breaks:
            parents[at] = parent
            positions.append(ramp[WIDTH * (depth + 1) : WIDTH * (depth + 1 + at - node)])
            node, depth = at, deep
        positions.append(ramp[WIDTH * (depth + 1) : WIDTH * (depth + 1 + size - node)])
        return TokenTree(
            group=self._group,
            token_ids=unpack_ints(b"".join(self._ids)),
            parents=parents,
            positions=unpack_ints(b"".join(positions)),
            logprobs=unpack_floats(b"".join(self._logprobs)),
            versions=unpack_ints(b"".join(self._versions)),
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
        if parent.responses:
            alike = parent.responses.get(ids[:WIDTH], _NONE)
            self._ambiguous |= {rollout_id for rollout_id, responses in alike.items() if responses}
        return self._append(
            parent,
            Segment(ids, self._size + len(ids) // WIDTH - 1, parent),
            depth=depth,
            logprobs=bytes(len(ids)),
            versions=_NO_VERSION * (len(ids) // WIDTH),
        )

    def _add_response(self, parent: Segment, transition: Transition, record: TokenRecord) -> Segment:
        ids, rollout_id = record.response, transition.rollout_id
        if (parent.responses or parent.contexts) and parent.next(ids[:WIDTH], rollout_id):
            self._ambiguous.add(rollout_id)
        return self._append(
            parent,
            Segment(ids, self._size + len(ids) // WIDTH - 1, parent, rollout_id, transition.agent),
            depth=len(record.prompt) // WIDTH,
            logprobs=record.logprobs,
            versions=record.versions
            or record.version.to_bytes(WIDTH, "little", signed=True) * (len(ids) // WIDTH),
        )

    def _append(
        self, parent: Segment, segment: Segment, *, depth: int, logprobs: bytes, versions: bytes
    ) -> Segment:
        """Lets a new segment follow, and its nodes come next."""
        parent.append(segment)
        node = self._size
        if parent.last != node - 1:
            self._breaks.append(_Break(node, parent.last, depth))
        self._ids.append(segment.ids)
        self._logprobs.append(logprobs)
        self._versions.append(versions)
        self._size = segment.last + 1
        return segment


def _ending_at(segment: Segment, offset: int) -> Segment:
    """The segment that ends at this place: itself, or its head, of which it becomes the tail."""
    parent = segment.parent
    if parent is None or offset == len(segment.ids):
        return segment
    parent.remove(segment)
    cut = (len(segment.ids) - offset) // WIDTH
    head = Segment(segment.ids[:offset], segment.last - cut, parent, segment.rollout_id)
    parent.append(head)
    # the tail stays the same object: whoever holds the end of a call goes on holding it
    segment.ids = segment.ids[offset:]
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


def _continues(segment: Segment, offset: int, key: tuple[str, str]) -> bool:
    """Whether the path to this place holds a whole response of this agent in this rollout, and ends within none."""
    whole = offset == len(segment.ids)
    if segment.rollout_id is not None and not (whole and segment.agent is not None):
        return False
    near: Segment | None = segment if whole else segment.parent
    while near is not None:
        if (near.rollout_id, near.agent) == key:
            return True
        near = near.parent
    return False


def _mismatch(prompt: bytes, earlier: _Latest) -> str:
    """Why a prompt does not continue its agent's call before."""
    common = _common(prompt, earlier.prompt + earlier.response)
    if common < len(earlier.prompt):
        return "rewritten"
    inside = common < len(earlier.prompt) + len(earlier.response) - WIDTH
    return "retokenisation" if inside else "template"
