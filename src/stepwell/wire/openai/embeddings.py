"""Embeddings: texts become the input of an app that makes vectors, its vectors an answer."""

from __future__ import annotations

import base64
from array import array
from typing import Any, Literal

import msgspec

from stepwell.model.errors import InvalidInput
from stepwell.model.task import Usage
from stepwell.wire.infsh.request import read_body

__all__ = ["EmbeddingsRequest", "embeddings", "read_embeddings"]

_MOST_TEXTS = 2048


class EmbeddingsRequest(msgspec.Struct):
    """What was asked."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    setup: Any = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input

    def input_of(self) -> dict[str, Any]:
        """The input of the app."""
        return {"texts": self.texts} | ({"dimensions": self.dimensions} if self.dimensions is not None else {})


def read_embeddings(text: bytes) -> EmbeddingsRequest:
    """Read a body. Raises `InvalidInput` that names the member."""
    asked = read_body(text, EmbeddingsRequest)
    if not all(isinstance(one, str) for one in asked.texts):
        raise InvalidInput("input is a text or a list of texts; tokens are not offered", field="input")
    if not 0 < len(asked.texts) <= _MOST_TEXTS:
        raise InvalidInput(f"input has {len(asked.texts)} texts; it has 1 to {_MOST_TEXTS}", field="input")
    return asked


def embeddings(asked: EmbeddingsRequest, output: object, said: Usage, more: dict[str, Any]) -> dict[str, Any] | None:
    """The answer; None if the output has not one vector for each text.

    Args:
        output: Of the app.
        said: What the app said in `output_meta`.
        more: Further members.
    """
    told = output if isinstance(output, dict) else {}
    vectors = told.get("vectors")
    if not isinstance(vectors, list) or len(vectors) != len(asked.texts):
        return None
    written: list[Any] = vectors
    if asked.encoding_format == "base64":
        try:
            written = [_base64(vector) for vector in vectors]
        except (TypeError, OverflowError):
            return None
    tokens = told.get("tokens") or said.input_tokens or 0
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(written)],
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        **more,
    }


def _base64(vector: list[float]) -> str:
    """Little-endian numbers of 32 bits."""
    numbers = array("f", vector)
    if _BIG_ENDIAN:
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


_BIG_ENDIAN = array("H", [1]).tobytes() == b"\x00\x01"
