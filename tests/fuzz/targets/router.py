"""The route table against a scan of all routes (SPEC F-7; S-9a, S-9b, S-21)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from gateway.errors import ConfigError, MalformedMessage, MethodNotAllowed, NotFound
from gateway.paths import canonical
from gateway.rewrite import Rewrite, compile_rewrite
from gateway.route import Local, Route
from gateway.router import Router, hostname
from tests.fuzz.target import Target
from tests.support.route_scan import scan, scan_method

_MAX_ROUTES, _MAX_QUESTIONS = 8, 12
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
#: The file and the decorators take no other methods.
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")


async def _application(scope: object, receive: object, send: object) -> None:
    """Stands for a mounted application; it is never called."""


@dataclass
class _Question:
    method: str
    host: str
    path: bytes
    headers: dict[str, str]


def check(data: bytes) -> None:
    """Lines of `route METHODS HOSTS PATH FIELDS REWRITE` (or `mount ...`) and `ask METHOD HOST PATH FIELDS`; `-` is none.

    The table finds the route that the documented precedence finds in a scan, says so in `explain`, allows the methods of all routes that
    fit, and a rewritten path is canonical again.
    """
    routes, questions = _read(data)
    accepted: list[Route] = []
    router: Router[Rewrite] = Router([])
    compiled: list[tuple[Route, Rewrite]] = []
    for declared in routes:
        try:
            rows = [*compiled, (declared, compile_rewrite(declared))]
            router = Router(rows)
        except ConfigError as error:
            assert not _CONTROL.search(str(error)), error
            continue
        accepted.append(declared)
        compiled = rows
    assert [route for route, _ in router.entries] == sorted(accepted, key=[route for route, _ in router.entries].index)
    for question in questions:
        _check_answer(router, accepted, question)


def _check_answer(router: Router[Rewrite], routes: list[Route], question: _Question) -> None:
    try:
        path = canonical(question.path)
    except MalformedMessage:
        return
    host = hostname(question.host)
    expected = scan(routes, host, question.method, path, question.headers)
    found: Route | bool | None
    try:
        match = router.match(question.host, question.method, path, question.headers.get)
        found = match.route
        _check_rewrite(match.value, question.path)
    except NotFound:
        found = None
    except MethodNotAllowed:
        found = False
    assert found is expected, (question, found, expected)
    chosen = [each.route for each in router.explain(question.host, question.method, path, question.headers.get) if each.chosen]
    assert chosen == ([expected] if isinstance(expected, Route) else [])
    _check_allowed(router, routes, question, path)


def _check_rewrite(rewrite: Rewrite, path: bytes) -> None:
    try:
        rewritten = rewrite(path)
    except MalformedMessage:
        return
    canonical(rewritten)


def _check_allowed(router: Router[Rewrite], routes: list[Route], question: _Question, path: str) -> None:
    """A method is allowed exactly when a request with it has a route."""
    fits = partial(scan, routes, hostname(question.host), path=path, headers=question.headers)
    try:
        allowed = router.allowed_methods(question.host, path, question.headers.get)
    except NotFound:
        assert fits(method="GET") is None
        return
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        assert (method in allowed) == isinstance(fits(method=method), Route), (question, allowed)
    named = {method for route in routes for method in route.methods}
    assert set(allowed) - {"OPTIONS"} <= named | {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
    assert all(scan_method(route, method) is not None for method in allowed for route in routes if method in route.methods)


def _read(data: bytes) -> tuple[list[Route], list[_Question]]:
    routes: list[Route] = []
    questions: list[_Question] = []
    for line in data.decode("utf-8", "replace").split("\n"):
        kind, *words = line.split(" ")
        if kind in ("route", "mount") and len(words) >= 4 and len(routes) < _MAX_ROUTES:
            routes.append(_route(str(len(routes)), words, mounted=kind == "mount"))
        elif kind == "ask" and len(words) >= 3 and len(questions) < _MAX_QUESTIONS:
            method, host, path, *rest = words
            # A real Host field passed `is_authority`; longer ones than any name match no wildcard.
            if host.isascii() and len(host) < 254 and path.isascii():
                questions.append(_Question(method, host, path.encode("ascii"), _fields(rest[0] if rest else "-")))
    return routes, questions


def _route(name: str, words: list[str], *, mounted: bool) -> Route:
    methods, hosts, path, fields, *rest = words
    return Route(
        name=name,
        path=path,
        target=Local(_application, mounted=mounted),
        methods=tuple(filter(_METHOD.fullmatch, _words(methods))),
        hosts=tuple(host.lower().removesuffix(".") for host in _words(hosts)),
        headers=_fields(fields),
        rewrite=rest[0] if rest and rest[0] != "-" else "",
        line=f"line:{name}",
    )


def _words(text: str) -> tuple[str, ...]:
    return () if text == "-" else tuple(dict.fromkeys(filter(None, text.split(","))))


def _fields(text: str) -> dict[str, str]:
    return {name.lower(): value for name, _, value in (word.partition("=") for word in _words(text)) if name}


TARGET = Target(
    "router",
    check,
    ("gateway.router", "gateway.template", "gateway.rewrite"),
    (ConfigError, NotFound, MethodNotAllowed, MalformedMessage),
    (
        b"\nroute ",
        b"\nmount ",
        b"\nask ",
        b"GET",
        b"HEAD",
        b"POST",
        b"OPTIONS",
        b"*.h.gov",
        b"h.gov",
        b"{x}",
        b"{n:int}",
        b"{v:uuid}",
        b"/{t:path}",
        b" - ",
        b"x=1",
    ),
)
