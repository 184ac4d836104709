"""Apps, from the point of view of a program that calls them: `client.tasks`, `.sessions`, `.files`, `.apps`.

    client.py, async_client.py    what users hold; nothing but the loop around the rest
    requests.py                   what is asked and what an answer means, as generators without a socket
    follow.py                     one task as it changes, resumed after a lost connection
    values.py                     inputs and outputs: files, models, which app is meant
    types.py                      what type checkers need to know of a class that is an app

Built on the client of runs (`stepwell.sdk.client`), whose `exchange.py` carries the requests out. A task is a run, too.
"""
