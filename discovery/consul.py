"""Consul, spoken through py-consul with a transport of our own.

py-consul builds the requests and knows the endpoints; it leaves the transport to whoever plugs one in (`consul.base.HTTPClient`). Ours
is httpx: a deadline for each request, cancellation, TLS and Unix sockets, and nothing taken from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from time import monotonic
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import orjson
from consul import base
from consul.exceptions import ConsulException

from discovery.catalog import Loopback, Rules, is_loopback
from discovery.failover import FailoverSource
from discovery.guard import Guard
from discovery.instance import ConsulAgent, ConsulQuery, Instance
from discovery.lanes import Lanes
from discovery.reply import Consistency, ConsulError, Reply, decode, one_line
from discovery.snapshots import NoSnapshots, SnapshotFiles, Snapshots
from discovery.source import Source
from discovery.tls import NOBODY, TlsFailures, client_context, failure_of
from discovery.watch import ConsulSource, in_turn

logger = logging.getLogger("discovery.consul")

T = TypeVar("T")
#: From the number of queries that want a connection to what to ask, and how many seconds to wait for the answer.
Ask = Callable[[int], tuple[Sequence[tuple[str, object]], float]]

#: A query that does not block. A leaderless agent takes 7 s to say so.
REQUEST_SECONDS = 10.0
#: Connecting is bounded apart, well below every deadline of ours: httpx loses a connection's place when it is cancelled in this phase.
CONNECT_SECONDS = 3.0
#: Consul adds up to a sixteenth of `wait` as jitter; the rest is for the network and a busy agent [blocking.mdx].
WAIT_FACTOR = 17 / 16
WAIT_MARGIN_SECONDS = 5.0
#: A bound against whatever else answers at this address. 10,000 instances take about 10 MiB.
MAXIMUM_REPLY_BYTES = 32 * 1024 * 1024
#: For what is not a query about a service: registrations and access rights.
SPARE_CONNECTIONS = 10
#: Where there are more services than connections, each is looked at so often.
ROUND_SECONDS = 10.0
LEAST_WAIT_SECONDS = 0.1
ANSWERING_SECONDS = 1.0


class Transport(base.HTTPClient):  # type: ignore[misc]
    """py-consul's pluggable transport, on one shared httpx client.

    Args:
        agent: where and how to connect.
        failures: is told of TLS handshakes that fail.

    Raises:
        ConsulError: the URL or a certificate file can't be used.
    """

    def __init__(self, agent: ConsulAgent, failures: TlsFailures = NOBODY) -> None:
        address = _address(agent.url)
        super().__init__(address.host, address.port, address.scheme)
        self._failures = failures
        self._url = f"Consul at {agent.url}"
        tls, socket = _tls(agent), address.socket or None
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)

        def client() -> httpx.AsyncClient:
            transport = httpx.AsyncHTTPTransport(verify=tls, uds=socket, limits=limits, trust_env=False)
            return httpx.AsyncClient(transport=transport, trust_env=False)

        #: For queries about services, which mostly wait, and for what must not wait behind them.
        self.queries, self._calls = Lanes(client, agent.connections), Lanes(client, SPARE_CONNECTIONS)

    def get(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bool = False,
    ) -> Awaitable[T]:
        """GET."""
        return self._call("GET", callback, self.uri(path, params), headers, b"")

    async def query(self, callback: Callable[[base.Response], T], path: str, ask: Ask, headers: Mapping[str, str]) -> T:
        """GET, when it is its turn; `ask` tells then, with the number of queries that want one, what to ask and how long to wait for it."""
        async with self.queries.one() as client:
            params, timeout_seconds = ask(self.queries.demand)
            return await self._request(client, "GET", callback, self.uri(path, params), headers, b"", timeout_seconds)

    def put(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        data: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[T]:
        """PUT."""
        return self._call("PUT", callback, self.uri(path, params), headers, data)

    def delete(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        data: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[T]:
        """DELETE."""
        return self._call("DELETE", callback, self.uri(path, params), headers, data)

    def post(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        data: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[T]:
        """POST."""
        return self._call("POST", callback, self.uri(path, params), headers, data)

    async def close(self) -> None:
        """Close all connections."""
        await self.queries.close()
        await self._calls.close()

    async def _call(
        self, method: str, callback: Callable[[base.Response], T], uri: str, headers: Mapping[str, str] | None, data: str | bytes
    ) -> T:
        async with self._calls.one() as client:
            return await self._request(client, method, callback, uri, headers, data, REQUEST_SECONDS)

    async def _request(
        self,
        client: httpx.AsyncClient,
        method: str,
        callback: Callable[[base.Response], T],
        uri: str,
        headers: Mapping[str, str] | None,
        data: str | bytes,
        timeout_seconds: float,
    ) -> T:
        timeout = httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS)
        try:
            # httpx bounds each step, the outer one bounds their sum: a server that sends a byte now and then must not hold us.
            async with asyncio.timeout(timeout_seconds):
                async with client.stream(method, uri, headers=headers, content=data, timeout=timeout) as response:
                    body = await _bounded(response)
        except httpx.ConnectTimeout as exc:
            raise ConsulError(f"{self._url} does not take a connection within {CONNECT_SECONDS} s") from exc
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise ConsulError(f"no answer from {self._url} within {timeout_seconds:.1f} s") from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            if (failure := failure_of(exc)) is not None:
                self._failures.note("consul", self._url, failure)
                raise ConsulError(f"{self._url} can't be reached: TLS: {': '.join(failure)}") from exc
            raise ConsulError(f"{self._url} can't be reached: {one_line(exc) or type(exc).__name__}") from exc
        try:
            return callback(base.Response(response.status_code, response.headers, body))
        except ConsulException as exc:
            raise ConsulError(f"Consul refused: {one_line(exc)}") from exc


class _Api(base.Consul):  # type: ignore[misc]
    """py-consul on our transport, with our token only: the base class would prefer CONSUL_HTTP_TOKEN to the one it is given."""

    def __init__(self, agent: ConsulAgent, failures: TlsFailures) -> None:
        self._agent = agent
        self._failures = failures
        address = _address(agent.url)
        super().__init__(address.host, address.port, scheme=address.scheme, dc=agent.datacenter or None, verify=True)
        self.token = agent.token or None

    def http_connect(self, host: str, port: int, scheme: str, verify: bool | str = True, cert: object = None) -> Transport:
        return Transport(self._agent, self._failures)


class Consul:
    """One agent, as the sources and registrations of a process use it. A reload that keeps the object keeps the watches.

    Args:
        agent: where it is and how to speak to it.
        before: whose place it takes; what was believed of it is what it begins with.
        failures: is told of TLS handshakes that fail.

    Raises:
        ConsulError: from the constructor when the settings can't be used, from methods when Consul can't be asked or refuses.
    """

    def __init__(self, agent: ConsulAgent, before: Consul | None = None, failures: TlsFailures = NOBODY) -> None:
        self.agent = agent
        self.memory: dict[str, tuple[Instance, ...]] = dict(before.memory) if before is not None else {}
        networks = tuple(map(ip_network, agent.networks))
        self.rules = Rules(warning=agent.warning, loopback=_loopback(agent), networks=networks)
        self.guard = Guard(agent.disappearance_guard)
        self.snapshots: Snapshots = SnapshotFiles(Path(agent.cache_dir)) if agent.cache_dir else NoSnapshots()
        self._api = _Api(agent, failures)
        self._answered_at = -ANSWERING_SECONDS

    def __repr__(self) -> str:
        return f"<Consul {self.agent.url}>"

    async def close(self) -> None:
        """Write what is left to write, and close the connections."""
        await self.snapshots.close()
        await self._api.http.close()

    @property
    def answering(self) -> bool:
        """Whether any query was answered in the last second."""
        return monotonic() - self._answered_at < ANSWERING_SECONDS

    def source(self, query: ConsulQuery) -> Source:
        """The source of a service: its datacenter, or several in turn."""
        queries = in_turn(query, self.agent.datacenter, self.agent.failover)
        sources = tuple(ConsulSource(self, one) for one in queries)
        return sources[0] if len(sources) == 1 else FailoverSource(sources)

    async def health(self, query: ConsulQuery, index: int, consistency: Consistency = "stale", *, every_state: bool = False) -> Reply:
        """The instances of a service (SPEC D1): at once when `index` is 0, else when they have changed or the wait is over.

        Args:
            consistency: any server may answer a `stale` query, so that discovery goes on without a quorum; how old the answer may be is
                in it [consistency.mdx].
            every_state: also instances that are not passing.
        """
        params: list[tuple[str, object]] = [("tag", tag) for tag in query.tags]
        if not self.agent.warning and not every_state:
            params.append(("passing", "1"))
        if query.datacenter:
            params.append(("dc", query.datacenter))
        if consistency != "default":
            params.append((consistency, "1"))

        def ask(demand: int) -> tuple[list[tuple[str, object]], float]:
            if not index:
                return params, REQUEST_SECONDS
            wait_seconds = self._wait_seconds(demand)
            wait = [("index", index), ("wait", f"{wait_seconds * 1000:.0f}ms")]
            return [*params, *wait], wait_seconds * WAIT_FACTOR + WAIT_MARGIN_SECONDS

        reply: Reply = await self._api.http.query(_reply, f"/v1/health/service/{query.service}", ask, self._api.prepare_headers())
        self._answered_at = monotonic()
        return reply

    def _wait_seconds(self, demand: int) -> float:
        """How long a query may block: as configured, or so that all get their turn in `ROUND_SECONDS` when connections are short."""
        if demand <= self.agent.connections:
            return self.agent.wait_seconds
        return max(LEAST_WAIT_SECONDS, min(self.agent.wait_seconds, ROUND_SECONDS * self.agent.connections / demand))

    async def check_rights(self, query: ConsulQuery, nodes: Iterable[str]) -> None:
        """See that nothing is missing from an answer because it may not be read: Consul filters silently.

        Raises:
            ConsulError: the token may not read the service or one of the nodes.
        """
        asked = [("service", query.service), *(("node", node) for node in nodes)]
        body = orjson.dumps([{"Resource": kind, "Segment": name, "Access": "read"} for kind, name in asked])
        path = "/v1/internal/acl/authorize"
        params = [("dc", query.datacenter)] if query.datacenter else []
        denied: list[str] = await self._api.http.post(_denied, path, params, body, self._api.prepare_headers())
        if denied:
            raise ConsulError(f"the ACL token may not read {', '.join(denied)}")

    async def register(self, name: str, **definition: object) -> None:
        """Register a service with the agent; the arguments are those of py-consul's `agent.service.register`."""
        if not await self._api.agent.service.register(name, replace_existing_checks=True, **definition):
            raise ConsulError("Consul did not take the registration")

    async def deregister(self, service_id: str) -> None:
        """Take a service out of the catalog. One that the agent does not know is out already."""
        status = await self._put(f"/v1/agent/service/deregister/{service_id}")
        if status in (401, 403):
            raise ConsulError(f"Consul refused: HTTP {status}")

    async def beat(self, check_id: str) -> bool:
        """Report that a TTL check passes. False when the agent does not know it: 404, in older versions 500."""
        return _known(await self._put(f"/v1/agent/check/pass/{check_id}"))

    async def knows(self, service_id: str) -> bool:
        """Whether the agent has the service."""
        status: int = await self._api.http.get(_status, f"/v1/agent/service/{service_id}", headers=self._api.prepare_headers())
        return _known(status)

    async def _put(self, path: str) -> int:
        status: int = await self._api.http.put(_status, path, headers=self._api.prepare_headers())
        return status


def agent_from_environment(environment: Mapping[str, str] = os.environ) -> ConsulAgent:
    """The agent that Consul's own programs would use: CONSUL_HTTP_ADDR, CONSUL_HTTP_SSL, CONSUL_HTTP_TOKEN, CONSUL_CACERT,
    CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY."""
    address = environment.get("CONSUL_HTTP_ADDR", "") or "127.0.0.1:8500"
    if "://" not in address:
        scheme = "https" if environment.get("CONSUL_HTTP_SSL", "").lower() in ("1", "true") else "http"
        address = f"{scheme}://{address}"
    return ConsulAgent(
        url=address,
        token=environment.get("CONSUL_HTTP_TOKEN", ""),
        ca_file=environment.get("CONSUL_CACERT", ""),
        certificate_file=environment.get("CONSUL_CLIENT_CERT", ""),
        key_file=environment.get("CONSUL_CLIENT_KEY", ""),
    )


@dataclass(frozen=True, slots=True)
class _Address:
    scheme: str
    host: str
    port: int
    socket: str = ""


def _address(url: str) -> _Address:
    try:
        parts = urlsplit(url)
        port = parts.port or 8500
    except ValueError as exc:
        raise ConsulError(f"the Consul URL {url!r} can't be read: {exc}") from exc
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return _Address("http", "localhost", 80, parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.path not in ("", "/"):
        raise ConsulError(f"the Consul URL {_without_userinfo(url)!r} is not http://HOST:PORT, https://HOST:PORT or unix:///PATH")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return _Address(parts.scheme, host, port)


def _without_userinfo(url: str) -> str:
    """Somebody may have put a token there."""
    return url if "@" not in url else url[: url.find("//") + 2] + "..." + url[url.rfind("@") :]


def _loopback(agent: ConsulAgent) -> Loopback:
    if agent.loopback != "auto":
        return agent.loopback
    address = _address(agent.url)
    return "same_machine" if address.socket or is_loopback(address.host.strip("[]")) else "refuse"


def _tls(agent: ConsulAgent) -> ssl.SSLContext:
    if not agent.url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, but httpx would load every authority into one of its own
    try:
        return client_context(agent.ca_file, agent.certificate_file, agent.key_file)
    except (OSError, ValueError) as exc:
        files = ", ".join(filter(None, (agent.ca_file, agent.certificate_file, agent.key_file)))
        raise ConsulError(f"the certificate files for Consul can't be used ({files}): {exc}") from exc


async def _bounded(response: httpx.Response) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > MAXIMUM_REPLY_BYTES:
            raise ConsulError(f"the answer is longer than {MAXIMUM_REPLY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _reply(response: base.Response) -> Reply:
    return decode(response.code, response.headers, response.body)


def _denied(response: base.Response) -> list[str]:
    """What may not be read. Without access rules Consul answers 401, and versions that can't be asked answer 404."""
    if response.code == 403:
        raise ConsulError(f"Consul answered HTTP 403: {one_line(response.body.decode('utf-8', 'replace'))}")
    try:
        rows = orjson.loads(response.body) if response.code == 200 else []
        return [f"{row['Resource']} {row['Segment']}" for row in rows if row["Allow"] is False]
    except (KeyError, TypeError, ValueError):
        return []


def _status(response: base.Response) -> int:
    return int(response.code)


def _known(status: int) -> bool:
    if status == 200:
        return True
    if status == 404 or status >= 500:
        return False
    raise ConsulError(f"Consul refused: HTTP {status}")
