"""The canary: a fixed question, asked after each publish, that shows how far the sampler has moved."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from agentlightning.gateway import CanaryScore
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._gate import Gate
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.upstreams import CallRoute, Model

_log = logging.getLogger(__name__)
_QUESTION = [{"role": "user", "content": "Count from one to five."}]
_TOKENS = 8
_TIMEOUT_S = 60.0
_KEPT = 64


class Canary:
    """Scores every model whose policy version is known, whenever it has changed."""

    def __init__(self, models: Sequence[Model], *, gate: Gate) -> None:
        self._models = models
        self._gate = gate
        self._last: dict[str, CanaryScore] = {}
        self.scores: deque[CanaryScore] = deque(maxlen=_KEPT)

    async def score(self) -> None:
        """Asks the models that have changed. A failure is logged: a canary holds nothing up."""
        for model in self._models:
            last = self._last.get(model.name)
            if model.version < 0 or not model.token_ids or (last and last.version == model.version):
                continue
            try:
                score = await self._ask(model)
            except ApiError as error:
                _log.warning("the canary of model %r got no answer: %s", model.name, error.message)
                continue
            if score is not None:
                self._keep(score, last)

    async def _ask(self, model: Model) -> CanaryScore | None:
        request: Body = {
            "model": model.name,
            "messages": _QUESTION,
            "temperature": 0.0,
            "max_tokens": _TOKENS,
            "seed": 0,
            "logprobs": True,
            "return_token_ids": True,
        }
        route = CallRoute(rollout_id="canary", attempt_id="canary", deadline=time.monotonic() + _TIMEOUT_S)
        await self._gate.enter()
        try:
            version = model.version
            completion = await model.call("chat", request, route=route)
        finally:
            self._gate.leave()
        return _score(completion, model=model.name, version=version)

    def _keep(self, score: CanaryScore, last: CanaryScore | None) -> None:
        if last is not None:
            score = _compared(score, last)
            _log.info(
                "canary of %r: version %d to %d, %d of %d tokens alike, mean change of log-probability %s",
                score.model, last.version, score.version, score.common, len(score.token_ids), score.change,
            )  # fmt: skip
        self._last[score.model] = score
        self.scores.append(score)


def _score(completion: Body, *, model: str, version: int) -> CanaryScore | None:
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(logprobs := choice.get("logprobs"), dict):
        return None
    ids, entries = choice.get("token_ids"), logprobs.get("content")
    if not isinstance(ids, list) or not isinstance(entries, list) or len(ids) != len(entries):
        return None
    values = [entry.get("logprob") if isinstance(entry, dict) else None for entry in entries]
    numbers = tuple(float(value) for value in values if isinstance(value, int | float))
    if len(numbers) != len(ids):
        return None
    return CanaryScore(model=model, version=version, token_ids=tuple(ids), logprobs=numbers)


def _compared(score: CanaryScore, last: CanaryScore) -> CanaryScore:
    common = 0
    for now, before in zip(score.token_ids, last.token_ids, strict=False):
        if now != before:
            break
        common += 1
    if not common:
        return score
    pairs = zip(score.logprobs[:common], last.logprobs[:common], strict=True)
    change = sum(abs(now - before) for now, before in pairs) / common
    return msgspec.structs.replace(score, common=common, change=change)
