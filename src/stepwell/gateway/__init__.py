"""Outbound requests that the server makes for suspended functions: `step.fetch` and `step.ai.infer`.

Start at `gateway.py`: it takes errands from the node and gives back how they ended. Then

    policy    which addresses may be called
    fetch     one request over the network: redirects, limits, timings
    unpack    compressed answers, no further than anybody wants to read
    prices    what a call of a model costs

Nothing here stores anything. Credentials are kept in memory, for one step each, and go into requests only.
"""
