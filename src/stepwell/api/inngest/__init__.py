"""The HTTP surface that official Inngest SDKs talk to.

Events come in at `events.py`, services register at `register.py` and are asked by `sync.py`, SDKs fetch state at
`state.py`; people and tests look at `v1.py`, `dev.py` and `gql.py`. What is not served yet says so in `later.py`.
"""
