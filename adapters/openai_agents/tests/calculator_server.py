"""A tool server that speaks MCP on its standard streams."""

from __future__ import annotations

try:
    from mcp.server.mcpserver import MCPServer
except ModuleNotFoundError:  # mcp 1
    from mcp.server.fastmcp import FastMCP as MCPServer

server = MCPServer("calculator")


@server.tool()
def multiply(a: int, b: int) -> int:
    """Multiplies two whole numbers."""
    if a == 0:
        raise ValueError("zero is not multiplied")
    return a * b


if __name__ == "__main__":
    server.run("stdio")
