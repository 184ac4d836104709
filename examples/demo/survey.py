"""The function of the demo: survey the standard library of the Python that runs it.

Its steps read real files and take real time. Each execution of a step is written to a *ledger*, a plain file
that neither the server nor the SDK knows of: an outside witness for what really ran.
"""

import ast
import asyncio
import hashlib
import json
import os
import sysconfig
import time
from collections import Counter
from pathlib import Path
from typing import TypedDict

import stepwell

service = stepwell.Service("demo")

LEDGER = Path(os.environ["DEMO_LEDGER"])
LIBRARY = Path(sysconfig.get_paths()["stdlib"])


class Request(TypedDict):
    packages: list[str]


class Longest(TypedDict):
    function: str
    lines: int


class Report(TypedDict):
    files: int
    lines: int
    functions: int
    longest: Longest
    most_used_names: list[str]
    fingerprint: str


survey_asked = stepwell.event("demo/survey.asked", Request)


def note(what: str, step: str) -> None:
    line = json.dumps({"at": round(time.time(), 3), "what": what, "step": step, "pid": os.getpid()})
    with LEDGER.open("a") as ledger:
        ledger.write(line + "\n")


@service.function(on=survey_asked, retries=4)
async def survey(ctx: stepwell.Context[Request]) -> Report:
    files = await ctx.step.run("list files", list_files, ctx.event.data["packages"])
    lines, parsed = await asyncio.gather(
        ctx.step.run("count lines", count_lines, files),
        ctx.step.run("parse functions", parse_functions, files),
    )
    await ctx.step.sleep("breathe", "1s")
    fingerprint = await ctx.step.run("fingerprint", fingerprint_of, files)
    return {
        "files": len(files),
        "lines": lines,
        "functions": parsed["functions"],
        "longest": parsed["longest"],
        "most_used_names": parsed["names"],
        "fingerprint": fingerprint,
    }


async def list_files(packages: list[str]) -> list[str]:
    note("begins", "list files")
    found = sorted(str(path.relative_to(LIBRARY)) for name in packages for path in (LIBRARY / name).rglob("*.py"))
    files = [name for name in found if "/test" not in name]
    note("ends", "list files")
    return files


async def count_lines(files: list[str]) -> int:
    note("begins", "count lines")
    total = 0
    for name in files:
        total += (LIBRARY / name).read_bytes().count(b"\n")
        await asyncio.sleep(0.005)
    note("ends", "count lines")
    return total


class Parsed(TypedDict):
    functions: int
    longest: Longest
    names: list[str]


async def parse_functions(files: list[str]) -> Parsed:
    """The slow one: parses every file, a few at a time so that the worker stays responsive."""
    note("begins", "parse functions")
    functions = 0
    longest: Longest = {"function": "", "lines": 0}
    names: Counter[str] = Counter()
    for name in files:
        for node in ast.walk(ast.parse((LIBRARY / name).read_bytes())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions += 1
                names[node.name] += not node.name.startswith("__")
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > longest["lines"]:
                    longest = {"function": f"{name}: {node.name}", "lines": lines}
        await asyncio.sleep(0.02)
    note("ends", "parse functions")
    return {"functions": functions, "longest": longest, "names": [name for name, _ in names.most_common(5)]}


async def fingerprint_of(files: list[str]) -> str:
    note("begins", "fingerprint")
    digest = hashlib.sha256()
    for name in files:
        digest.update((LIBRARY / name).read_bytes())
    note("ends", "fingerprint")
    return digest.hexdigest()[:16]
