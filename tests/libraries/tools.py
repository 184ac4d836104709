"""A server of MCP with one tool, which asks the stand-in for an AI provider. Run in the environment of `mcp`."""

from __future__ import annotations

import os

import httpx2
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

server = MCPServer("tools")


async def say(prompt: str, ctx: Context) -> str:
    await ctx.report_progress(0.5, 1.0, prompt)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}
    async with httpx2.AsyncClient(base_url=os.environ["PROVIDER"], timeout=60) as client:
        response = await client.post("/v1/chat/completions", json=body)
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


server.add_tool(say)

if __name__ == "__main__":
    server.run("streamable-http", port=int(os.environ["PORT"]))
