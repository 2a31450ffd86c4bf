"""What is shown or said: content blocks of Messages, parts of chat completions."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object
from lightning_plugin_gateway.wires._refusals import (
    malformed,
    not_in_chat,
    not_in_messages,
    required_objects,
    required_text,
)
from lightning_plugin_gateway.wires._wire import Body

_BASE64 = ";base64,"


def chat_content(content: Json, *, where: str) -> Json:
    """Content of a chat message: a text stays a text. Raises `ApiError` 400."""
    if isinstance(content, str):
        return content
    return [chat_part(block, where=where) for block in blocks(content, where=where)]


def blocks(content: Json, *, where: str) -> list[Body]:
    """Content that must be a list of blocks. Raises `ApiError` 400."""
    return required_objects(content, f"the content of {where}, unless it is a text,")


def chat_part(block: Body, *, where: str) -> Body:
    """The part of a chat message that a block is. Raises `ApiError` 400."""
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": required_text(block, "text", where=f"a block of {where}")}
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": _url(block, where=where)}}
    if kind == "document":
        return {"type": "text", "text": _document(block, where=where)}
    raise not_in_chat(f"a block of type {kind!r:.60} in {where}")


def native_content(content: Json, *, where: str) -> Json:
    """Content of a native message: a text stays a text. Raises `ApiError` 400."""
    if isinstance(content, str):
        return content
    return [native_block(part, where=where) for part in blocks(content, where=where)]


def native_block(part: Body, *, where: str) -> Body:
    """The block that a part of a chat message is; how closely to look at images is not told.

    Raises `ApiError` 400.
    """
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": required_text(part, "text", where=f"a part of {where}")}
    if kind == "image_url":
        url = required_text(as_object(part.get("image_url")), "url", where=f"an image of {where}")
        return {"type": "image", "source": _source(url, where=where)}
    raise not_in_messages(f"a part of type {kind!r:.60} in {where}")


def _url(block: Body, *, where: str) -> str:
    source, place = as_object(block.get("source")), f"the source of an image in {where}"
    if block.get("transformations") is not None:
        raise not_in_chat(f"`transformations` of an image in {where}")
    if source.get("type") == "url":
        return required_text(source, "url", where=place)
    if source.get("type") == "base64":
        media = required_text(source, "media_type", where=place)
        return f"data:{media}{_BASE64}{required_text(source, 'data', where=place)}"
    if isinstance(source.get("type"), str):
        raise not_in_chat(f"an image by {source['type']!r:.60} in {where}")
    raise malformed(f"{place} must be an object of type base64 or url", block.get("source"))


def _source(url: str, *, where: str) -> Body:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    media, separator, data = url.removeprefix("data:").partition(_BASE64)
    if not separator:
        raise not_in_messages(f"an image in {where} whose data URL is not base64")
    return {"type": "base64", "media_type": media, "data": data}


def _document(block: Body, *, where: str) -> str:
    """A document as a text: its title and context, if it has them, and what it says, with blank lines between."""
    source = as_object(block.get("source"))
    if as_object(block.get("citations")).get("enabled"):
        raise not_in_chat(f"`citations` of a document in {where}")
    if source.get("type") == "text":
        said = required_text(source, "data", where=f"a document in {where}")
    elif source.get("type") == "content":
        said = _plain(source.get("content"), where=f"a document in {where}")
    else:
        raise not_in_chat(f"a document by {source.get('type')!r:.60} in {where}")
    about = [text for name in ("title", "context") if isinstance(text := block.get(name), str) and text]
    return "\n\n".join([*about, said])


def _plain(content: Json, *, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = [chat_part(block, where=where) for block in blocks(content, where=where)]
    if any(part["type"] != "text" for part in parts):
        raise not_in_chat(f"an image in {where}")
    return "".join(str(part["text"]) for part in parts)
