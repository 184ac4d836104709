"""Live streams: what a step is about to return, piece by piece, to everybody who follows its run.

    log      start here: the pieces of one run, kept for a while, and the places of those who read them
    streams  the logs of a node: what is published, who subscribes, how much is kept
    relay    the pieces of a run that another node publishes

Everything is in memory. What is lost with it is a view of a result, never the result: the journal has that. Whoever
comes back is told what they missed (`gap`) and what no longer counts (`reset`).

Elsewhere: who publishes (`stepwell.gateway`), how subscribers are answered (`stepwell.api.stream`).
"""
