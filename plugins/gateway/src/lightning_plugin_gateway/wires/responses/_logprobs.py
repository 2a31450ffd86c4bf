"""Log-probabilities of an answer's text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text
from lightning_plugin_gateway.wires._wire import Body


def entries_of(choice: Body) -> list[Body]:
    """Entries of a chat choice, one for each token that was sampled."""
    return as_objects(as_object(choice.get("logprobs")).get("content"))


def of_text(entries: Sequence[Body], text: str, *, after: str = "") -> list[Body]:
    """Native entries of the tokens that a text is made of, without those of reasoning, tool calls and special tokens.

    All of them if the text does not begin and end where tokens do.

    Args:
        after: Reasoning that was sampled before.
    """
    if not text:
        return []
    tokens = [as_text(entry.get("token")) for entry in entries]
    written = "".join(tokens)
    start = written.find(text, written.find(after) + len(after) if after in written else 0)
    bounds = [0, *accumulate(map(len, tokens))]
    if start >= 0 and start in bounds and start + len(text) in bounds:
        first = len(bounds) - 1 - bounds[::-1].index(start)
        entries = entries[first : bounds.index(start + len(text))]
    return [_entry(entry) for entry in entries]


def chat_logprobs(entries: Json) -> Json:
    """`logprobs` of a chat choice for native entries; null for none."""
    content = [_entry(entry) for entry in as_objects(entries)]
    return {"content": content} if content else None


def _entry(entry: Body) -> Body:
    return {**_token(entry), "top_logprobs": [_token(one) for one in as_objects(entry.get("top_logprobs"))]}


def _token(entry: Body) -> Body:
    token, known = as_text(entry.get("token")), entry.get("bytes")
    return {
        "token": token,
        "logprob": entry.get("logprob"),
        "bytes": known if isinstance(known, list) else list(token.encode()),
    }
