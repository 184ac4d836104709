"""The HTTP surfaces: decode a request, ask the node, encode the answer. No rule of the engine is here.

Start with `app.py`, which puts the gate (`gate.py`), the hot path and the table of routes (`routes.py`) together.
`site.py` is what every surface is given; `inngest/` is the protocol of the official SDKs, `runs.py` and `services.py`
are our own REST, `worker.py` is the websocket of our own workers.
"""
