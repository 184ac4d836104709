"""Compressed bodies, undone piece by piece and no further than anybody wants to read."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_PIECE_BYTES = 64 * 1024

ACCEPTED = "gzip, deflate"
"""What is offered to servers when the caller offers nothing."""


class TornBody(OSError):
    """A compressed body ended early, or is none."""


class Unpacker:
    """Undoes one content encoding.

    Args:
        encoding: The header `Content-Encoding`. One that is not known here is left as it is; see `undone`.
    """

    def __init__(self, encoding: str) -> None:
        self.undone = encoding.strip().lower() in {"gzip", "x-gzip", "deflate"}
        self._stream = zlib.decompressobj(wbits=47)
        self._raw = encoding.strip().lower() == "deflate"  # some servers send it without the header of zlib
        self._fed = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What a chunk unpacks to, in pieces of 64 KiB at most: whoever reads no further unpacks no further.

        Raises:
            TornBody: It is not what its header says.
        """
        if not self.undone:
            yield chunk
            return
        while chunk:
            if self._stream.eof:
                self._stream = zlib.decompressobj(wbits=47)  # several gzip streams one after the other are one body
            try:
                piece = self._stream.decompress(chunk, _PIECE_BYTES)
            except zlib.error as err:
                if not self._raw or self._fed:
                    raise TornBody(f"the compressed body cannot be read: {err}") from err
                self._raw, self._stream = False, zlib.decompressobj(wbits=-15)
                continue
            self._fed = True
            if piece:
                yield piece
            chunk = self._stream.unconsumed_tail or self._stream.unused_data

    def finish(self) -> None:
        """The body has ended.

        Raises:
            TornBody: In the middle.
        """
        if self.undone and self._fed and not self._stream.eof:
            raise TornBody("the compressed body ends early")
