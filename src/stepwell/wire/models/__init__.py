"""The dialects of AI providers, one file each, behind one seam.

Start at `dialect.py`, which is the seam: a request that asks for a stream, an answer read as it comes and put together
into the plain form, what it says and what it used. Then read one dialect, `anthropic.py` say.

    credentials   what must not be stored or shown, taken out of a request and put back
    sse           events out of bytes that were cut anywhere
    failure       statuses, codes, Retry-After and rate limits: ask again, and when
    document      reading JSON that others wrote

The prices are the gateway's (`stepwell.gateway.prices`), and so are sockets.
"""

from stepwell.wire.models.registry import detect, dialect_for

__all__ = ["detect", "dialect_for"]
