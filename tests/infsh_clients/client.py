"""Everything that PyPI `inferencesh` can do with tasks, files and sessions, against the server at a URL.

    python client.py sync|async URL URL-WHOSE-STREAMS-ARE-CUT FOLDER

Runs in the client's own environment, and prints what came of each method as one line of JSON.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import sys
import time
from pathlib import Path
from typing import Any

from inferencesh import APIError, RequirementsNotMetError, UploadFileOptions, async_inference, inference
from inferencesh.models.file import File

APP = "acme/everything"


async def settled(value: Any) -> Any:
    """What a method of either client gives."""
    return await value if inspect.isawaitable(value) else value


async def every(stream: Any) -> list[Any]:
    """What either kind of stream yields."""
    if hasattr(stream, "__aiter__"):
        return [one async for one in stream]
    return await asyncio.to_thread(list, stream)


async def refusal(call: Any) -> dict[str, Any]:
    """What a method raises."""
    try:
        given = await settled(call())
        if hasattr(given, "__aiter__"):
            await every(given)
    except APIError as err:
        return {"type": "APIError", "status": err.status_code, "code": err.code, "message": err.message}
    except RequirementsNotMetError as err:
        return {"type": "RequirementsNotMetError", "keys": [one.key for one in err.errors], "message": str(err)}
    except Exception as err:
        return {"type": type(err).__name__, "message": str(err)}
    return {"type": None}


def plain(response: Any) -> Any:
    return getattr(response, "data", response)


async def do(client: Any, unlucky: Any, folder: Path) -> dict[str, Any]:
    done: dict[str, Any] = {}

    def params(function: str, **given: Any) -> dict[str, Any]:
        return {"app": f"{APP}:{function}", "input": given}

    # tasks
    done["run"] = await settled(client.run(params("run", upto=3)))
    done["tasks.run"] = await settled(
        client.tasks.run({"app": APP, "function": "count", "input": {}, "setup": {"a": 1}})
    )
    started = await settled(client.run(params("run", upto=2), wait=False))
    done["run wait=False"] = started
    done["wait_for_completion"] = await settled(client.wait_for_completion(started["id"]))
    done["tasks.wait_for_completion"] = await settled(client.tasks.wait_for_completion(started["id"]))
    done["get_task"] = plain(await settled(client.get_task(started["id"])))
    done["tasks.get"] = plain(await settled(client.tasks.get(started["id"])))
    done["run stream=True"] = await every(await settled(client.run(params("run", upto=4, pause=0.05), stream=True)))
    started = await settled(client.run(params("run", upto=3, pause=0.05), wait=False))
    done["stream_task"] = await every(client.stream_task(started["id"]))
    started = await settled(client.run(params("run", upto=3, pause=0.05), wait=False))
    done["tasks.stream"] = await every(client.tasks.stream(started["id"]))
    done["deltas"] = await every(await settled(client.run(params("speak", text="one two three"), stream=True)))
    done["deltas waited for"] = await settled(client.run(params("speak", text="one two three")))
    done["failed"] = await refusal(lambda: client.run(params("fail", why="out of luck", delay=0.1)))

    for name, cancel in (("cancel", client.cancel), ("tasks.cancel", client.tasks.cancel)):
        started = await settled(client.run(params("wait"), wait=False))
        await running(client, started["id"])
        began = time.monotonic()
        await settled(cancel(started["id"]))
        outcome = await refusal(lambda task=started["id"]: client.wait_for_completion(task))
        done[name] = {**outcome, "seconds": time.monotonic() - began}

    # connections that break
    seen: list[Any] = []

    async def follow() -> None:
        stream = await settled(unlucky.run(params("run", upto=20, pause=0.1), stream=True))
        if hasattr(stream, "__aiter__"):
            async for update in stream:
                seen.append(update)
        else:
            seen.extend(stream)

    done["cut stream"] = {"outcome": await refusal(follow), "seen": seen}
    done["cut task"] = await settled(client.wait_for_completion(seen[0]["id"]))

    # files
    text = folder / "words.txt"
    text.write_text("some words")
    uri = "data:text/plain;base64," + base64.b64encode(b"data words").decode()
    done["upload_file bytes"] = await settled(
        client.upload_file(b"more words", UploadFileOptions(filename="more.txt", content_type="text/plain"))
    )
    done["files.upload path"] = await settled(client.files.upload(str(text)))
    done["upload_file data URI"] = await settled(client.upload_file(uri))
    shouted = await settled(client.run(params("shout", file=str(text), others=[uri, done["upload_file bytes"]["uri"]])))
    done["files in the input"] = shouted
    done["File in the input"] = await settled(client.run(params("shout", file=File(path=str(text)))))
    done["tasks.files"] = plain(await settled(client.tasks.files(shouted["id"])))
    done["tasks.files role"] = plain(await settled(client.tasks.files(shouted["id"], role="output")))
    done["tasks.delete_files"] = plain(await settled(client.tasks.delete_files(shouted["id"], role="output")))
    await settled(client.tasks.delete(shouted["id"], files=True))
    done["tasks.delete"] = await refusal(lambda: client.get_task(shouted["id"]))

    # sessions
    opened = client.session(APP, function="count")
    handle = await opened if inspect.isawaitable(opened) else opened
    called = [await settled(handle.call("count", {"why": str(number)})) for number in range(3)]
    done["session"] = {"id": handle.session_id, "calls": called}
    done["handle.info"] = await settled(handle.info())
    done["sessions.get"] = await settled(client.sessions.get(handle.session_id))
    done["sessions.list"] = await settled(client.sessions.list())
    done["handle.keepalive"] = await settled(handle.keepalive())
    done["sessions.keepalive"] = await settled(client.sessions.keepalive(handle.session_id))
    await settled(handle.end())
    ended = handle.session_id
    done["handle.end"] = await settled(client.sessions.get(ended))
    done["ended session"] = await refusal(lambda: client.run({"app": APP, "input": {}, "session": ended}))
    task = await settled(client.run({**params("count"), "session": "new", "session_timeout": 1}))
    await asyncio.sleep(2.5)
    done["expired session"] = await refusal(lambda: client.run({**params("count"), "session": task["session_id"]}))
    task = await settled(client.run({**params("count"), "session": "new", "session_timeout": 30}))
    await settled(client.sessions.end(task["session_id"]))
    done["sessions.end"] = await settled(client.sessions.get(task["session_id"]))
    done["unknown session"] = await refusal(lambda: client.sessions.get("nope"))

    # refusals
    done["unknown app"] = await refusal(lambda: client.run({"app": "acme/nope", "input": {}}))
    done["unknown task"] = await refusal(lambda: client.get_task("nope"))
    done["missing secret"] = await refusal(lambda: client.run({"app": "acme/secretive", "input": {}}))
    done["bad timeout"] = await refusal(
        lambda: client.run({"app": APP, "input": {}, "session": "new", "session_timeout": 9999})
    )
    done["bad input"] = await refusal(lambda: client.run(params("run", upto="many")))
    return done


async def running(client: Any, task: str) -> None:
    for _ in range(600):
        if plain(await settled(client.get_task(task)))["status"] >= 7:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{task} does not run")


async def main() -> None:
    kind, url, cut, folder = sys.argv[1:5]
    make = {"sync": inference, "async": async_inference}[kind]
    client, unlucky = (make(api_key="inf_anything", base_url=f"{one}/") for one in (url, cut))
    done = await do(client, unlucky, Path(folder))
    print(json.dumps(done, default=str))


if __name__ == "__main__":
    asyncio.run(main())
