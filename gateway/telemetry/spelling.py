"""Pure: what records of the same client on the same route have in common, spelled once.

Requests that share a head (see `gateway.head`) differ in time, ids, sizes and outcome. The rest of their records is the same text, which is
kept in the memo that they share.
"""

from __future__ import annotations

from typing import Any

from gateway.auth.principal import Principal
from gateway.route import Route
from gateway.telemetry.observation import Observation
from gateway.telemetry.record import MAXIMUM_TEXT, json_line

#: Key of a principal's spelling in its memo.
_PRINCIPAL = "telemetry.principal"


class Spelling:
    """The common part of the records of one client on one route, as JSON in ASCII.

    Attributes:
        route, principal, method: whose records these are; another one needs another spelling.
        who: members `source` and `principal` of an audit record, and of `request` what comes before the value of `path_params`.
        host: what comes after it, up to the value of `bytes`.
        access: members `client_ip` and `subject` of an access line.
        method_route: members `method` and `route` of an access line.
    """

    __slots__ = ("access", "host", "method", "method_route", "principal", "route", "who")

    def __init__(self, observation: Observation, route: Route) -> None:
        self.route = route
        self.principal = observation.principal
        self.method = observation.method
        source = source_of(observation)
        request = {"method": observation.method, "route": route.name, "path_template": route.path}
        principal = self.principal
        who = "null" if principal is None else principal_text(principal)
        self.who = f'"source":{_text(source)},"principal":{who},"request":{_text(request)[:-1]},"path_params":'
        self.host = f',{_text({"host": observation.host})[1:-1]},"bytes":'
        subject = None if principal is None else principal.subject
        self.access = _text({"client_ip": observation.client_ip, "subject": subject})[1:-1]
        self.method_route = _text({"method": observation.method, "route": route.path})[1:-1]


def source_of(observation: Observation) -> dict[str, Any]:
    """Member `source` of an audit record: where a request came from, with its certificate where the connection has one."""
    source: dict[str, Any] = {
        "ip": observation.client_ip,
        "port": observation.client_port,
        "peer_ip": observation.peer_ip,
        "user_agent": observation.user_agent[:MAXIMUM_TEXT],
    }
    if observation.certificate is not None:
        source["certificate"] = observation.certificate.facts
    return source


def spelling_of(observation: Observation, route: Route) -> Spelling:
    """The spelling of a request's client and route, from the memo where it fits."""
    known: Spelling | None = observation.memo.get(route.name)
    if known is None or known.route is not route or known.principal is not observation.principal or known.method != observation.method:
        known = observation.memo[route.name] = Spelling(observation, route)
    return known


def principal_text(principal: Principal) -> str:
    """The principal's part of an audit record, made once and kept with the cached token."""
    kept: str | None = principal.memo.get(_PRINCIPAL)
    if kept is None:
        kept = principal.memo[_PRINCIPAL] = _text(principal_members(principal))
    return kept


def principal_members(principal: Principal) -> dict[str, Any]:
    """Member `principal` of an audit record."""
    return {
        "subject": principal.subject,
        "issuer": principal.issuer,
        "client": principal.client,
        "scopes": sorted(principal.scopes),
        "token_id": principal.token_id,
    }


def _text(value: dict[str, Any]) -> str:
    return json_line(value)[:-1].decode("ascii")
