"""One bounded exchange with an identity provider: no redirects, no cookies, no decoding, a size and a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

#: A key set of 100 RSA-8192 keys with certificate chains stays below this.
MAX_DOCUMENT_BYTES = 512 * 1024


class FetchError(Exception):
    """The document could not be had. The message is for logs; it holds nothing that the other side wrote."""


async def fetch(
    http: httpx.AsyncClient,
    url: str,
    *,
    timeout_seconds: float,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The body of a 200 answer to GET, or to POST when there is a form.

    Args:
        timeout_seconds: for each of connect, send and read; twice that for all of it.

    Raises:
        FetchError: anything else happened.
    """
    try:
        # The phases time out by themselves first: cancelling a connection attempt costs the client's pool a slot.
        async with asyncio.timeout(2 * timeout_seconds):
            return await _exchange(http, _request(url, timeout_seconds, form, headers))
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError, RuntimeError) as exc:
        # TimeoutError is an OSError; RuntimeError is what a closed client raises.
        raise FetchError(f"no answer ({type(exc).__name__})") from exc


def _request(url: str, timeout_seconds: float, form: Mapping[str, str] | None, headers: Mapping[str, str] | None) -> httpx.Request:
    # Built without the client, so that no cookie, credential or default header of the client goes with it.
    return httpx.Request(
        "GET" if form is None else "POST",
        url,
        data=form,
        headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "hms-gateway", **(headers or {})},
        extensions={"timeout": httpx.Timeout(timeout_seconds).as_dict()},
    )


async def _exchange(http: httpx.AsyncClient, request: httpx.Request) -> bytes:
    response = await http.send(request, stream=True, auth=None, follow_redirects=False)
    try:
        if response.status_code != 200:
            raise FetchError(f"answered {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise FetchError(f"more than {MAX_DOCUMENT_BYTES} bytes")
        return bytes(body)
    finally:
        await response.aclose()
