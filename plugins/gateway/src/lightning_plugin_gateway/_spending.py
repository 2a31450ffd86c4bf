"""What a call takes: tokens, and what they cost."""

from __future__ import annotations

from agentlightning.gateway import Price
from agentlightning.types import Json
from lightning_plugin_gateway._request import Body


def tokens_of(completion: Body) -> int:
    """Tokens of prompt and answers together; counted from their ids where the upstream reports no usage."""
    return sum(_counts(completion))


def price_of(completion: Body, price: Price | None) -> float:
    """What a call costs, in the currency of the price; 0 without one."""
    if price is None:
        return 0.0
    prompt, response = _counts(completion)
    return (prompt * price.prompt + response * price.response) / 1e6


def _counts(completion: Body) -> tuple[int, int]:
    usage = completion.get("usage")
    if isinstance(usage, dict):
        return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    choices = completion.get("choices")
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    prompts = [choice.get("prompt_token_ids", completion.get("prompt_token_ids")) for choice in found]
    return max(map(_length, prompts), default=0), sum(_length(choice.get("token_ids")) for choice in found)


def _count(value: Json) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _length(value: Json) -> int:
    return len(value) if isinstance(value, list) else 0
