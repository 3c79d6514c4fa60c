"""A scan of all routes that knows the documented precedence and nothing of trees, to hold the route table against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import unquote
from uuid import UUID

from gateway.route import Local, Route


def scan(routes: Iterable[Route], host: str, method: str, path: str, headers: Mapping[str, str]) -> Route | bool | None:
    """The best route; None when no route has the path, False when none has the method.

    Args:
        host: lower case, without port.
    """
    best: list[tuple[tuple[object, ...], Route]] = []
    found = False
    for order, declared in enumerate(routes):
        host_rank, path_rank, method_rank = scan_host(declared, host), scan_path(declared, path), scan_method(declared, method)
        if host_rank is None or path_rank is None or any(headers.get(name) != value for name, value in declared.headers.items()):
            continue
        found = True
        if method_rank is not None:
            # A shorter rank is a path that ends where a mount's bare path (9) goes on, so it is better.
            best.append(((host_rank, path_rank, -len(declared.headers), method_rank, order), declared))
    return min(best)[1] if best else False if found else None


def scan_host(declared: Route, host: str) -> tuple[int, int] | None:
    """How well a route's hosts fit, the lower the better; None when they don't."""
    ranks = [(0, 0)] if host in declared.hosts else []
    ranks += [(1, -len(each)) for each in declared.hosts if each[0] == "*" and host.endswith(each[1:]) and len(host) >= len(each)]
    return min(ranks) if ranks else None if declared.hosts else (2, 0)


def scan_path(declared: Route, path: str) -> tuple[int, ...] | None:
    """The rank of every segment that the path has, or None."""
    mounted = isinstance(declared.target, Local) and declared.target.mounted
    template = declared.path
    if mounted and not template.endswith(":path}"):
        template = template.removesuffix("/") + "/{t:path}"
    ranks: list[int] = []
    wanted, given_segments = template.split("/")[1:], path.split("/")[1:]
    for number, segment in enumerate(wanted):
        if segment.endswith(":path}"):
            if number < len(given_segments):
                return (*ranks, 4)
            return (*ranks, 9) if mounted else None
        if number >= len(given_segments):
            return None
        rank = scan_segment(segment, given_segments[number])
        if rank is None:
            return None
        ranks.append(rank)
    return tuple(ranks) if len(wanted) == len(given_segments) else None


def scan_segment(wanted: str, text: str) -> int | None:
    """How well a segment of a path fits into one of a template."""
    if not wanted.startswith("{"):
        return 0 if unquote(wanted) == text else None
    if wanted.endswith(":uuid}"):
        return 1 if _is_uuid(text) else None
    if wanted.endswith(":int}"):
        return 2 if text.isascii() and text.isdigit() and len(text) <= 18 else None
    return 3 if text else None


def scan_method(declared: Route, method: str) -> int | None:
    """How well a route's methods fit."""
    if method in declared.methods:
        return 0
    if method == "HEAD" and "GET" in declared.methods:
        return 1
    return None if declared.methods or method in ("CONNECT", "TRACE") else 2


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
