"""Web origins: whether one is the same as another, or that of a host (RFC 6454). Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}

#: Scheme, host in lower case, port.
Triple = tuple[str, str, int]


def normal(origin: str) -> Triple | None:
    """An origin as a triple, its port filled in; None for what is no origin of a web page, such as `null`."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    default = _PORTS.get(parts.scheme)
    if default is None or not parts.hostname or origin.lower() != f"{parts.scheme}://{parts.netloc}".lower() or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, default if port is None else port


def names_host(origin: str, host: str) -> bool:
    """Whether an origin is of this host: what a request's Host field says, where a missing port is the usual one of the origin's scheme.

    The scheme itself is not compared: behind a proxy that ends TLS nobody here knows the client's.
    """
    triple = normal(origin)
    return triple is not None and normal(f"{triple[0]}://{host}") == triple
