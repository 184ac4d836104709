"""What runs in the user's process: functions, their steps, and the worker that carries both to a server.

Start with `execution.py` (one run of a function body) and `parking.py` (how a step suspends ordinary
asyncio code). `service.py`, `function.py`, `event.py`, `context.py` and `step.py` are what users write with;
`worker.py` is the websocket to the server. Nothing here imports a server library, and users import names
from `stepwell`, not from here.
"""
