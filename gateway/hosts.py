"""URLs that name several hosts: `redis+cluster://user:password@a,b:7000,[::1]/name`. Pure."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

_URL = re.compile(r"(?P<head>[^:/?#]*://(?:[^/?#]*@)?)(?P<hosts>[^/?#]*)(?P<tail>.*)", re.DOTALL)


def split_hosts(url: str) -> tuple[SplitResult, str]:
    """A URL without its hosts, and those as they are written. Raises ValueError when it is no URL; its message may hold a password."""
    match = _URL.fullmatch(url)
    if match is None:
        return SplitResult(url.partition(":")[0], "", "", "", ""), ""
    return urlsplit(match["head"] + match["tail"]), match["hosts"]


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:7000` or `[::1]:7000`. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    host, port = parts.hostname, parts.port
    if not host or parts.netloc != text or port == 0:
        raise ValueError(text)
    return unquote(host), port or default_port
