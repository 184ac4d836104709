"""GraphQL as the protocol's dashboards, test utilities and tools speak it: `POST /v0/gql`.

    body ──▶ limits ──▶ parse, validate (remembered) ──▶ resolvers ──▶ stepwell.node.reads

Every answer is an HTTP 200; what went wrong is in `errors`. The library behind it is loaded with the first query,
since most servers never get one. Elsewhere: the schema (`graphql_schema.graphql`), how a query is run
(`graphql_engine.py`), what fields mean (`graphql_runs.py`, `graphql_events.py`, `graphql_functions.py`,
`graphql_mutations.py`).

Protocol: sections 8.5 and 8.6 of the Inngest wire protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.api.inngest.graphql_context import Context, SyncApp
from stepwell.api.masking import NOTHING_HIDDEN
from stepwell.model.event import DEV_ENV
from stepwell.node.reads.runs import Running, nobody_knows

if TYPE_CHECKING:
    from stepwell.api.masking import Redaction
    from stepwell.node.node import Node

__all__ = ["PLAYGROUND", "SyncApp", "execute"]

PLAYGROUND = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Stepwell GraphQL</title>
<h1>GraphQL</h1>
<p>Send <code>{"query": "…", "variables": {…}}</code> to this address, or try it here.</p>
<textarea id="query" rows="12" cols="80">
{ runs(first: 5) { edges { node { id status function { name } } } } }
</textarea>
<p><button id="send">Send</button></p>
<pre id="answer"></pre>
<script>
document.getElementById("send").onclick = async () => {
  const query = document.getElementById("query").value;
  const headers = {"content-type": "application/json"};
  const answer = await fetch("/v0/gql", {method: "POST", headers, body: JSON.stringify({query})});
  document.getElementById("answer").textContent = JSON.stringify(await answer.json(), null, 2);
};
</script>
</html>
"""
"""What `GET` answers: HTML that needs nothing from elsewhere."""


async def execute(
    node: Node,
    body: dict[str, Any],
    *,
    env: str = DEV_ENV,
    sync: SyncApp | None = None,
    running: Running = nobody_knows,
    redaction: Redaction = NOTHING_HIDDEN,
) -> dict[str, Any]:
    """Answer one GraphQL request; never raises for what a client can do.

    Args:
        node: Whose runs, events and functions are asked for.
        body: The decoded JSON: `query`, and perhaps `variables` and `operationName`.
        env: The environment that the caller may see.
        sync: Carries out `createApp` and `updateApp`; without it they are refused.
        running: Who knows which calls are being answered right now.
        redaction: What events, inputs and results do not show.
    """
    from stepwell.api.inngest import graphql_engine

    return await graphql_engine.run(Context(node, env, sync, running, redaction), body)
