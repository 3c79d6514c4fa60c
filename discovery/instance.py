"""What discovery finds: instances of a service. Frozen values; nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Instance:
    """One address at which a service answers.

    Args:
        id: identity across updates: node name and service id for Consul, the address for a static instance.
        host: IP address or name, without brackets.
        port: 1..65535.
        weight: relative share of the requests, at least 1.
        scheme: how to speak to it.
        tags, meta: as registered.
        health: worst of its checks, among the states in which it is used.
    """

    id: str
    host: str
    port: int
    weight: int = 1
    scheme: Literal["http", "https"] = "http"
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: NOTHING, hash=False)
    health: Literal["passing", "warning"] = "passing"

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 host: the key of everything live that we keep about it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ConsulQuery:
    """Which instances a service takes from Consul.

    Args:
        service: the name in the catalog.
        tags: an instance must carry all of them.
        datacenter: where to look; what the agent's settings say when empty.
        failover: where to look next, in this order, while there is no instance.
    """

    service: str
    tags: tuple[str, ...] = ()
    datacenter: str = ""
    failover: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsulAgent:
    """How to reach the Consul agent.

    Args:
        url: `http://host:port`, `https://...` or `unix:///path`.
        token: ACL token, sent in `X-Consul-Token`; none when empty.
        datacenter, failover: for the queries that name no datacenter; the agent's own when empty.
        wait_seconds: length of a blocking query.
        connections: queries that may be under way at once. Consul's `http_max_conns_per_client` (200) must be greater.
        warning: whether instances with a warning check are used, with `Weights.Warning`.
        loopback: whether instances on loopback addresses are used (link-local addresses never are). `auto` accepts them when both the
            agent and the node that registered the instance are on loopback: everything on one machine. Elsewhere such an address would
            lead the gateway to itself.
        networks: CIDR blocks; when there are any, only instances whose address is a number within one of them are used.
        disappearance_guard: share of a service's instances, 0..1; when more are gone at once, that is looked into before it is believed.
        cache_dir: directory of snapshots on disk; none when empty.
        publish_routes: whether services publish routes in their metadata.
        ca_file, certificate_file, key_file: PEM files for `https`; the system's authorities and no client certificate when empty.
        fingerprint: of what these files held; empty when nobody asks.
    """

    url: str = "http://127.0.0.1:8500"
    token: str = field(default="", repr=False)
    datacenter: str = ""
    failover: tuple[str, ...] = ()
    wait_seconds: float = 55.0
    connections: int = 180
    warning: bool = False
    loopback: Literal["auto", "allow", "refuse"] = "auto"
    networks: tuple[str, ...] = ()
    disappearance_guard: float = 0.5
    cache_dir: str = ""
    publish_routes: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    fingerprint: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Balance:
    """How to choose among instances.

    Args:
        policy: one of the balancers' names.
        by: for `consistent_hash` what is hashed: `subject`, `client_ip`, `header:NAME` or `path:NAME`.
    """

    policy: Literal["round_robin", "random", "least_request", "ewma", "consistent_hash"] = "least_request"
    by: str = ""


@dataclass(frozen=True, slots=True)
class Outlier:
    """When an instance that fails is taken out for a while (SPEC B4).

    Args:
        consecutive_failures: failures in a row that are too many; 0 turns ejection off.
        base_seconds: how long the first time; the n-th time in a row n times as long, at most `LONGEST_EJECTION_SECONDS`.
        maximum_ejected: share of the service's instances that may be out at once. One always may, but never the last usable one.
    """

    consecutive_failures: int = 5
    base_seconds: float = 30.0
    maximum_ejected: float = 0.5


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """An active check: GET `path`, good when a status of 200 to 399 comes in time.

    Args:
        interval_seconds: between two checks of an instance, give or take a fifth.
        timeout_seconds: for connection and response together.
        healthy, unhealthy: results in a row that change an instance's state.
    """

    path: str
    interval_seconds: float = 10.0
    timeout_seconds: float = 2.0
    healthy: int = 2
    unhealthy: int = 3
