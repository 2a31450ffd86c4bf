"""A tool server that speaks MCP on its standard streams."""

from __future__ import annotations

from mcp.server.fastmcp import FastMCP

server = FastMCP("calculator")


@server.tool()
def multiply(a: int, b: int) -> int:
    """Multiplies two whole numbers."""
    if a == 0:
        raise ValueError("zero is not multiplied")
    return a * b


if __name__ == "__main__":
    server.run("stdio")
