"""Merging what a language model gives piece by piece, as every client of this protocol does.

response, reasoning      what comes is appended
tool_calls               by `index`; within one, `arguments` of its function are appended
anything else            what comes takes the place of what was there
"""

from __future__ import annotations

from typing import Any

_APPENDED = frozenset({"response", "reasoning"})


def merge_delta(state: dict[str, Any], delta: object) -> None:
    """Merge `delta` into `state`. Members that are null change nothing."""
    if not isinstance(delta, dict):
        return
    for name, value in delta.items():
        if value is None:
            continue
        if name in _APPENDED and isinstance(state.get(name), str) and isinstance(value, str):
            state[name] += value
        elif name == "tool_calls" and isinstance(value, list):
            state[name] = _calls(state.get(name) or [], value)
        else:
            state[name] = value


def rest_of(state: dict[str, Any], result: object) -> dict[str, Any] | None:
    """What is to be merged yet, so that texts in `state` are those of `result`; None: nothing makes them so."""
    rest: dict[str, Any] = {}
    if not isinstance(result, dict):
        return rest
    for name in _APPENDED & state.keys() & result.keys():
        have, want = state[name], result[name]
        if not (isinstance(have, str) and isinstance(want, str) and want.startswith(have)):
            return None
        if want != have:
            rest[name] = want[len(have) :]
    return rest


def _calls(known: list[Any], more: list[Any]) -> list[Any]:
    by_index = {one.get("index", 0): one for one in known if isinstance(one, dict)}
    for one in more:
        if isinstance(one, dict):
            _call(by_index.setdefault(one.get("index", 0), {}), one)
    return [by_index[index] for index in sorted(by_index)]


def _call(state: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "function" and isinstance(value, dict):
            function = state.setdefault("function", {})
            for part, text in value.items():
                if part == "arguments" and isinstance(function.get(part), str) and isinstance(text, str):
                    function[part] += text
                elif text is not None:
                    function[part] = text
        elif value is not None:
            state[name] = value
