"""Serves the functions over HTTP: the asynchronous ones on uvicorn, the others on Flask.

Run as `python -m tests.sdk_e2e.apps.serve uvicorn|flask` with `PORT`, `SERVICE`, `LEDGER` and `STEPWELL_URL` set.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    port = int(os.environ["PORT"])
    if sys.argv[1] == "flask":
        import flask

        import stepwell
        from tests.sdk_e2e.apps.blocking import service

        app = flask.Flask("e2e")
        stepwell.serve.flask(app, service)
        app.run(port=port, threaded=True)
    else:
        import uvicorn

        from tests.sdk_e2e.apps.functions import service as asynchronous

        uvicorn.run(asynchronous.asgi(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
