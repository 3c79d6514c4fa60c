"""The route table: precedence, parameters, refusals; and a property that holds it against a plain scan."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError, MethodNotAllowed, NotFound
from gateway.route import ASGIApp, Local, Route
from gateway.router import Match, Router, hostname, no_headers
from tests.support.route_scan import scan

VISIT = "0B9D8E5C-31f4-4b6e-9a53-6f2f0c6a9f11"


async def application(scope: object, receive: object, send: object) -> None:
    """Stands for a mounted app; it is never called."""


APP: ASGIApp = application


def route(
    path: str,
    methods: str = "",
    *,
    name: str = "",
    hosts: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
    mounted: bool = False,
) -> Route:
    return Route(
        name=name or f"{methods} {path} {hosts} {headers}",
        path=path,
        target=Local(APP, mounted=True) if mounted else "service",
        methods=tuple(methods.split()),
        hosts=hosts,
        headers=headers or {},
        line=f"gateway.yaml:{name}",
    )


def table(*routes: Route) -> Router[str]:
    return Router([(each, each.name) for each in routes])


def fields(**values: str) -> Callable[[str], str | None]:
    return values.get


def winner(router: Router[str], path: str, method: str = "GET", host: str = "h", headers: Mapping[str, str] | None = None) -> str:
    return router.match(host, method, path, (headers or {}).get).value


# Paths and parameters


def test_a_match_carries_value_route_and_parameters() -> None:
    declared = route("/patients/{id}/beds/{bed:int}/visits/{visit:uuid}/{rest:path}", "GET")
    value = object()
    match = Router([(declared, value)]).match("h", "GET", f"/patients/Müller A/beds/007/visits/{VISIT}/a/b", no_headers)
    assert match == Match(value, declared, {"id": "Müller A", "bed": 7, "visit": VISIT.lower(), "rest": "a/b"})


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/patients", "/patients/"),
        ("/patients/", "/patients"),
        ("/patients/{id}", "/patients"),
        ("/patients/{id}", "/patients/"),
        ("/patients/{id}", "/patients/1/"),
        ("/patients/{id}", "/patients/1/2"),
        ("/patients/{id}", "/Patients/1"),
        ("/records/{rest:path}", "/records"),
        ("/beds/{n:int}", "/beds/x"),
        ("/beds/{n:int}", "/beds/-1"),
        ("/beds/{n:int}", "/beds/+1"),
        ("/beds/{n:int}", "/beds/1_000"),
        ("/beds/{n:int}", "/beds/1 "),
        ("/beds/{n:int}", "/beds/1\n"),
        ("/beds/{n:int}", "/beds/\N{ARABIC-INDIC DIGIT ONE}"),
        ("/beds/{n:int}", "/beds/" + "1" * 19),
        ("/visits/{v:uuid}", "/visits/0b9d8e5c31f44b6e9a536f2f0c6a9f11"),
        ("/visits/{v:uuid}", "/visits/" + VISIT + "0"),
        ("/", "/a"),
        ("/a", "/"),
    ],
)
def test_another_path_is_not_found(template: str, path: str) -> None:
    """A trailing slash is part of the path, parameters fill whole segments, and types are strict."""
    with pytest.raises(NotFound):
        table(route(template)).match("h", "GET", path)


def test_a_tail_may_be_empty_after_its_slash() -> None:
    assert table(route("/records/{rest:path}")).match("h", "GET", "/records/").params == {"rest": ""}


@pytest.mark.parametrize(("path", "rest"), [("/docs", ""), ("/docs/", ""), ("/docs/a", "a"), ("/docs/a/b", "a/b")])
def test_a_mount_takes_its_bare_path_and_everything_below(path: str, rest: str) -> None:
    assert table(route("/docs", mounted=True)).match("h", "GET", path).params == {"path": rest}


def test_a_route_beats_the_mount_around_it() -> None:
    router = table(route("/docs", mounted=True, name="mount"), route("/docs", name="exact"), route("/docs/{page}", name="page"))
    assert [winner(router, path) for path in ("/docs", "/docs/a", "/docs/a/b", "/docs/")] == ["exact", "page", "mount", "mount"]


# Precedence


def test_segments_are_compared_from_the_left() -> None:
    router = table(
        route("/{rest:path}", name="tail"),
        route("/{a}/{b}", name="any-any"),
        route("/{a}/x", name="any-literal"),
        route("/{n:int}/{b}", name="int-any"),
        route("/{v:uuid}/{b}", name="uuid-any"),
        route("/a/{b}", name="literal-any"),
        route("/a/x", name="literal-literal"),
    )
    expected = {
        "/a/x": "literal-literal",
        "/a/y": "literal-any",
        f"/{VISIT}/x": "uuid-any",
        "/7/x": "int-any",
        "/b/x": "any-literal",
        "/b/y": "any-any",
        "/b/y/z": "tail",
        "/a": "tail",
    }
    assert {path: winner(router, path) for path in expected} == expected


def test_a_promising_way_that_ends_nowhere_is_left_again() -> None:
    router = table(route("/a/{x}/c", name="short"), route("/{x}/b/d", name="long"), route("/{n:int}/b/e", name="number"))
    assert winner(router, "/a/b/d") == "long"
    assert winner(router, "/7/b/d") == "long"
    assert winner(router, "/7/b/e") == "number"


def test_a_method_that_the_best_path_lacks_is_looked_for_further_on() -> None:
    router = table(route("/patients/me", "GET", name="me"), route("/patients/{id}", "GET DELETE", name="one"))
    assert winner(router, "/patients/me") == "me"
    assert winner(router, "/patients/me", "DELETE") == "one"


def test_more_header_conditions_come_first() -> None:
    router = table(
        route("/a", name="plain"),
        route("/a", name="one", headers={"X-Api-Version": "2"}),
        route("/a", name="two", headers={"x-api-version": "2", "x-tenant": "t"}),
    )
    assert winner(router, "/a") == "plain"
    assert winner(router, "/a", headers={"x-api-version": "1"}) == "plain"
    assert winner(router, "/a", headers={"x-api-version": "2"}) == "one"
    assert winner(router, "/a", headers={"x-api-version": "2", "x-tenant": "t"}) == "two"


def test_a_path_whose_header_conditions_do_not_hold_is_not_found() -> None:
    router = table(route("/a", "GET", headers={"x-api-version": "2"}))
    with pytest.raises(NotFound):
        router.match("h", "POST", "/a")
    with pytest.raises(MethodNotAllowed):
        router.match("h", "POST", "/a", {"x-api-version": "2"}.get)


def test_a_named_method_beats_head_through_get_and_that_beats_every_method() -> None:
    router = table(route("/a", name="every"), route("/a", "GET", name="get"))
    assert [winner(router, "/a", method) for method in ("GET", "HEAD", "PATCH", "FOO")] == ["get", "get", "every", "every"]
    router = table(route("/a", "GET", name="get"), route("/a", "HEAD", name="head"))
    assert winner(router, "/a", "HEAD") == "head"


def test_with_equal_conditions_the_first_declared_is_taken() -> None:
    router = table(route("/a", name="first", headers={"x": "1"}), route("/a", name="second", headers={"y": "1"}))
    assert winner(router, "/a", headers={"x": "1", "y": "1"}) == "first"


# Hosts


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("Api.Example.GOV:8443", "api.example.gov"),
        ("api.example.gov.", "api.example.gov"),
        ("api.example.gov.:80", "api.example.gov"),
        ("[2001:DB8::1]:80", "[2001:db8::1]"),
        ("[::1]", "[::1]"),
        ("", ""),
        ("[::1", ""),
    ],
)
def test_a_host_is_compared_without_case_port_and_trailing_dot(authority: str, host: str) -> None:
    """S-9b: one spelling of a host."""
    assert hostname(authority) == host


@pytest.mark.parametrize("padding", [0, 300])
def test_hosts_are_matched_alike_in_small_and_large_tables(padding: int) -> None:
    """S-9b: case-insensitive, whatever the size of the table."""
    router = table(
        route("/a", name="any"),
        route("/a", name="wide", hosts=("*.example.gov",)),
        route("/a", name="narrow", hosts=("*.api.example.gov",)),
        route("/a", name="exact", hosts=("V1.api.example.gov", "[::1]")),
        *(route(f"/padding/{number}", hosts=(f"h{number}.example.gov",)) for number in range(padding)),
    )
    expected = {
        "v1.API.example.gov:8443": "exact",
        "v1.api.example.gov.": "exact",
        "[::1]:8080": "exact",
        "v2.api.example.gov": "narrow",
        "x.v1.api.example.gov": "narrow",
        "api.example.gov": "wide",
        "API.EXAMPLE.GOV": "wide",
        "example.gov": "any",
        ".example.gov": "any",
        "badexample.gov": "any",
        "": "any",
        "a" * 300 + ".example.gov": "any",
    }
    assert {host: winner(router, "/a", host=host) for host in expected} == expected


def test_a_path_that_a_host_lacks_is_looked_for_under_wider_hosts() -> None:
    router = table(route("/a", hosts=("api.example.gov",)), route("/b", name="b", hosts=("*.example.gov",)), route("/c", name="c"))
    assert winner(router, "/b", host="api.example.gov") == "b"
    assert winner(router, "/c", host="api.example.gov") == "c"


@pytest.mark.parametrize(
    "host", ["", "*", "*example.gov", "a.*.gov", "api.example.gov:443", "https://a", "a b", "münchen.de", "a..b", "-a"]
)
def test_an_unusable_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="has the host"):
        table(route("/a", hosts=(host,)))


# Refusals and answers to OPTIONS


def test_a_method_not_allowed_names_those_that_are() -> None:
    """CONTRACT 5: `Allow` on a 405, with HEAD where GET is, and OPTIONS, which the gateway answers itself."""
    router = table(route("/a/{x}", "DELETE", name="1"), route("/a/b", "GET POST", name="2"), route("/{rest:path}", "POST PUT", name="3"))
    with pytest.raises(MethodNotAllowed) as refusal:
        router.match("h", "PATCH", "/a/b")
    assert refusal.value.allow == ("GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS")
    assert refusal.value.headers == [(b"allow", b"GET, HEAD, POST, DELETE, PUT, OPTIONS")]
    assert router.allowed_methods("h", "/a/b") == refusal.value.allow


def test_methods_are_compared_with_case() -> None:
    """S-21: `get` is no GET."""
    with pytest.raises(MethodNotAllowed):
        table(route("/a", "GET")).match("h", "get", "/a")


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_every_method_does_not_mean_connect_and_trace(method: str) -> None:
    """H5: both are refused."""
    with pytest.raises(MethodNotAllowed) as refusal:
        table(route("/a")).match("h", method, "/a")
    assert refusal.value.allow == ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def test_allowed_methods_respect_header_conditions() -> None:
    router = table(route("/a", "GET", headers={"x": "1"}), route("/a", "POST"))
    assert router.allowed_methods("h", "/a") == ("POST", "OPTIONS")
    assert router.allowed_methods("h", "/a", fields(x="1")) == ("GET", "HEAD", "POST", "OPTIONS")


def test_allowed_methods_of_no_route_are_not_found() -> None:
    with pytest.raises(NotFound):
        table(route("/a")).allowed_methods("h", "/b")


def test_a_route_that_names_options_gets_them() -> None:
    router = table(route("/a", "OPTIONS GET", name="own"))
    assert winner(router, "/a", "OPTIONS") == "own"
    assert router.allowed_methods("h", "/a") == ("OPTIONS", "GET", "HEAD")


def test_an_empty_table_finds_nothing() -> None:
    with pytest.raises(NotFound):
        table().match("h", "GET", "/")


# Conflicts


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [
        (route("/a", "GET", name="1"), route("/a", "GET", name="2"), "GET"),
        (route("/a", "GET POST", name="1"), route("/a", "POST GET PUT", name="2"), "GET, POST"),
        (route("/a", name="1"), route("/a", name="2"), "every method"),
        (route("/{x}", "GET", name="1"), route("/{y}", "GET", name="2"), "GET"),
        (route("/a/{x:path}", "GET", name="1"), route("/a/{y:path}", "GET", name="2"), "GET"),
        (route("/a", mounted=True, name="1"), route("/a/{y:path}", name="2"), "every method"),
        (route("/café", name="1"), route("/caf%c3%a9", name="2"), "every method"),
        (route("/a", name="1", hosts=("h", "i")), route("/a", name="2", hosts=("I", "j")), "every method"),
        (route("/a", name="1", headers={"X": "1"}), route("/a", name="2", headers={"x": "1"}), "every method"),
    ],
)
def test_routes_that_match_the_same_requests_are_refused(one: Route, two: Route, shared: str) -> None:
    """The message names both declarations."""
    with pytest.raises(ConfigError, match=re.escape(shared)) as problem:
        table(one, two)
    assert str(problem.value).startswith("gateway.yaml:2: route '2'")
    assert "route '1'" in str(problem.value)
    assert "at gateway.yaml:1" in str(problem.value)


@pytest.mark.parametrize(
    "two",
    [
        route("/a", "POST"),
        route("/a/", "GET"),
        route("/{a}", "GET"),
        route("/a", ""),
        route("/a", "HEAD"),
        route("/a", "GET", hosts=("i",)),
        route("/a", "GET", headers={"x": "1"}),
    ],
)
def test_routes_that_can_be_told_apart_are_accepted(two: Route) -> None:
    table(route("/a", "GET", name="first"), two)


def test_a_name_is_used_once() -> None:
    with pytest.raises(ConfigError, match=r"name 'r' is already used at gateway\.yaml:r"):
        table(route("/a", name="r"), route("/b", name="r"))


def test_a_host_that_is_named_twice_is_one_host() -> None:
    assert winner(table(route("/a", name="r", hosts=("h", "H."))), "/a") == "r"


# Listing and explaining


def test_entries_stand_in_match_order() -> None:
    """CONTRACT 3: what `gateway routes` prints."""
    routes = [
        route("/{rest:path}", name="8"),
        route("/a", name="7"),
        route("/a", "GET", name="6"),
        route("/a", name="5", headers={"x": "1"}),
        route("/a", name="4", hosts=("*.gov",)),
        route("/a", name="3", hosts=("*.example.gov",)),
        route("/{x}", name="2", hosts=("example.gov",)),
        route("/a", name="1", hosts=("*.gov", "example.gov")),
    ]
    with pytest.raises(ConfigError):
        table(*routes)
    del routes[4]
    assert [value for _, value in table(*routes).entries] == ["1", "2", "3", "5", "6", "7", "8"]


def test_an_explanation_says_for_every_route_why() -> None:
    """CONTRACT 3: which route, and why not the others."""
    router = table(
        route("/a/{x}", "GET", name="chosen"),
        route("/{rest:path}", name="later"),
        route("/a/{x}", "POST", name="method"),
        route("/a/{x}/y", name="longer"),
        route("/a", name="shorter"),
        route("/a/{n:int}", name="number"),
        route("/b/{x}", name="literal"),
        route("/a/{x}", name="header", headers={"x": "1"}),
        route("/a/{x}", name="host", hosts=("other", "*.gov")),
    )
    reasons = {each.route.name: each.reason for each in router.explain("h:80", "GET", "/a/b")}
    assert reasons == {
        "chosen": "",
        "later": "matches as well, but route 'chosen' is more specific or was declared first",
        "method": "method GET is not among POST",
        "longer": "the path ends before segment 3",
        "shorter": "the path goes on after segment 1",
        "number": "path segment 2 is not an integer of at most 18 digits",
        "literal": "path segment 1 is not 'b'",
        "header": "header field x is not '1'",
        "host": "host 'h' is not among other, *.gov",
    }
    assert [each.route.name for each in router.explain("h", "GET", "/a/b") if each.chosen] == ["chosen"]


def test_an_explanation_of_a_request_without_route_chooses_none() -> None:
    router = table(route("/a", "GET"), route("/b"))
    assert not any(each.chosen for each in router.explain("h", "GET", "/c"))
    assert [each.reason for each in router.explain("h", "POST", "/a")] == [
        "method POST is not among GET, HEAD",
        "path segment 1 is not 'b'",
    ]


# The table against a scan of all routes that knows the documented rules and nothing of trees

SEGMENTS = ["a", "b", "{x}", "{n:int}", "{v:uuid}"]
HOSTS = ["h.gov", "*.gov", "*.h.gov"]
PIECES = ["a", "b", "7", VISIT, "c", ""]


@st.composite
def declarations(draw: st.DrawFn) -> Route:
    segments = draw(st.lists(st.sampled_from(SEGMENTS), max_size=3))
    names = iter("pqr")
    path = "".join("/" + re.sub(r"\{\w", lambda _: "{" + next(names), segment) for segment in segments)
    end = draw(st.sampled_from(["", "", "/", "/{t:path}"]))
    return Route(
        name=str(draw(st.integers(0, 10**9))),
        path=path + end or "/",
        target=Local(APP, mounted=draw(st.booleans())),
        methods=tuple(draw(st.lists(st.sampled_from(["GET", "POST", "HEAD"]), unique=True, max_size=2))),
        hosts=tuple(draw(st.lists(st.sampled_from(HOSTS), unique=True, max_size=2))),
        headers=dict.fromkeys(draw(st.lists(st.sampled_from(["x", "y"]), unique=True, max_size=2)), "1"),
    )


@given(
    st.lists(declarations(), min_size=1, max_size=12, unique_by=lambda declared: declared.name),
    st.lists(
        st.tuples(
            st.sampled_from(["h.gov", "x.h.gov", "i.gov", "other"]),
            st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
            st.lists(st.sampled_from(PIECES), min_size=1, max_size=4),
            st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"])),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_the_table_agrees_with_a_scan(routes: list[Route], requests: list[tuple[str, str, list[str], dict[str, str]]]) -> None:
    """The documented precedence, on tables and requests of all kinds."""
    accepted: list[Route] = []
    for declared in routes:
        try:
            table(*accepted, declared)
        except ConfigError:
            continue
        accepted.append(declared)
    router = table(*accepted)
    for host, method, pieces, headers in requests:
        path = "/" + "/".join(pieces)
        expected = scan(accepted, host, method, path, headers)
        try:
            result: Route | bool | None = router.match(host, method, path, headers.get).route
        except NotFound:
            result = None
        except MethodNotAllowed:
            result = False
        assert result == expected, (host, method, path, headers)
        chosen = [each.route for each in router.explain(host, method, path, headers.get) if each.chosen]
        assert chosen == ([expected] if isinstance(expected, Route) else [])
