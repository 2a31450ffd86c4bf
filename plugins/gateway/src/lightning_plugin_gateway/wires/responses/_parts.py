"""Parts of a message's content: texts, images, files and audio."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, given
from lightning_plugin_gateway.wires._refusals import malformed, not_in_chat, not_in_responses
from lightning_plugin_gateway.wires._wire import Body

_TEXTS = ("input_text", "output_text")
_FILE = ("file_data", "file_id", "filename")


def chat_content(content: Json, *, where: str) -> Json:
    """Content of a chat message: a text stays a text. Raises `ApiError` 400."""
    if isinstance(content, str):
        return content
    return [_chat_part(part, where=where) for part in _checked(content, where=where)]


def spoken_content(content: Json, *, where: str) -> tuple[Json, str]:
    """Content and refusal of an assistant's chat message; None is no content. Raises `ApiError` 400.

    One part of text is a text, as chat completions are answered; several stay parts.
    """
    if isinstance(content, str):
        return content, ""
    texts: list[Json] = []
    refusals: list[str] = []
    for part in _checked(content, where=where):
        if part.get("type") == "refusal":
            refusals.append(_text(part, "refusal", where=where))
        elif part.get("type") in _TEXTS:
            texts.append({"type": "text", "text": _text(part, "text", where=where)})
        else:
            raise not_in_chat(f"{part.get('type')!r:.40} in what the assistant said ({where})")
    said: Json = as_object(texts[0])["text"] if len(texts) == 1 else texts or None
    return said, "".join(refusals)


def native_content(content: Json, *, spoken: bool, where: str) -> Json:
    """Content of an input message: a text stays a text. Raises `ApiError` 400.

    Args:
        spoken: The assistant said it.
    """
    if isinstance(content, str):
        return content
    return [_native_part(part, spoken=spoken, where=where) for part in _checked(content, where=where)]


def _checked(content: Json, *, where: str) -> Sequence[Body]:
    parts = as_objects(content)
    if not isinstance(content, list) or len(parts) != len(content):
        raise malformed(f"the content of {where} must be a text or a list of parts", content)
    return parts


def _text(part: Body, name: str, *, where: str) -> str:
    text = part.get(name)
    if not isinstance(text, str):
        raise malformed(f"`{name}` of a part of {where} must be a text", text)
    return text


def _chat_part(part: Body, *, where: str) -> Body:
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": _text(part, "text", where=where)}
    if kind == "input_image":
        if part.get("image_url") is None and part.get("file_id") is not None:
            raise not_in_chat(f"`file_id` of an image in {where}")
        image: Body = {"url": _text(part, "image_url", where=where)}
        if part.get("detail") not in (None, "auto"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        if part.get("file_url") is not None:
            raise not_in_chat(f"`file_url` of a file in {where}")
        return {"type": "file", "file": given(part, *_FILE)}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    raise not_in_chat(f"{kind!r:.40} in {where}")


def _native_part(part: Body, *, spoken: bool, where: str) -> Body:
    kind = part.get("type")
    if kind == "text":
        text = _text(part, "text", where=where)
        if spoken:
            return {"type": "output_text", "text": text, "annotations": []}
        return {"type": "input_text", "text": text}
    if kind == "refusal" and spoken:
        return {"type": "refusal", "refusal": _text(part, "refusal", where=where)}
    if kind == "image_url" and not spoken:
        image = as_object(part.get("image_url"))
        url = _text(image, "url", where=where)
        return {"type": "input_image", "image_url": url, "detail": image.get("detail") or "auto"}
    if kind == "file" and not spoken:
        return {"type": "input_file", **given(as_object(part.get("file")), *_FILE)}
    if kind == "input_audio" and not spoken:
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    raise not_in_responses(f"{kind!r:.40} in {where}")
