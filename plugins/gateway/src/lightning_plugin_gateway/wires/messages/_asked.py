"""How an answer is to be made: how hard the model thinks, and in what format it answers."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object
from lightning_plugin_gateway.wires._refusals import known_fields, malformed, not_in_chat, not_in_messages
from lightning_plugin_gateway.wires._wire import Body

EFFORTS = ("low", "medium", "high", "xhigh", "max")
_BUDGETS = ((2048, "low"), (8192, "medium"))
"""Most tokens of reasoning that count as little and as some effort; beyond is much."""
_TIERS = {"auto": "auto", "standard_only": "default"}
_NATIVE_TIERS = {"auto": "auto", "default": "standard_only", "priority": "auto"}


def chat_thinking(thinking: Json) -> Body:
    """`reasoning_effort` of a chat request for a native `thinking`. Raises `ApiError` 400.

    A budget of tokens becomes the effort that comes next to it. What a model chooses for itself is not asked.
    """
    asked = known_fields(thinking, "thinking", ("type", "budget_tokens", "display"))
    kind, budget = asked.get("type"), asked.get("budget_tokens")
    if thinking is None or kind == "adaptive":
        return {}
    if kind == "disabled":
        return {"reasoning_effort": "none"}
    if kind != "enabled":
        raise not_in_chat(f"`thinking` of type {kind!r:.60}")
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1:
        raise malformed("`thinking.budget_tokens` must be a whole number of at least 1", budget)
    return {"reasoning_effort": next((effort for most, effort in _BUDGETS if budget <= most), "high")}


def chat_output(config: Json, *, older: Json) -> Body:
    """`reasoning_effort` and `response_format` of a chat request. Raises `ApiError` 400.

    Args:
        config: A native `output_config`.
        older: A native `output_format`, which came before it.
    """
    asked = known_fields(config, "output_config", ("effort", "format"))
    effort, shape = asked.get("effort"), asked.get("format") or older
    if effort is not None and effort not in EFFORTS:
        raise malformed(f"`output_config.effort` must be one of {', '.join(EFFORTS)}", effort)
    chat: Body = {} if effort is None else {"reasoning_effort": effort}
    if shape is not None:
        chat["response_format"] = _chat_format(shape)
    return chat


def native_output(effort: Json, response_format: Json) -> Body:
    """`output_config` and `thinking` of a native request. Raises `ApiError` 400.

    Args:
        effort: `reasoning_effort` of a chat request.
        response_format: Its format.
    """
    native: Body = {}
    config: Body = {}
    if effort == "none":
        native["thinking"] = {"type": "disabled"}
    elif effort is not None:
        config["effort"] = _native_effort(effort)
    kind = as_object(response_format).get("type")
    if response_format is not None and kind != "text":
        config["format"] = _native_format(response_format)
    return {**native, "output_config": config} if config else native


def chat_tier(tier: Json) -> Body:
    """`service_tier` of a chat request. Raises `ApiError` 400."""
    return _tier(tier, _TIERS, not_in_chat(f"`service_tier` {tier!r:.60}"))


def native_tier(tier: Json) -> Body:
    """`service_tier` of a native request. Raises `ApiError` 400."""
    return _tier(tier, _NATIVE_TIERS, not_in_messages(f"`service_tier` {tier!r:.60}"))


def _tier(tier: Json, tiers: dict[str, str], refusal: Exception) -> Body:
    if tier is None:
        return {}
    if not isinstance(tier, str) or tier not in tiers:
        raise refusal
    return {"service_tier": tiers[tier]}


def _native_effort(effort: Json) -> str:
    if effort == "minimal":
        return "low"
    if isinstance(effort, str) and effort in EFFORTS:
        return effort
    raise not_in_messages(f"`reasoning_effort` {effort!r:.60}")


def _chat_format(shape: Json) -> Body:
    """Chat completions want a name; Messages always keep to the schema."""
    asked = known_fields(shape, "output_config.format", ("type", "schema"))
    if asked.get("type") != "json_schema":
        raise not_in_chat(f"`output_config.format` of type {asked.get('type')!r:.60}")
    if not isinstance(asked.get("schema"), dict):
        raise malformed("`output_config.format.schema` must be an object", asked.get("schema"))
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": asked["schema"], "strict": True},
    }


def _native_format(response_format: Json) -> Body:
    asked = as_object(response_format)
    schema = as_object(asked.get("json_schema")).get("schema")
    if asked.get("type") != "json_schema" or not isinstance(schema, dict):
        raise not_in_messages(f"`response_format` {response_format!r:.80}")
    return {"type": "json_schema", "schema": schema}
