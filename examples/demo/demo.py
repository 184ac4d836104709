"""`make demo`: a durable function survives the violent death of its server; a model's prompt is changed afterwards.

1. Start a server (state in a folder, nothing else) and a worker that serves `survey.py`.
2. Send one event: the function surveys Python's standard library in five steps, two of them in parallel.
3. Kill the server (SIGKILL) while one parallel step is recorded and the other is executing.
4. Start it again on the same folder and watch the run go on where it was.
5. Compare what the outside ledger saw with what the server recorded, and print the trace.
6. Start a worker that serves `ticket.py`: a support ticket is sorted by a model, word by word before your eyes. It is
   the model of the first key there is (`OPENAI_API_KEY`, ...), otherwise a stand-in.
7. Change the prompt, run again from that step on, and put both side by side.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import stand_in
import ticket

from stepwell.testing.provider import Provider

HERE = Path(__file__).parent
WORKPLACE = Path(".demo").resolve()
LEDGER = WORKPLACE / "ledger.jsonl"
TICKETS = WORKPLACE / "tickets.db"
MODELS = {"OPENAI_API_KEY": "gpt-4o-mini", "ANTHROPIC_API_KEY": "claude-haiku-4-5", "XAI_API_KEY": "grok-3-mini"}
"""The key that decides, and the model that then answers: the first one in this order."""
PACKAGES = ["asyncio", "json", "email", "http", "importlib", "concurrent", "xml", "unittest", "urllib", "logging"]
STEPWELL = [sys.executable, "-m", "stepwell.cli"]


def main() -> int:
    shutil.rmtree(WORKPLACE, ignore_errors=True)
    WORKPLACE.mkdir()
    port = free_port(8288)
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "DEMO_LEDGER": str(LEDGER)}
    worker: subprocess.Popen[bytes] | None = None
    server = start_server(port)
    try:
        wait_for("the server to answer", lambda: get(f"{url}/health") is not None)
        say(f"The server runs at {url}, its state in {WORKPLACE / 'state'} (SQLite, synced at every commit).")
        with (WORKPLACE / "worker.log").open("w") as log:
            worker = subprocess.Popen(
                [*STEPWELL, "worker", str(HERE / "survey.py"), "--url", url], env=environment, stdout=log, stderr=log
            )
        wait_for("the worker to connect", lambda: (get(f"{url}/api/functions") or {}).get("functions"))
        say("A worker serves the function `survey`.")

        answer = httpx2.post(f"{url}/e/demo", json={"name": "demo/survey.asked", "data": {"packages": PACKAGES}})
        event = answer.json()["ids"][0]
        say(f"Sent demo/survey.asked: survey {len(PACKAGES)} packages of the standard library.")
        run_id = wait_for("the run", lambda: first_run(url, event))
        say(f"Run {run_id} has started.")

        wait_for("one parallel step to be recorded", lambda: recorded(url, run_id, "count lines"))
        if ended("parse functions"):
            raise SystemExit("the slow step was over before the server could be killed; nothing was shown")
        server.send_signal(signal.SIGKILL)
        server.wait()
        say("KILLED the server (SIGKILL): `count lines` is recorded, `parse functions` is executing.", mark="✗")

        time.sleep(0.5)
        server = start_server(port)
        wait_for("the server to answer", lambda: get(f"{url}/health") is not None)
        say("Started the server again on the same folder.")
        run = wait_for("the run to end", lambda: finished(url, run_id), seconds=120)
        say(f"The run went on where it was: {run['status'].lower()}.", mark="✓")

        explained = print_ledger([one["name"] for one in run["trace"]["children"] if one["status"] == "COMPLETED"])
        print("\nThe trace, as `stepwell run show` prints it:\n", flush=True)
        subprocess.run([*STEPWELL, "run", "show", run_id, "--url", url], check=True)
        sorted_twice = sort_ticket(url)
        print("\nLook around yourself: start the server again, then ask it.\n")
        print(f"    stepwell dev --data {WORKPLACE / 'state'}        # http://127.0.0.1:8288")
        print(f"    stepwell runs; stepwell run show {run_id}")
        return 0 if run["status"] == "COMPLETED" and explained and sorted_twice else 1
    finally:
        for process in (worker, server):
            if process is not None:
                stop(process)


def sort_ticket(url: str) -> bool:
    """Have a model sort a ticket, then once more with another prompt. True if both runs completed and were stored."""
    print("\nA support ticket, sorted by a model:\n", flush=True)
    with ExitStack() as stack:
        environment = {**os.environ, "DEMO_TICKETS": str(TICKETS)}
        key = next((name for name in MODELS if os.environ.get(name)), None)
        if key is not None:
            say(f"{key} is set, so {MODELS[key]} answers.")
        else:
            provider = stack.enter_context(Provider(stand_in.answer))
            environment["DEMO_STAND_IN"] = f"{provider.url}/v1"
            say(f"No key is set ({', '.join(MODELS)}), so a stand-in answers: rules, no model.")
        log = stack.enter_context((WORKPLACE / "worker-2.log").open("w"))
        worker = subprocess.Popen(
            [*STEPWELL, "worker", str(HERE / "ticket.py"), "--url", url], env=environment, stdout=log, stderr=log
        )
        stack.callback(stop, worker)
        wait_for("the worker to connect", lambda: "support-triage" in str(get(f"{url}/api/functions")))

        fine = command("send", "support/ticket.received", '{"file": "ticket.txt"}', "--follow", url=url)
        (run, *_) = get(f"{url}/api/runs?function=support-triage")["runs"]
        say("Shorter, please: another prompt, and all that follows from it once more. What came before is kept.")
        change = f"messages.0.content={ticket.PROMPT.replace('three kind sentences', 'one kind sentence')}"
        fine &= command("rerun", run["id"], "--from", "sort", "--set", change, "--compare", url=url)
    with sqlite3.connect(TICKETS) as database:
        rows = database.execute("SELECT run, urgency, team, reply FROM triage ORDER BY run").fetchall()
    print(f"\nWhat the function stored, in {TICKETS}:\n")
    for row in rows:
        print("  " + "  ".join(row))
    return fine and len(rows) == 2


def command(*words: str, url: str) -> bool:
    """Run a command of `stepwell` as a user would, and show it. True if it succeeded."""
    print(f"\n$ stepwell {shlex.join(words)}\n", flush=True)
    return subprocess.run([*STEPWELL, *words, "--url", url], check=False).returncode == 0


def start_server(port: int) -> "subprocess.Popen[bytes]":
    with (WORKPLACE / "server.log").open("a") as log:
        return subprocess.Popen(
            [*STEPWELL, "dev", "--port", str(port), "--data", str(WORKPLACE / "state"), "--no-discovery"],
            stdout=log,
            stderr=log,
        )


def print_ledger(results: list[str]) -> bool:
    """Print what really ran, from the outside witness, beside the steps that have a result on the server. True if every
    execution is accounted for."""
    lines = [json.loads(line) for line in LEDGER.read_text().splitlines()]
    began = [line["step"] for line in lines if line["what"] == "begins"]
    print("\nThe ledger, written by the steps themselves:\n")
    first = lines[0]["at"]
    for line in lines:
        print(f"  {line['at'] - first:7.2f} s  {line['what']:<6}  {line['step']}")
    print()
    fine = True
    for step in dict.fromkeys(began):
        times, kept = began.count(step), results.count(step)
        has = "one result" if kept == 1 else f"{kept} results"
        if times == 1:
            print(f"  {step:<16} executed once, {has}")
        else:
            why = "it was executing when the server was killed, so it had no result to keep"
            print(f"  {step:<16} executed {times} times, {has}: {why}")
        fine &= kept == 1 and times == (2 if step == "parse functions" else 1)
    return fine


def recorded(url: str, run_id: str, step: str) -> bool:
    run = get(f"{url}/api/runs/{run_id}")
    return bool(run) and any(one["name"] == step and one["status"] == "COMPLETED" for one in run["trace"]["children"])


def ended(step: str) -> bool:
    return any(
        json.loads(line) | {"at": 0, "pid": 0} == {"at": 0, "what": "ends", "step": step, "pid": 0}
        for line in LEDGER.read_text().splitlines()
    )


def finished(url: str, run_id: str) -> dict[str, Any] | None:
    run = get(f"{url}/api/runs/{run_id}")
    return run if run and run["status"] in ("COMPLETED", "FAILED", "CANCELLED") else None


def first_run(url: str, event: str) -> str | None:
    runs = get(f"{url}/v1/events/{event}/runs")
    return runs["data"][0]["run_id"] if runs and runs["data"] else None


def get(url: str) -> Any:
    try:
        response = httpx2.get(url, timeout=5)
    except httpx2.HTTPError:
        return None
    return response.json() if response.status_code == 200 else None


def wait_for(what: str, look: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    logs = "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in WORKPLACE.glob("*.log"))
    raise SystemExit(f"waited {seconds:g} s in vain for {what}\n{logs}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port(wished: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wished))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(text: str, mark: str = "→") -> None:
    print(f" {mark} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
