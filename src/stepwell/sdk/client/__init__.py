"""Talking to a server from any program: start runs, send events, wait for results, watch.

    client.py, async_client.py    what users hold; nothing but the loop around the rest
    requests.py                   what is asked and what an answer means, as generators without a socket
    follow.py                     one run as it changes, resumed after a lost connection
    exchange.py                   carries out those generators over httpx2, blocking or not

The two clients share everything but `await`, so they cannot come to differ. Start with `requests.py`.
"""
