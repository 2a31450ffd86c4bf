"""What a client gets to see of an answer: the fields it asked for."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.upstreams._slim import Logprobs

_OURS = ("policy_version", "prompt_token_ids", "prompt_logprobs")


class ClientView:
    """Removes what the gateway asked for and the client did not."""

    def __init__(self, body: Body) -> None:
        options = body.get("stream_options")
        self._token_ids = bool(body.get("return_token_ids"))
        self._logprobs = bool(body.get("logprobs"))
        self._usage = isinstance(options, dict) and bool(options.get("include_usage"))

    def completion(self, completion: Body) -> Body:
        """A whole answer; the argument stays as it is."""
        return self._strip(completion)

    def chunk(self, chunk: Body) -> Body | None:
        """A chunk of a streamed answer; None if nothing is left of it."""
        seen = self._strip(chunk)
        if not self._usage:
            told = seen.pop("usage", None)
            if not seen.get("choices") and (told or "choices" in seen):
                return None
        return seen

    def _strip(self, answer: Body) -> Body:
        seen = {name: value for name, value in answer.items() if name not in _OURS}
        if self._token_ids and "prompt_token_ids" in answer:
            seen["prompt_token_ids"] = answer["prompt_token_ids"]
        choices = answer.get("choices")
        if isinstance(choices, list):
            seen["choices"] = [self._choice(choice) for choice in choices]
        return seen

    def _choice(self, choice: Json) -> Json:
        if not isinstance(choice, dict):
            return choice
        seen = dict(choice)
        seen.pop("policy_versions", None)
        if not self._token_ids:
            seen.pop("token_ids", None)
        if "logprobs" in seen:
            found = seen["logprobs"]
            said = found.raw if isinstance(found, Logprobs) else found
            seen["logprobs"] = said if self._logprobs else None
        return seen
