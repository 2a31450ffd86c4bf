"""Chat completions whose log-probabilities are read as numbers, and passed on as the bytes that they came as.

An entry has the token's text and bytes too, and reading and writing those is most of what a completion costs.
"""

from __future__ import annotations

from typing import Final

import msgspec

from lightning_plugin_gateway._request import Body


class Logprobs(msgspec.Struct, frozen=True):
    """In place of a choice's `logprobs`.

    Attributes:
        numbers: One for each token; None where an entry has none.
        raw: What the upstream sent, as JSON.
    """

    numbers: list[float | None]
    raw: msgspec.Raw


class _Entry(msgspec.Struct, frozen=True, gc=False):
    logprob: float | None = None


class _Content(msgspec.Struct, frozen=True, gc=False):
    content: list[_Entry] | None = None


_top: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_choices: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_logprobs: Final = msgspec.json.Decoder(_Content | None)
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
            entries = (found.content or []) if found else []
            choice[name] = Logprobs([entry.logprob for entry in entries], value) if found else None
        else:
            choice[name] = _ids.decode(value) if name.endswith("token_ids") else _any.decode(value)
    return choice
