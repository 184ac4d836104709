"""The HTTP surface that official inference.sh clients talk to.

Tasks begin at `tasks.py` and are watched at `stream.py`; `sessions.py`, `files.py` and `apps.py` are what their names
say. What is not offered says so in `absent.py`. Every answer is made by `answers.py`.

Each path answers with `/v1` before it, too, unless the Inngest surface has that path (`/v1/apps/{name}/functions`).
"""
