"""The admin API, as commands call it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import httpx

from gateway.cli.options import ADMIN_TOKEN_VARIABLE

TIMEOUT_SECONDS = 10.0


class AdminError(Exception):
    """The admin API did not do it; the message is for the operator."""


class AdminClient:
    """Calls one gateway's admin API.

    Args:
        url: of the admin port.
        token: the bearer token; empty for none.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # Neither a proxy nor credentials of the user's environment have a part in this.
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The JSON that the API answers with.

        Raises:
            AdminError: it can't be reached, or it refused.
        """
        try:
            response = self._client.request(method, self._url + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AdminError(f"can't reach the admin API at {self._url}: {error}") from error
        if response.is_success:
            return _document(response)
        raise AdminError(_refusal(response))


def _document(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise AdminError(f"{response.url} did not answer with JSON: is this the admin port?") from error


def _refusal(response: httpx.Response) -> str:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return f"the admin API wants another token: --admin-token-file FILE or {ADMIN_TOKEN_VARIABLE}"
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = "no reason given: is this the admin port?"
    return f"the admin API answered {response.status_code}: {detail}"


def open_admin(url: str, token_file: Path | None) -> AdminClient:
    """A client with the token of the file or of the environment."""
    token = token_file.read_text(encoding="utf-8").strip() if token_file is not None else os.environ.get(ADMIN_TOKEN_VARIABLE, "")
    if not (token.isascii() and (token.isprintable())):
        raise click.UsageError("the admin token holds characters that no token has")
    return AdminClient(url, token)
