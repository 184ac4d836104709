"""`step.fetch`: a request that the server makes, with the arguments of `httpx2.request` and its response.

What httpx2 would send is put together here, by httpx2 itself, so that parameters, forms, files and JSON mean the same.
Only the connection is somebody else's: its options (`verify`, `proxy`, `cert`) are the server's to choose.
"""

from __future__ import annotations

import base64
import hashlib
import json as json_text
from collections.abc import Collection, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from stepwell.model.credential import check_name
from stepwell.model.ids import StepId
from stepwell.model.offload import FETCH
from stepwell.model.op import Offload
from stepwell.sdk.errors import DefinitionError
from stepwell.sdk.options import Duration, milliseconds
from stepwell.sdk.request import Request
from stepwell.wire.offload import FetchAnswer, InvalidRequest, fetch_request, read_answer, write_answer

if TYPE_CHECKING:
    import httpx2

    from stepwell.model.offload import Sealed

RETRIED_STATUSES = (500, 502, 503, 504)
"""Answers after which a request is made again, while the function's attempts last."""

Headers: TypeAlias = Mapping[str, str] | list[tuple[str, str]]
Seconds: TypeAlias = float | Duration

_OF_THE_CONNECTION = frozenset({"host", "content-length", "transfer-encoding", "connection"})


def fetch_step(
    id: str,
    url: str | httpx2.URL,
    *,
    method: str,
    params: Any,
    headers: Headers | None,
    cookies: Mapping[str, str] | None,
    content: str | bytes | None,
    data: Mapping[str, Any] | None,
    files: Any,
    json: Any,
    auth: tuple[str, str] | None,
    timeout: Seconds | None,
    follow_redirects: bool,
    retry_statuses: Collection[int],
    credential: str | None = None,
) -> Request:
    """What `step.fetch` asks for.

    Raises:
        DefinitionError: The request cannot be made; the message says why.
    """
    import httpx2  # a tenth of a second, which services that fetch nothing need not spend

    if auth is not None and credential is not None:
        raise DefinitionError(f'step.fetch("{id}", ...) has auth= and credential=; give only one of them')
    given = dict(headers) if headers is not None else {}
    if files and not any(name.lower() == "content-type" for name in given):
        # httpx2 would draw a boundary by chance, and a replay would ask for something else.
        given["Content-Type"] = f"multipart/form-data; boundary={hashlib.sha256(id.encode()).hexdigest()[:32]}"
    if auth is not None and not any(name.lower() == "authorization" for name in given):
        given["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
    try:
        built = httpx2.Request(
            method,
            url,
            params=params,
            headers=given,
            cookies=dict(cookies) if cookies is not None else None,
            content=content,
            data=dict(data) if data is not None else None,
            files=files,
            json=json,
        )
        body = built.read()
    except (httpx2.InvalidURL, TypeError, ValueError, json_text.JSONDecodeError, RuntimeError) as err:
        raise DefinitionError(f'step.fetch("{id}", ...) cannot make this request: {err}') from err
    if built.url.scheme not in {"http", "https"} or not built.url.host:
        raise DefinitionError(
            f'step.fetch("{id}", ...) needs a whole address, such as "https://api.example.com/rates"; got {str(url)!r}'
        )
    sent = {name: value for name, value in built.headers.items() if name.lower() not in _OF_THE_CONNECTION}
    try:
        text, sealed = fetch_request(
            str(built.url),
            method=method.upper(),
            headers=sent,
            body=body or None,
            exact=True,
            timeout_ms=timeout_ms(id, timeout),
            max_redirects=None if follow_redirects else 0,
            retry_statuses=tuple(retry_statuses),
            credential=credential_name(credential),
        )
    except (InvalidRequest, ValueError) as err:
        raise DefinitionError(f'step.fetch("{id}", ...): {err}') from err
    return Request(
        id,
        partial(_response, built),
        ("fetch", text, repr(sorted(sent.items()))),
        waiting=partial(offload, text, FETCH, sealed),
    )


def credential_name(credential: str | None) -> str:
    """The name as a request has it; empty for none. Raises `ValueError`."""
    if credential is not None:
        check_name(credential)
    return credential or ""


def timeout_ms(id: str, timeout: Seconds | None) -> int | None:
    """A limit in milliseconds: a number is seconds, as in httpx2; text and `timedelta` as everywhere else."""
    if timeout is None:
        return None
    try:
        length = milliseconds(timedelta(seconds=timeout) if isinstance(timeout, int | float) else timeout)
    except ValueError as err:
        raise DefinitionError(f"step {id!r}: {err}") from None
    if length <= 0:
        raise DefinitionError(f"step {id!r}: the timeout must be longer than nothing, not {timeout!r}")
    return length


def offload(text: bytes, kind: str, sealed: Sealed | None, step: StepId, name: str, index: int) -> Offload:
    """The op of a request that the server is to make."""
    return Offload(step=step, name=name, index=index, request=text, kind=kind, sealed=sealed)


def _response(request: httpx2.Request, text: bytes) -> httpx2.Response:
    """The recorded answer as the response that httpx2 would have given."""
    import httpx2

    answer = read_answer(json_text.loads(text))
    if answer.url and "***" not in answer.url and answer.url != str(request.url):
        request = httpx2.Request("GET" if answer.status < 300 else request.method, answer.url)
    response = httpx2.Response(
        answer.status,
        headers=list(answer.headers),
        content=answer.body,
        request=request,
        extensions={"reason_phrase": answer.reason.encode("ascii", "ignore"), "http_version": b"HTTP/1.1"},
    )
    response.elapsed = timedelta(milliseconds=answer.elapsed_ms)
    return response


def fetch_answer(given: httpx2.Response, echo: str = "") -> bytes:
    """A response in the form in which the server would record it."""
    headers = tuple(given.headers.multi_items())
    told = FetchAnswer("", given.status_code, given.reason_phrase, headers, given.read(), echo=echo)
    return write_answer(told, exact=True)
