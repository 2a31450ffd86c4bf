"""Chat completions read without what nobody asked for: of each token's entry, its log-probability only.

An entry has the token's text and bytes too, and reading those is most of what a completion costs.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway._request import Body


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """An entry of `logprobs.content`."""

    logprob: float | None = None


class _Logprobs(msgspec.Struct, frozen=True, gc=False):
    content: list[TokenLogprob] | None = None


_top: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_choices: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_logprobs: Final = msgspec.json.Decoder(_Logprobs | None)
_ids: Final = msgspec.json.Decoder(list[int] | None)
_any: Final = msgspec.json.Decoder()


def slim_completion(raw: bytes) -> Body:
    """A chat completion. Raises `msgspec.MsgspecError` or `UnicodeDecodeError` if it is not one as expected."""
    completion: Body = {}
    for name, value in _top.decode(raw).items():
        if name == "choices":
            completion[name] = [_choice(choice) for choice in _choices.decode(value)]
        else:
            completion[name] = _ids.decode(value) if name == "prompt_token_ids" else _any.decode(value)
    return completion


def _choice(raw: dict[str, msgspec.Raw]) -> Body:
    choice: Body = {}
    for name, value in raw.items():
        if name == "logprobs":
            found = _logprobs.decode(value)
            content: Json = None if found is None else found.content
            choice[name] = None if found is None else {"content": content}
        else:
            choice[name] = _ids.decode(value) if name.endswith("token_ids") else _any.decode(value)
    return choice
