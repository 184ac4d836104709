"""What the stand-in answers when nobody told it: enough for a demonstration, and the same every time."""

from __future__ import annotations

from typing import Any

from stepwell.testing.provider.asked import Asked
from stepwell.testing.provider.script import Reply, call, say
from stepwell.wire.models import dialect_for


def default_reply(asked: Asked) -> Reply:
    """Call the tool that must be called, fill the schema that is given, or repeat what was said last."""
    request = asked.json if isinstance(asked.json, dict) else {}
    prompt = dialect_for(asked.dialect, asked.path).prompt(asked.path, asked.body)
    last = prompt.messages[-1] if prompt.messages else None
    answered = last is not None and (last.role in ("tool", "function") or bool(last.tool_call_id))
    tool = None if answered else _forced_tool(request)
    if tool is not None:
        return say(tool_calls=[call(tool[0], _example(tool[1]))])
    if (schema := _schema(request)) is not None:
        return say(json=_example(schema))
    said = last.text if last is not None else ""
    return say(f"You said: {said}" if said else "Hello from the stand-in.")


def _forced_tool(request: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Name and schema of the tool that the request insists on."""
    choice = request.get("tool_choice")
    config = request.get("toolConfig", {}).get("functionCallingConfig", {})
    if choice not in ("required", "any") and not isinstance(choice, dict) and config.get("mode") != "ANY":
        return None
    if isinstance(choice, dict) and choice.get("type") in ("auto", "none"):
        return None
    tools = [_tool(tool) for tool in _listed(request.get("tools") or [])]
    wanted = None
    if isinstance(choice, dict):
        wanted = choice.get("name") or (choice.get("function") or {}).get("name")
    return next((tool for tool in tools if wanted in (None, tool[0])), None)


def _listed(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for tool in tools for each in tool.get("functionDeclarations", [tool])]


def _tool(tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    told = tool.get("function", tool)
    schema = told.get("parameters") or told.get("input_schema") or told.get("parametersJsonSchema") or {}
    return told.get("name", ""), schema


def _schema(request: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that the answer must have, wherever the dialect has it."""
    settings = request.get("generationConfig") or {}
    places = (
        ((request.get("response_format") or {}).get("json_schema") or {}).get("schema"),
        ((request.get("text") or {}).get("format") or {}).get("schema"),
        ((request.get("output_config") or {}).get("format") or {}).get("schema"),
        (request.get("output_format") or {}).get("schema"),
        settings.get("responseSchema") or settings.get("responseJsonSchema"),
    )
    return next((schema for schema in places if schema), None)


def _example(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """The smallest value that a JSON schema of the usual kind allows."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return _example(target, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choices in ("anyOf", "oneOf", "allOf"):
        if schema.get(choices):
            return _example(schema[choices][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        return {name: _example(each, root) for name, each in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_example(schema.get("items") or {}, root) for _ in range(schema.get("minItems", 1))]
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(kind, "example")
