"""Runs Python, cell by cell. In a session, what one cell names is there for the next.

    stepwell app deploy examples/apps/notebook
    curl localhost:8288/apps/run -d '{"app": "examples/notebook", "wait": true, "session": "new",
        "input": {"code": "n = 20"}}'                          # its answer has session_id
    curl localhost:8288/apps/run -d '{"app": "examples/notebook", "wait": true, "session": "<session_id>",
        "input": {"code": "n + 1"}}'                           # {"value": "21"}

If the process is lost, its session goes on in a new one, in which the cells that completed are run again. The code of a
caller runs with what apps may reach: let only those call it whom you would let do that.
"""

import ast
from typing import Any

from pydantic import BaseModel, Field

from stepwell.apps import App


class Notebook(App):
    session = "rebuild"

    class Input(BaseModel):
        code: str = Field(description="statements; if the last one is an expression, its value is the answer")

    class Output(BaseModel):
        value: str | None
        names: list[str]

    def setup(self) -> None:
        self.names: dict[str, Any] = {}

    def run(self, input: Input) -> Output:
        """Run a cell. What it prints is in the log of the task."""
        cell = ast.parse(input.code, "<cell>")
        last = cell.body.pop() if cell.body and isinstance(cell.body[-1], ast.Expr) else None
        exec(compile(cell, "<cell>", "exec"), self.names)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), self.names) if last else None
        names = sorted(name for name in self.names if not name.startswith("_"))
        return self.Output(value=None if value is None else repr(value), names=names)
