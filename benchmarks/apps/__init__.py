"""The functions under test, the same ones for each SDK.

bench/seq   {"key", "steps"}   steps one after another; marks s0, s1, ... and done
bench/fan   {"key", "width"}   steps all at once; marks s0, s1, ... and done after the last
bench/nap   {"key", "until"}   one step, then a sleep until that second of the epoch; marks s0 and done

Served over HTTP they also note the size of each request.
"""
