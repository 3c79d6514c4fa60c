"""Upstream paths: templates and prefixes, with parameters in the spelling in which they came."""

from __future__ import annotations

import pytest

from gateway.errors import ConfigError, MalformedMessage
from gateway.paths import canonical
from gateway.rewrite import compile_rewrite, keep
from gateway.route import Route


def route(path: str, *, rewrite: str = "", strip_prefix: str = "", add_prefix: str = "") -> Route:
    return Route(name="r", path=path, target="s", rewrite=rewrite, strip_prefix=strip_prefix, add_prefix=add_prefix, line="gateway.yaml:7")


def test_a_route_without_rewrite_keeps_the_path() -> None:
    """S-8: same bytes upstream."""
    assert compile_rewrite(route("/a")) is keep
    assert keep(b"/a%41") == b"/a%41"


@pytest.mark.parametrize(
    ("path", "rewrite", "asked", "sent"),
    [
        ("/patients/{id}", "/v1/patients/{id}", b"/patients/12", b"/v1/patients/12"),
        ("/patients/{id}", "/v1/patients/{id}/", b"/patients/12", b"/v1/patients/12/"),
        ("/p/{id}", "/x/{id}", b"/p/M%c3%bcller%41", b"/x/M%c3%bcller%41"),
        ("/p/{id}", "/x/{id}.json", b"/%70/7", b"/x/7.json"),
        ("/{a}/{b}", "/{b}/{a}/{b}", b"/1/2", b"/2/1/2"),
        ("/{a}/{b}", "/{b}-{a}", b"/1/2", b"/2-1"),
        ("/f/{rest:path}", "/files/{rest}", b"/f/a/b%20c/d", b"/files/a/b%20c/d"),
        ("/f/{rest:path}", "/files/{rest}", b"/f/", b"/files/"),
        ("/{t:int}/f/{rest:path}", "/{rest}/{t}", b"/9/f/a/b", b"/a/b/9"),
        ("/old", "/new", b"/old", b"/new"),
        ("/old", "/", b"/%6fld", b"/"),
    ],
)
def test_a_template_places_parameters_as_they_came(path: str, rewrite: str, asked: bytes, sent: bytes) -> None:
    """S-8: values aren't decoded and encoded again."""
    assert compile_rewrite(route(path, rewrite=rewrite))(asked) == sent


@pytest.mark.parametrize(
    ("path", "strip", "add", "asked", "sent"),
    [
        ("/api/{rest:path}", "/api", "", b"/api/a/b", b"/a/b"),
        ("/api/{rest:path}", "/api", "", b"/%61pi/a%20b", b"/a%20b"),
        ("/api/{rest:path}", "/api/", "", b"/api/", b"/"),
        ("/api", "/api", "", b"/api", b"/"),
        ("/api/v1/{id}", "/api/v1", "/patients", b"/api/v1/7", b"/patients/7"),
        ("/a/{id}", "", "/v2", b"/a/7", b"/v2/a/7"),
        ("/a/{id}", "", "/v2/", b"/a/7", b"/v2/a/7"),
        ("/t/{tenant}/a", "/t/{tenant}", "", b"/t/9/a", b"/a"),
        ("/a", "/", "/v2", b"/a", b"/v2/a"),
    ],
)
def test_prefixes_are_stripped_and_added_by_segments(path: str, strip: str, add: str, asked: bytes, sent: bytes) -> None:
    """S-9: the prefix is stripped in every spelling that the route matches."""
    assert compile_rewrite(route(path, strip_prefix=strip, add_prefix=add))(asked) == sent


def test_an_empty_tail_may_not_leave_an_empty_segment() -> None:
    """S-9a: the result of a rewrite passes the path policy again."""
    with pytest.raises(MalformedMessage) as refusal:
        compile_rewrite(route("/f/{rest:path}", rewrite="/{rest}/x"))(b"/f/")
    assert refusal.value.reason == "path_empty_segment"


def test_parts_that_pass_alone_are_refused_together() -> None:
    """S-9a: `a%25` and `41` are fine apart; joined they are double-encoded."""
    asked = b"/a%25/x/41"
    assert canonical(asked) == "/a%/x/41"
    with pytest.raises(MalformedMessage) as refusal:
        compile_rewrite(route("/{a}/x/{b}", rewrite="/{a}{b}"))(asked)
    assert refusal.value.reason == "path_double_encoding"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (route("/{id}", rewrite="/{ID}"), r"uses \{ID\}; parameters: id"),
        (route("/a", rewrite="/{id}"), "none, the path has no parameters"),
        (route("/{id}", rewrite="/{id:int}"), r"uses \{id:int\}"),
        (route("/{id}", rewrite="/{id"), "brace"),
        (route("/{id}", rewrite="{id}"), "not a path"),
        (route("/{id}", rewrite="v1/{id}"), "not a path"),
        (route("/{id}", rewrite="/v1//{id}"), "empty segment"),
        (route("/{id}", rewrite="/../{id}"), "dot segment"),
        (route("/{id}", rewrite="/a?b={id}"), "percent-encoded"),
        (route("/{id}", rewrite="/é/{id}"), "percent-encoded"),
        (route("/a", rewrite="/b", add_prefix="/c"), "excludes"),
        (route("/a", rewrite="/b", strip_prefix="/a"), "excludes"),
        (route("/a/b", strip_prefix="a"), "start with a slash"),
        (route("/a/b", add_prefix="v1"), "start with a slash"),
        (route("/a/b", strip_prefix="/b"), "segment by segment"),
        (route("/ab", strip_prefix="/a"), "segment by segment"),
        (route("/a", add_prefix="/v1/../x"), "dot segment"),
    ],
)
def test_an_unusable_rewrite_is_refused_at_start(declared: Route, message: str) -> None:
    """CONTRACT 3: a rewrite that can't work is found before the first request."""
    with pytest.raises(ConfigError, match=message) as problem:
        compile_rewrite(declared)
    assert str(problem.value).startswith("gateway.yaml:7: route 'r'")
