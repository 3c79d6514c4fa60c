"""Whether two templates can match the same path, held against the router itself."""

from itertools import combinations_with_replacement, product

import pytest

from gateway.errors import NotFound
from gateway.route import ASGIApp, Local, Route
from gateway.router import Router, no_headers
from gateway.template import Template, overlap, parse, parse_route

VISIT = "0aa7c2ee-9b0c-4a6f-8f3e-0d2b6f6f2f10"
WORDS = ("a", "7", VISIT)
HEADS = ("a", "7", VISIT, "{x}", "{x:int}", "{x:uuid}")
TEMPLATES = [f"/{head}{end}" for head in HEADS for end in ("", "/", "/a", "/{y}", "/{y:int}/b", "/{rest:path}")] + ["/", "/{rest:path}"]
PATHS = ["/", *(f"/{word}{end}" for word, end in product(WORDS, ("", "/", "/a", "/7", "/a/b", "/7/b", f"/{VISIT}")))]


async def application(scope: object, receive: object, send: object) -> None:
    """Stands for a mounted app; it is never called."""


APP: ASGIApp = application


def matched(route: Route) -> frozenset[str]:
    """The paths that a route matches by itself."""
    router = Router([(route, None)])

    def matches(path: str) -> bool:
        try:
            router.match("h", "GET", path, no_headers)
        except NotFound:
            return False
        return True

    return frozenset(filter(matches, PATHS))


def test_what_matches_one_path_overlaps() -> None:
    """D10: a published route that does not overlap takes nothing from those of the file."""
    paths = {template: matched(Route(name="r", path=template, target="s")) for template in TEMPLATES}
    for one, other in combinations_with_replacement(TEMPLATES, 2):
        if paths[one] & paths[other]:
            assert overlap(parse(one), parse(other)), (one, other)
            assert overlap(parse(other), parse(one)), (other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a", "/b"),
        ("/a", "/a/"),
        ("/a", "/a/{x}"),
        ("/a", "/a/{rest:path}"),
        ("/a/{x}", "/b/{x}"),
        ("/a/{x}/c", "/a/{x}/d"),
        ("/a/{x}", "/a/"),
        ("/a/{n:int}", "/a/b"),
        ("/", "/{x}"),
    ],
)
def test_what_can_not_match_the_same_path_does_not(one: str, other: str) -> None:
    """D10: or nothing could be published beside anything."""
    assert not overlap(parse(one), parse(other))
    assert not overlap(parse(other), parse(one))


def mount(path: str) -> Template:
    return parse_route(Route(name="m", path=path, target=Local(APP, mounted=True)))


@pytest.mark.parametrize(("path", "expected"), [("/docs", True), ("/docs/", True), ("/docs/a/b", True), ("/doc", False), ("/", False)])
def test_a_mount_holds_everything_below_it_and_its_bare_path(path: str, expected: bool) -> None:
    """D10."""
    assert overlap(mount("/docs"), parse(path)) is expected
