"""What matching and the path policy cost: microseconds an operation, the best of several rounds.

Run: python -m benchmarks.micro.router
"""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterable

from gateway.cors import compile_cors
from gateway.errors import GatewayError
from gateway.paths import canonical, split_target
from gateway.rewrite import compile_rewrite
from gateway.route import Cors, Route
from gateway.router import Router

ROUNDS = 7
CALLS = 50_000
UUID = "0b9d8e5c-31f4-4b6e-9a53-6f2f0c6a9f11"


def routes(count: int, hosts: tuple[str, ...] = ()) -> Iterable[tuple[Route, int]]:
    """A table like that of a large installation: four kinds of path in equal parts."""
    for number in range(count // 4):
        for kind, path in enumerate(("", "/{id}", "/{id}/visits/{visit:uuid}", "/files/{rest:path}")):
            name = f"resource{number}"
            route = Route(name=f"{name}-{kind}", path=f"/{name}{path}", target=name, methods=("GET", "POST"), hosts=hosts)
            yield route, number


def microseconds(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def refused(call: Callable[[], object]) -> Callable[[], object]:
    """The call, with the refusal that it raises caught."""

    def run() -> object:
        try:
            return call()
        except GatewayError as exc:
            return exc

    return run


def report(title: str, call: Callable[[], object]) -> None:
    print(f"{title:<58}{microseconds(call):8.3f} us")


def match_rows(title: str, router: Router[int], host: str = "api.example.gov") -> None:
    report(f"{title}: literal", lambda: router.match(host, "GET", "/resource25"))
    report(f"{title}: one parameter", lambda: router.match(host, "GET", "/resource25/123"))
    report(f"{title}: two parameters, one a UUID", lambda: router.match(host, "GET", f"/resource25/123/visits/{UUID}"))
    report(f"{title}: tail of three segments", lambda: router.match(host, "GET", "/resource25/files/a/b/c"))
    report(f"{title}: 404", refused(lambda: router.match(host, "GET", "/nothing/123")))
    report(f"{title}: 405", refused(lambda: router.match(host, "DELETE", "/resource25/123")))


def main() -> None:
    report("canonical /patients/123", lambda: canonical(b"/patients/123"))
    report("canonical /r4/Patient/_search/page.json", lambda: canonical(b"/r4/Patient/_search/page.json"))
    report("canonical /names/M%C3%BCller%20A", lambda: canonical(b"/names/M%C3%BCller%20A"))
    report("canonical /a/%2e%2e/b (refused)", refused(lambda: canonical(b"/a/%2e%2e/b")))
    report("split_target without query", lambda: split_target(b"/patients/123", "GET"))
    report("split_target with query", lambda: split_target(b"/patients?name=x&page=2", "GET"))
    match_rows("200 routes", Router(routes(200)))
    match_rows("200 routes of one host", Router(routes(200, ("api.example.gov",))))
    match_rows("200 routes of one host, port given", Router(routes(200, ("api.example.gov",))), "api.example.gov:8443")
    match_rows("200 routes of a wildcard host", Router(routes(200, ("*.example.gov",))))
    template = compile_rewrite(Route(name="r", path="/patients/{id}", target="s", rewrite="/v1/patients/{id}"))
    prefix = compile_rewrite(Route(name="r", path="/api/{rest:path}", target="s", strip_prefix="/api"))
    report("rewrite /v1/patients/{id}", lambda: template(b"/patients/123"))
    report("strip_prefix /api", lambda: prefix(b"/api/patients/123"))
    cors = compile_cors(Cors(origins=("https://clinic.example.gov",)), ("GET",))
    report("cors lines for an allowed origin", lambda: cors.simple(b"https://clinic.example.gov"))


if __name__ == "__main__":
    main()
