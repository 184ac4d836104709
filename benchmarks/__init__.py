"""How fast Stepwell is, beside how fast this machine could be: `python -m benchmarks`, or `make bench`.

    driver ── events ──▶ stepwell dev ── websocket or HTTP ──▶ functions ── marks ──▶ one file ──▶ driver
       └── in turn with the limits of the machine: synced commits, loopback HTTP, websocket messages

The functions say themselves when they got where (`marks.py`), on the one monotonic clock of the machine, so nothing is
read from the product's own metrics and another product could be measured in the same way. Targets and limits take
turns within every round, so that a noisy neighbour disturbs all of them alike; medians over the rounds are shown with
their range. On a shared machine trust CPU per step first, ratios to the limits second and plain rates last.

Start reading at `workloads.py`, `models.py`, `live.py`, `tasks.py` and `lifetimes.py`; what is measured against is in
`limits.py`, who is measured in `targets.py`, other products in `peers`.
"""
