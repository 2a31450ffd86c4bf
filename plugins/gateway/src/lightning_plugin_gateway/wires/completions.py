"""OpenAI's completions: text or token ids in, text out.

A model that speaks only chat completions is asked with the prompt as one user message, through its chat template, or
with exactly the token ids that the prompt is.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Json
from lightning_plugin_gateway._errors import bad_request
from lightning_plugin_gateway._request import (
    MOST_CHOICES,
    MOST_TOP_LOGPROBS,
    check_flags,
    check_integer,
    check_model,
    parse_object,
)
from lightning_plugin_gateway.wires._narrow import as_object, as_objects
from lightning_plugin_gateway.wires._sse import DONE, data_event, openai_error, openai_error_event
from lightning_plugin_gateway.wires._wire import Body

__all__ = ["Completions", "prompts"]

_MOST_PROMPTS = 128
_FRAME = ("created", "model", "system_fingerprint", "usage")
_ALIKE = (
    "frequency_penalty", "ignore_eos", "logit_bias", "max_tokens", "min_p", "min_tokens", "model", "n",
    "presence_penalty", "repetition_penalty", "return_token_ids", "seed", "stop", "stop_token_ids", "stream",
    "stream_options", "temperature", "top_k", "top_p", "user",
)  # fmt: skip
"""Fields that mean the same in chat completions."""
_MORE = ("best_of", "suffix")


class Completions:
    """See `Wire`."""

    name = "completions"
    path = "/completions"

    @staticmethod
    def parse(raw: bytes) -> Body:
        """The request of a body. Raises `ApiError` 400 with the reason."""
        body = parse_object(raw)
        check_model(body)
        asked = prompts(body)
        check_integer(body, "n", most=max(1, MOST_CHOICES // len(asked)), least=1)
        check_integer(body, "best_of", most=MOST_TOP_LOGPROBS, least=1)
        check_integer(body, "logprobs", most=MOST_TOP_LOGPROBS)
        check_integer(body, "max_tokens", most=2**31 - 1)
        check_flags(body, "stream", "echo", "return_token_ids")
        if not isinstance(body.get("stream_options"), dict | None):
            raise bad_request("`stream_options` must be an object")
        return body

    @staticmethod
    def to_chat(request: Body, *, before: Sequence[Body] = ()) -> Body:
        """The chat request of one prompt; `split` makes requests of one prompt. Raises `ApiError` 400."""
        for name in _MORE:
            if request.get(name) not in (None, "", 1):
                raise bad_request(
                    f"`{name}` cannot be asked of this model, which speaks chat completions only"
                )
        asked = prompts(request)
        if len(asked) != 1:
            raise bad_request("one chat completion answers one `prompt`")
        (prompt,) = asked
        if request.get("echo") and (isinstance(prompt, list) or request.get("logprobs") is not None):
            raise bad_request(
                "`echo` of token ids or with `logprobs` cannot be asked of this model, which speaks chat only"
            )
        chat: Body = {name: request[name] for name in _ALIKE if request.get(name) is not None}
        if isinstance(prompt, list):
            chat["messages"] = [*before, {"role": "user", "content": ""}]
            chat["prompt_token_ids"] = prompt
        else:
            chat["messages"] = [*before, {"role": "user", "content": prompt}]
        if isinstance(request.get("logprobs"), int):
            chat["logprobs"], chat["top_logprobs"] = True, request["logprobs"]
        return chat

    @staticmethod
    def split(request: Body) -> list[Body]:
        """Requests of one prompt each that together ask the same."""
        asked = prompts(request)
        return [request] if len(asked) == 1 else [{**request, "prompt": prompt} for prompt in asked]

    @staticmethod
    def from_chat(request: Body) -> Body:
        """Not possible: only a model's own server knows its chat template. Raises `ApiError` 400."""
        raise bad_request(
            f"model {request.get('model')!r:.200} serves completions only; call /v1/completions with a prompt"
        )

    @staticmethod
    def answer(completion: Body, *, request: Body) -> Body:
        """The completion as text, as much of it as was asked for."""
        echoed = _echoed(request)
        seen = _frame(completion, request)
        seen["choices"] = [
            _text_choice(choice, request, echoed) for choice in as_objects(completion.get("choices"))
        ]
        return seen

    @staticmethod
    def completion(answer: Body) -> Body:
        """The chat completion that says the same; each choice with the prompt that it answers."""
        choices = [_chat_choice(choice, "message") for choice in as_objects(answer.get("choices"))]
        return {**answer, "object": "chat.completion", "choices": choices}

    @staticmethod
    def events(request: Body) -> TextEvents:
        """A writer of text chunks."""
        return TextEvents(request)

    @staticmethod
    def chunks() -> TextChunks:
        """A reader of text chunks."""
        return TextChunks()

    error = staticmethod(openai_error)
    error_event = staticmethod(openai_error_event)


class TextEvents:
    """See `EventWriter`."""

    def __init__(self, request: Body) -> None:
        options = request.get("stream_options")
        self._request = request
        self._usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._echoed = _echoed(request)
        self._begun: set[int] = set()

    def add(self, chunk: Body) -> bytes:
        """The event of a chunk, unless nothing is left of it."""
        seen = _frame(chunk, self._request)
        if not self._usage:
            seen.pop("usage", None)
        choices = []
        for choice in as_objects(chunk.get("choices")):
            index = _place(choice)
            echoed = () if index in self._begun else self._echoed
            self._begun.add(index)
            delta = choice.get("delta")
            said = {**choice, "message": delta if isinstance(delta, dict) else {}}
            choices.append(_text_choice(said, self._request, echoed))
        if not choices and "usage" not in seen:
            return b""
        return data_event({**seen, "choices": choices})

    @staticmethod
    def end() -> bytes:
        """`[DONE]`."""
        return DONE


class TextChunks:
    """See `ChunkReader`."""

    @staticmethod
    def add(event: Body) -> list[Body]:
        """The chunk with the text as content."""
        choices = [_chat_choice(choice, "delta") for choice in as_objects(event.get("choices"))]
        return [{**event, "object": "chat.completion.chunk", "choices": choices}]


def prompts(request: Body) -> list[str | list[int]]:
    """The prompts of a request, each a text or token ids. Raises `ApiError` 400 if they are neither."""
    prompt = request.get("prompt")
    listed = prompt if isinstance(prompt, list) else [prompt]
    if listed and all(map(_is_id, listed)):
        listed = [listed]
    found: list[str | list[int]] = [
        one
        for one in listed
        if isinstance(one, str) or (isinstance(one, list) and one and all(map(_is_id, one)))
    ]
    if not found or len(found) != len(listed):
        raise bad_request("`prompt` must be a text, a list of token ids, or a list of at least one of these")
    if len(found) > _MOST_PROMPTS:
        raise bad_request(f"`prompt` has {len(found)} prompts; send at most {_MOST_PROMPTS} at once")
    return found


def _is_id(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _echoed(request: Body) -> Sequence[str]:
    """Prompts that come before the texts of the answer, if they were asked for."""
    return [prompt for prompt in prompts(request) if isinstance(prompt, str)] if request.get("echo") else ()


def _frame(completion: Body, request: Body) -> Body:
    ident = str(completion.get("id") or "")
    seen: Body = {
        "id": "cmpl-" + ident.removeprefix("chatcmpl-").removeprefix("cmpl-"),
        "object": "text_completion",
    }
    seen.update({name: completion[name] for name in _FRAME if name in completion})
    seen.setdefault("model", request.get("model"))
    return seen


def _text_choice(choice: Body, request: Body, echoed: Sequence[str]) -> Body:
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    place = _place(choice)
    count = request.get("n")
    prompt = place // (count if isinstance(count, int) else 1)
    text = (echoed[prompt] if prompt < len(echoed) else "") + (content if isinstance(content, str) else "")
    seen: Body = {
        "text": text,
        "index": place,
        "finish_reason": choice.get("finish_reason"),
        "logprobs": None,
    }
    if request.get("logprobs") is not None:
        seen["logprobs"] = _text_logprobs(choice.get("logprobs"), most=request["logprobs"])
    if request.get("return_token_ids"):
        seen.update({name: choice[name] for name in ("token_ids", "prompt_token_ids") if name in choice})
    return seen


def _place(choice: Body) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) and index >= 0 else 0


def _text_logprobs(logprobs: Json, *, most: Json) -> Json:
    found = as_objects(as_object(logprobs).get("content"))
    if not found:
        return None
    tokens = [str(entry.get("token", "")) for entry in found]
    seen: Body = {
        "tokens": tokens,
        "token_logprobs": [entry.get("logprob") for entry in found],
        "text_offset": _offsets(tokens),
        "top_logprobs": [_top(entry) for entry in found] if most else None,
    }
    return seen


def _offsets(tokens: Sequence[str]) -> list[int]:
    offsets = [0]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return offsets


def _top(entry: Body) -> Body:
    likely = as_objects(entry.get("top_logprobs"))
    return {str(one.get("token", "")): one.get("logprob") for one in likely}


def _chat_choice(choice: Body, kind: str) -> Body:
    ids, logprobs, text = choice.get("token_ids"), choice.get("logprobs"), choice.get("text")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    given = choice.get("prompt_token_ids")
    prompt = given if isinstance(given, list) else []
    seen: Body = {
        name: choice[name] for name in ("index", "finish_reason", "prompt_token_ids") if name in choice
    }
    seen[kind] = {"role": "assistant", "content": text} if kind == "message" else {"content": text}
    # The prompt is echoed if its first token has no log-probability: it is not part of what was sampled.
    echoed = len(prompt) if isinstance(values, list) and values[:1] == [None] else 0
    if isinstance(ids, list):
        seen["token_ids"] = ids[echoed:] if ids[:echoed] == prompt[:echoed] else ids
    if isinstance(values, list):
        told = names if isinstance(names, list) and len(names) == len(values) else [""] * len(values)
        pairs = list(zip(told, values, strict=True))[echoed:]
        seen["logprobs"] = {
            "content": [
                {"token": token, "logprob": value, "bytes": None, "top_logprobs": []}
                for token, value in pairs
            ]
        }
    return seen
