"""Runs the program about one library that `docs/durable-libraries.md` shows, in memory, and prints what it gave.

Run in the library's environment: `python -m tests.libraries.shown TITLE STEP ANSWER`, with the JSON that each request
of that name is answered with; for MCP it has a result for each method.
"""

from __future__ import annotations

import json
import sys

import httpx2

import stepwell
from stepwell.testing import run
from tests.docs.pages import DOCS, read_page


def main(title: str, step: str, answer: str) -> None:
    names: dict[str, object] = {"__name__": "shown"}
    exec(compile(read_page(DOCS / "durable-libraries.md").titled(title).text, title, "exec"), names)
    (function,) = [one for one in names.values() if isinstance(one, stepwell.Function)]

    def answered(request: dict[str, str]) -> httpx2.Response:
        asked = json.loads(request["body"])
        if "jsonrpc" not in asked:
            return httpx2.Response(200, json=json.loads(answer))
        if "id" not in asked:
            return httpx2.Response(202)
        result = json.loads(answer)[asked["method"]]
        return httpx2.Response(200, json={"jsonrpc": "2.0", "id": asked["id"], "result": result})

    print(json.dumps(run(function, steps={step: answered}, crash_after_each_step=True).output))


if __name__ == "__main__":
    main(*sys.argv[1:])
