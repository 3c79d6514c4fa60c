"""Path templates: what they mean, and what is refused at start."""

from __future__ import annotations

import pytest

from gateway.errors import ConfigError
from gateway.route import ASGIApp, Local, Route
from gateway.template import Segment, parse, parse_route


async def application(scope: object, receive: object, send: object) -> None:
    """Stands for a mounted app; it is never called."""


APP: ASGIApp = application


def test_every_kind_of_segment() -> None:
    """CONTRACT 2: `{name}`, `{name:int}`, `{name:uuid}` and `{rest:path}`."""
    template = parse("/a/{b}/{c:int}/{d:uuid}/{e:path}")
    assert template.segments == (
        Segment("literal", "a"),
        Segment("any", "b"),
        Segment("int", "c"),
        Segment("uuid", "d"),
        Segment("tail", "e"),
    )
    assert template.parameters == ("b", "c", "d", "e")


@pytest.mark.parametrize("path", ["/caf%C3%A9/%61", "/café/a"])
def test_literals_are_kept_decoded(path: str) -> None:
    """S-9: a route matches every spelling of its path."""
    assert parse(path).segments == (Segment("literal", "café"), Segment("literal", "a"))


def test_the_root_and_a_trailing_slash_are_an_empty_last_segment() -> None:
    assert parse("/").segments == (Segment("literal", ""),)
    assert parse("/a/").segments == (Segment("literal", "a"), Segment("literal", ""))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "must start with a slash"),
        ("patients", "must start with a slash"),
        ("/a//b", "empty segment"),
        ("//", "empty segment"),
        ("/a/../b", "dot segment"),
        ("/a/%2e%2e", "dot segment"),
        ("/a%2fb", "encoded slash"),
        ("/a;b", "semicolon"),
        ("/a b", "percent-encoded"),
        ("/a%zz", "percent-encoding"),
        ("/a?b", "without query"),
        ("/a#b", "without query"),
        ("/{a:float}", "unknown parameter type 'float'"),
        ("/{a}.json", "fills a whole segment"),
        ("/{a}{b}", "fills a whole segment"),
        ("/{}", "fills a whole segment"),
        ("/{1a}", "fills a whole segment"),
        ("/{a", "fills a whole segment"),
        ("/{a:path}/b", "before its end"),
        ("/{a}/{a}", "'a' twice"),
        ("/{a}/{a:path}", "'a' twice"),
        ("/\ud800", "not valid Unicode"),
    ],
)
def test_an_unusable_template_is_refused(path: str, message: str) -> None:
    """CONTRACT 3: the message says which value, where, and what is allowed."""
    with pytest.raises(ConfigError, match=message) as problem:
        parse(path, "gateway.yaml:12")
    assert str(problem.value).startswith(f"gateway.yaml:12: path {path!r}")


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs/{path:path}"])
def test_a_mount_takes_everything_below_and_the_bare_path(path: str) -> None:
    """A mount matches the same however its path ends."""
    template = parse_route(Route(name="docs", path=path, target=Local(APP, mounted=True)))
    assert template.segments == (Segment("literal", "docs"), Segment("tail", "path"))
    assert template.mounted


def test_a_mount_at_the_root_takes_everything() -> None:
    assert parse_route(Route(name="all", path="/", target=Local(APP, mounted=True))).segments == (Segment("tail", "path"),)


def test_a_mount_below_a_parameter_named_path_needs_a_name_for_its_tail() -> None:
    with pytest.raises(ConfigError, match="'path' twice"):
        parse_route(Route(name="all", path="/{path}", target=Local(APP, mounted=True)))


def test_an_unmounted_application_is_a_route_like_others() -> None:
    template = parse_route(Route(name="docs", path="/docs", target=Local(APP)))
    assert template == parse("/docs")
