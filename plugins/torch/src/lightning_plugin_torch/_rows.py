"""A forest as rows: each call from the root by itself."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace

from agentlightning.types import Call, TokenTree


def rows_of(trees: Iterable[TokenTree]) -> tuple[TokenTree, ...]:
    """One chain per call with something to train; each trained node is trained in the row of its own call only."""
    return tuple(_row(tree, call) for tree in trees for call in tree.calls if any(_weights(tree, call)))


def _weights(tree: TokenTree, call: Call) -> array[float]:
    return tree.weights[call.start : call.stop]


def _row(tree: TokenTree, call: Call) -> TokenTree:
    nodes: list[int] = []
    node = call.stop - 1
    while node >= 0:
        nodes.append(node)
        node = tree.parents[node]
    nodes.reverse()
    size = len(nodes)
    start = size - (call.stop - call.start)
    return replace(
        tree,
        token_ids=array("i", [tree.token_ids[node] for node in nodes]),
        parents=array("i", range(-1, size - 1)),
        positions=array("i", range(size)),
        versions=array("i", [tree.versions[node] for node in nodes]),
        weights=array("f", [0.0] * start) + _weights(tree, call),
        calls=(replace(call, prompt_node=start - 1, start=start, stop=size),),
        logprobs=_at(nodes, tree.logprobs),
        advantages=_at(nodes, tree.advantages),
        old_logprobs=_at(nodes, tree.old_logprobs),
        reference_logprobs=_at(nodes, tree.reference_logprobs),
        values=_at(nodes, tree.values),
        returns=_at(nodes, tree.returns),
    )


def _at(nodes: Sequence[int], column: array[float]) -> array[float]:
    """The numbers of some nodes; none of a column that is empty."""
    return array("f", [column[node] for node in nodes] if column else [])
