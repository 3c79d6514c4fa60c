"""The route table: (host, method, path, header fields) -> the route.

A request belongs to the best of all routes that match it, whatever order they were declared in:

1. host: an exact name, then `*.suffix` (the longest first), then any host;
2. path, segment by segment from the left: literal, `uuid`, `int`, `{name}`, `{rest:path}`; the exact path before a mount's bare path;
3. more header conditions before fewer;
4. a method that the route names, then HEAD through GET, then a route for every method;
5. the order of declaration.

Every condition counts at every step: when `/patients/me` accepts only GET, then a DELETE goes on to `/patients/{id}`. Two routes
that match the same requests with nothing to choose between them are refused at start. Hosts are compared without case, port and
trailing dot. A path with a trailing slash is another path: nothing is redirected.

A match walks a tree of dicts, one level a segment. What it visits is bounded by the size of the table, never by the request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

from gateway.errors import ConfigError, MethodNotAllowed, NotFound
from gateway.route import Route
from gateway.template import Segment, Template, parse_route

V = TypeVar("V")

#: The value of a field by its lower-case name, None when it is absent; several lines are joined with `, `.
HeaderLookup = Callable[[str], str | None]

_NO_PARAMS: Mapping[str, str | int] = MappingProxyType({})
_UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}").fullmatch
# 18 digits fit into a signed 64-bit integer whatever they are, and int() of a long text is slow.
_INT = re.compile(r"[0-9]{1,18}").fullmatch
_RANKS = {"literal": 0, "uuid": 1, "int": 2, "any": 3, "tail": 4}
_ACCEPTS: dict[str, Callable[[str], object]] = {"uuid": _UUID, "int": _INT, "any": bool, "tail": lambda segment: True}
_CONVERT: dict[str, Callable[[str], str | int] | None] = {"uuid": str.lower, "int": int, "any": None}
_EXPECTED = {"uuid": "a UUID", "int": "an integer of at most 18 digits", "any": "a non-empty segment"}
# RFC 1035 section 3.1: a longer one is no name, so there is no need to look at its labels.
_MAX_HOST_CHARACTERS = 253
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_]([a-z0-9_-]*)(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")

#: What a route without methods is said to accept.
EVERY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_NEVER_IMPLIED = ("CONNECT", "TRACE")


class Match(NamedTuple, Generic[V]):
    """A route that a request belongs to.

    Args:
        value: what was given to the router with the route.
        route: the declaration.
        params: path parameters, decoded: `int` for `{name:int}`, lower case for `{name:uuid}`, else the text.
    """

    value: V
    route: Route
    params: Mapping[str, str | int]


class Explanation(NamedTuple):
    """Why a route was chosen or not.

    Args:
        route: the route, in match order.
        chosen: whether the request belongs to it.
        reason: what did not match, or which route comes first; empty for the chosen one.
    """

    route: Route
    chosen: bool
    reason: str


def no_headers(name: str) -> None:
    """The lookup of a request without header fields."""


def hostname(authority: str) -> str:
    """The host of a `Host` field or an authority, as the table compares it: lower case, without port and trailing dot."""
    host = authority.lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0].removesuffix(".")


@dataclass(frozen=True, slots=True)
class _Candidate(Generic[V]):
    """A route at the end of one way through the tree; `bindings` are (name, segment, conversion)."""

    route: Route
    value: V
    template: Template
    order: int
    headers: tuple[tuple[str, str], ...]
    bindings: tuple[tuple[str, int, Callable[[str], str | int] | None], ...]
    tail: tuple[str, int] | None
    fixed: Match[V] | None

    def accepts(self, lookup: HeaderLookup) -> bool:
        return all(lookup(name) == value for name, value in self.headers)

    def match(self, segments: list[str]) -> Match[V]:
        if self.fixed is not None:
            return self.fixed
        params: dict[str, str | int] = {}
        for name, index, convert in self.bindings:
            segment = segments[index]
            params[name] = segment if convert is None else convert(segment)
        if self.tail is not None:
            name, index = self.tail
            params[name] = "/".join(segments[index:])
        return Match(self.value, self.route, params)

    def methods(self) -> tuple[str, ...]:
        """What it adds to an `Allow` field."""
        methods = self.route.methods or EVERY_METHOD
        if "GET" not in methods or "HEAD" in methods:
            return methods
        after = methods.index("GET") + 1
        return (*methods[:after], "HEAD", *methods[after:])

    def method_rank(self, method: str) -> int | None:
        """0 when the route names the method, 1 for HEAD through GET, 2 when it takes every method, None when it does not take it."""
        methods = self.route.methods
        if not methods:
            return None if method in _NEVER_IMPLIED else 2
        if method in methods:
            return 0
        return 1 if method == "HEAD" and "GET" in methods else None


class _Leaf(Generic[V]):
    """The routes that end at one place of the tree. `by_method` and `others` hold them in order of preference."""

    __slots__ = ("by_method", "candidates", "methods", "others")

    def __init__(self) -> None:
        self.candidates: list[_Candidate[V]] = []
        #: What an `Allow` field says; None when it depends on header fields.
        self.methods: tuple[str, ...] | None = None
        self.by_method: dict[str, tuple[_Candidate[V], ...]] = {}
        self.others: tuple[_Candidate[V], ...] = ()

    def add(self, candidate: _Candidate[V]) -> None:
        for other in self.candidates:
            _refuse_conflict(other, candidate)
        self.candidates.append(candidate)
        named = {method for each in self.candidates for method in each.route.methods}
        self.by_method = {method: self._ranked(method) for method in sorted(named | {"HEAD", *_NEVER_IMPLIED})}
        self.others = self._ranked("")
        plain = not any(each.headers for each in self.candidates)
        self.methods = _methods(self.candidates) if plain else None

    def allowed(self, headers: HeaderLookup) -> tuple[str, ...]:
        """The methods of the routes whose header conditions hold."""
        return self.methods or _methods([each for each in self.candidates if each.accepts(headers)])

    def _ranked(self, method: str) -> tuple[_Candidate[V], ...]:
        ranked = [(rank, each) for each in self.candidates if (rank := each.method_rank(method)) is not None]
        ranked.sort(key=lambda pair: (-len(pair[1].headers), pair[0], pair[1].order))
        return tuple(each for _, each in ranked)


class _Node(Generic[V]):
    """One place in the tree: ways on by literal, ways on by kind of parameter (the most specific first), and what ends here."""

    __slots__ = ("bare_mounts", "leaf", "literals", "parameters")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[V]] = {}
        #: (accepts, the node behind, whether it takes all that is left)
        self.parameters: list[tuple[Callable[[str], object], _Node[V], bool]] = []
        self.leaf: _Leaf[V] | None = None
        #: Mounts whose path without the tail ends here.
        self.bare_mounts: _Leaf[V] | None = None

    def insert(self, segments: tuple[Segment, ...], candidate: _Candidate[V]) -> None:
        node = self
        for segment in segments:
            if candidate.template.mounted and segment.kind == "tail":
                node.bare_mounts = node.bare_mounts or _Leaf()
                node.bare_mounts.add(candidate)
            node = node._child(segment)
        node.leaf = node.leaf or _Leaf()
        node.leaf.add(candidate)

    def _child(self, segment: Segment) -> _Node[V]:
        if segment.kind == "literal":
            return self.literals.setdefault(segment.text, _Node())
        accepts = _ACCEPTS[segment.kind]
        for known, node, _ in self.parameters:
            if known is accepts:
                return node
        node = _Node[V]()
        self.parameters.append((accepts, node, segment.kind == "tail"))
        kinds = list(_ACCEPTS.values())
        self.parameters.sort(key=lambda way: kinds.index(way[0]))
        return node

    def first_leaf(self, segments: list[str]) -> _Leaf[V] | None:
        """The leaf behind the best way on at every step, if that way leads to one: the first of `leaves`, in half the time."""
        node = self
        walk = iter(segments)
        next(walk)
        for segment in walk:
            child = node.literals.get(segment)
            if child is None:
                for accepts, behind, takes_all in node.parameters:
                    if accepts(segment):
                        if takes_all:
                            return behind.leaf
                        child = behind
                        break
                else:
                    return None
            node = child
        return node.leaf

    def leaves(self, segments: list[str]) -> Iterator[_Leaf[V]]:
        """Every leaf that a split path reaches, the most specific first."""
        count = len(segments)
        # Ways not yet taken, the best on top. A way through a tail has used up all segments.
        waiting: list[tuple[_Node[V], int]] = [(self, 1)]
        while waiting:
            node, index = waiting.pop()
            while index < count:
                segment = segments[index]
                for accepts, behind, takes_all in reversed(node.parameters):
                    if accepts(segment):
                        waiting.append((behind, count if takes_all else index + 1))
                child = node.literals.get(segment)
                if child is None:
                    break
                node = child
                index += 1
            else:
                if node.leaf is not None:
                    yield node.leaf
                if node.bare_mounts is not None:
                    yield node.bare_mounts


class Router(Generic[V]):
    """A compiled route table.

    Args:
        routes: each with the value that a match hands back, in order of declaration.

    Raises:
        ConfigError: a path or host that can't be used, a name used twice, or two routes that match the same requests.
    """

    def __init__(self, routes: Iterable[tuple[Route, V]]) -> None:
        self._candidates = [_candidate(route, value, order) for order, (route, value) in enumerate(routes)]
        _refuse_same_names(self._candidates)
        self._exact: dict[str, _Node[V]] = {}
        #: By the suffix, with its leading dot.
        self._wildcard: dict[str, _Node[V]] = {}
        self._any: _Node[V] = _Node()
        for candidate in self._candidates:
            for root in self._roots_of(candidate.route):
                root.insert(candidate.template.segments, candidate)
        self._names_hosts = bool(self._exact or self._wildcard)
        #: Whether a match may depend on header fields.
        self.reads_fields = any(candidate.headers for candidate in self._candidates)
        self._candidates.sort(key=_table_order)

    @property
    def entries(self) -> tuple[tuple[Route, V], ...]:
        """All routes in match order; a route with several hosts stands where its most specific one belongs."""
        return tuple((candidate.route, candidate.value) for candidate in self._candidates)

    def match(self, host: str, method: str, path: str, headers: HeaderLookup = no_headers) -> Match[V]:
        """Find the route of a request.

        Args:
            host: the `Host` field or the authority, with or without port.
            method: case-sensitive (RFC 9110 section 9.1).
            path: as `paths.canonical` gives it.
            headers: asked only for fields that routes have conditions on.

        Raises:
            NotFound: no route has this host, path and these header fields.
            MethodNotAllowed: some have, for other methods.
        """
        segments = path.split("/")
        # The best leaf of the best host nearly always is it; the rest of the table is asked only when it is not.
        root = (self._exact.get(host) or next(self._roots(host))) if self._names_hosts else self._any
        leaf = root.first_leaf(segments)
        if leaf is not None:
            for candidate in leaf.by_method.get(method, leaf.others):
                if not candidate.headers or candidate.accepts(headers):
                    return candidate.match(segments)
        return self._match_anywhere(host, method, segments, headers)

    def allowed_methods(self, host: str, path: str, headers: HeaderLookup = no_headers) -> tuple[str, ...]:
        """The methods that a path accepts, for answers to OPTIONS: in match order, with HEAD where GET is, and OPTIONS itself.

        Raises:
            NotFound: no route has this host and path.
        """
        segments = path.split("/")
        return _allowed([leaf for root in self._roots(host) for leaf in root.leaves(segments)], headers)

    def explain(self, host: str, method: str, path: str, headers: HeaderLookup = no_headers) -> tuple[Explanation, ...]:
        """For every route, in match order, why the request does or doesn't belong to it."""
        try:
            chosen = self.match(host, method, path, headers).route
        except (NotFound, MethodNotAllowed):
            chosen = None
        explanations = []
        for candidate in self._candidates:
            if candidate.route is chosen:
                explanations.append(Explanation(candidate.route, True, ""))
                continue
            reason = _difference(candidate, hostname(host), method, path.split("/"), headers)
            first = f"matches as well, but route {chosen.name!r} is more specific or was declared first" if chosen else ""
            explanations.append(Explanation(candidate.route, False, reason or first))
        return tuple(explanations)

    def _match_anywhere(self, host: str, method: str, segments: list[str], headers: HeaderLookup) -> Match[V]:
        reached = []
        for root in self._roots(host) if self._names_hosts else (self._any,):
            for leaf in root.leaves(segments):
                for candidate in leaf.by_method.get(method, leaf.others):
                    if candidate.accepts(headers):
                        return candidate.match(segments)
                reached.append(leaf)
        raise MethodNotAllowed(_allowed(reached, headers))

    def _roots(self, authority: str) -> Iterator[_Node[V]]:
        host = hostname(authority)
        exact = self._exact.get(host)
        if exact is not None:
            yield exact
        if self._wildcard and len(host) <= _MAX_HOST_CHARACTERS:
            # Something must stand before the dot: `.example.gov` is no subdomain.
            dot = host.find(".", 1)
            while dot != -1:
                wildcard = self._wildcard.get(host[dot:])
                if wildcard is not None:
                    yield wildcard
                dot = host.find(".", dot + 1)
        yield self._any

    def _roots_of(self, route: Route) -> list[_Node[V]]:
        if not route.hosts:
            return [self._any]
        return [self._root_of(host, route) for host in sorted({host.lower().removesuffix(".") for host in route.hosts})]

    def _root_of(self, host: str, route: Route) -> _Node[V]:
        if not _HOST.fullmatch(host):
            raise ConfigError(
                f"{_where(route)}: route {route.name!r} has the host {host!r}; allowed: a name such as api.example.gov, "
                "*.example.gov, or an address, without port (internationalised names in their xn-- form)"
            )
        if host.startswith("*"):
            return self._wildcard.setdefault(host[1:], _Node())
        return self._exact.setdefault(host, _Node())


def _where(route: Route) -> str:
    return route.line or "routes"


def _candidate(route: Route, value: V, order: int) -> _Candidate[V]:
    template = parse_route(route)
    # A split path starts with the empty piece before its first slash.
    numbered = list(enumerate(template.segments, start=1))
    bindings = tuple((each.text, index, _CONVERT[each.kind]) for index, each in numbered if each.kind not in ("literal", "tail"))
    tail = next(((each.text, index) for index, each in numbered if each.kind == "tail"), None)
    fixed = Match(value, route, _NO_PARAMS) if not bindings and tail is None else None
    headers = tuple(sorted((name.lower(), expected) for name, expected in route.headers.items()))
    return _Candidate(route, value, template, order, headers, bindings, tail, fixed)


def _refuse_same_names(candidates: list[_Candidate[V]]) -> None:
    seen: dict[str, Route] = {}
    for candidate in candidates:
        route = candidate.route
        if route.name in seen:
            first = seen[route.name]
            raise ConfigError(f"{_where(route)}: the route name {route.name!r} is already used at {_where(first)}; names are unique")
        seen[route.name] = route


def _refuse_conflict(one: _Candidate[V], two: _Candidate[V]) -> None:
    if one.headers != two.headers:
        return
    if one.route.methods and two.route.methods:
        shared = sorted(set(one.route.methods) & set(two.route.methods))
    else:
        shared = [] if one.route.methods or two.route.methods else ["every method"]
    if shared:
        raise ConfigError(
            f"{_where(two.route)}: route {two.route.name!r} ({two.route.path}) matches the same requests as route {one.route.name!r} "
            f"({one.route.path}) at {_where(one.route)}: same host, path, header conditions, and {', '.join(shared)}"
        )


def _table_order(candidate: _Candidate[V]) -> tuple[object, ...]:
    route = candidate.route
    path = tuple((_RANKS[each.kind], each.text if each.kind == "literal" else "") for each in candidate.template.segments)
    return _host_order(route), path, -len(candidate.headers), not route.methods, candidate.order


def _host_order(route: Route) -> tuple[int, int]:
    orders = [(1, -len(host)) if host.startswith("*") else (0, 0) for host in route.hosts]
    return min(orders, default=(2, 0))


def _methods(candidates: list[_Candidate[V]]) -> tuple[str, ...]:
    # A dict keeps the first of equals, in order.
    return tuple(dict.fromkeys(method for each in candidates for method in each.methods()))


def _allowed(leaves: list[_Leaf[V]], headers: HeaderLookup) -> tuple[str, ...]:
    methods = dict.fromkeys(method for leaf in leaves for method in leaf.allowed(headers))
    if not methods:
        raise NotFound
    # OPTIONS is answered from this table where no route takes it.
    return (*methods, "OPTIONS") if "OPTIONS" not in methods else tuple(methods)


def _difference(candidate: _Candidate[V], host: str, method: str, segments: list[str], headers: HeaderLookup) -> str:
    route = candidate.route
    if route.hosts and not any(_host_matches(pattern, host) for pattern in route.hosts):
        return f"host {host!r} is not among {', '.join(route.hosts)}"
    path = _path_difference(candidate.template, segments)
    if path:
        return path
    for name, expected in candidate.headers:
        if headers(name) != expected:
            return f"header field {name} is not {expected!r}"
    if candidate.method_rank(method) is None:
        return f"method {method} is not among {', '.join(candidate.methods())}"
    return ""


def _host_matches(pattern: str, host: str) -> bool:
    pattern = pattern.lower().removesuffix(".")
    return host == pattern or (pattern.startswith("*") and host.endswith(pattern[1:]) and len(host) >= len(pattern))


def _path_difference(template: Template, segments: list[str]) -> str:
    parts = segments[1:]
    for position, segment in enumerate(template.segments):
        if segment.kind == "tail":
            ends = position < len(parts) or template.mounted
            return "" if ends else f"the path ends before segment {position + 1}"
        if position >= len(parts):
            return f"the path ends before segment {position + 1}"
        part = parts[position]
        if segment.kind == "literal" and part != segment.text:
            return f"path segment {position + 1} is not {segment.text!r}"
        if segment.kind != "literal" and not _ACCEPTS[segment.kind](part):
            return f"path segment {position + 1} is not {_EXPECTED[segment.kind]}"
    return "" if len(parts) == len(template.segments) else f"the path goes on after segment {len(template.segments)}"
