"""Another configuration in a running process: swapped whole, and only what belongs to it changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.assembly import Runtime
from gateway.errors import ConfigError
from gateway.route import UpstreamTLS
from gateway.settings import Settings
from tests.integration.lifecycle.conftest import Stage
from tests.support.gateway_process import GET, Client, run
from tests.support.recording_upstream import OK, Link, Script, recording_upstream
from tests.support.redis_server import until


def holding(release: asyncio.Event) -> Script:
    """An upstream that answers requests for `/s/slow` when it may."""

    async def script(link: Link) -> None:
        while (request := await link.request()) is not None:
            if b"/s/slow" in request.line:
                await release.wait()
            await link.send(OK)

    return script


def get(target: bytes, *lines: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\n" % target + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def with_path(settings: Settings, path: str) -> Settings:
    """The settings with the one route at another path."""
    return replace(settings, routes=(replace(settings.routes[0], path=path),))


def generation(runtime: Runtime) -> float:
    """What the metric says."""
    (line,) = [line for line in runtime.telemetry.render().splitlines() if line.startswith(b"gateway_config_generation ")]
    return float(line.split()[1])


async def status(client: Client, target: bytes) -> int:
    return (await client.ask(get(target))).status


def test_requests_under_way_finish_under_the_settings_that_they_began_with(stage: Stage) -> None:
    """G3: the next request, also of the same connection, is the new generation's; records say which was which."""
    release = asyncio.Event()

    async def main() -> None:
        async with stage(holding(release)) as (gateway, upstream):
            slow, kept = await gateway.connect(), await gateway.connect()
            assert await status(kept, b"/s/1") == 200
            await slow.send(get(b"/s/slow"))
            await until(lambda: any(b"slow" in request.line for request in upstream.requests), "the request to be under way")
            runtime = gateway.runtime
            assert (runtime.generation, generation(runtime)) == (1, 1)
            assert await runtime.adopt(with_path(runtime.settings, "/t/{rest:path}")) == 2
            assert (await status(kept, b"/s/1"), await status(kept, b"/t/1")) == (404, 200)
            release.set()
            assert (await slow.response()).status == 200
            assert (runtime.generation, generation(runtime)) == (2, 2)
            await until(lambda: len(gateway.records()) == 4, "the records")
            assert sorted((each["generation"], each["response"]["status"]) for each in gateway.records()) == [
                (1, 200),
                (1, 200),
                (2, 200),
                (2, 404),
            ]

    run(main())


def test_connections_and_counters_of_an_address_survive(stage: Stage) -> None:
    """G3: what was learned about an address stays true when the routes change, and its idle connections are used again."""

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            runtime = gateway.runtime
            for number in range(3):
                assert (await client.ask(GET)).status == 200
                settings = runtime.settings
                timeouts = replace(settings.services["s"].timeouts, response=1.0 + number)
                await runtime.adopt(replace(settings, services={"s": replace(settings.services["s"], timeouts=timeouts)}))
            assert (await client.ask(GET)).status == 200
            (endpoint,) = runtime.directory.service("s").snapshot.endpoints
            assert (runtime.generation, endpoint.requests, len(upstream.links)) == (4, 4, 1)

    run(main())


def test_service_that_moves_is_found_at_its_new_place(stage: Stage) -> None:
    """G3: and the connections to the old one are closed."""

    async def main() -> None:
        async with recording_upstream() as other, stage() as (gateway, upstream):
            assert (await gateway.ask(GET)).status == 200
            runtime = gateway.runtime
            service = runtime.settings.services["s"]
            (instance,) = service.instances
            moved = replace(service, instances=(replace(instance, id="moved", port=other.port),))
            await runtime.adopt(replace(runtime.settings, services={"s": moved}))
            assert (await gateway.ask(GET)).status == 200
            assert (len(upstream.requests), len(other.requests)) == (1, 1)
            await until(lambda: upstream.links[0].lost.is_set(), "the old connection to be closed")

    run(main())


def test_settings_that_can_not_be_used_change_nothing(stage: Stage, tmp_path: Path) -> None:
    """F-54: all or nothing, also when what is wrong is found late."""

    async def main() -> None:
        async with stage() as (gateway, _):
            runtime = gateway.runtime
            bad_tls = replace(runtime.settings.services["s"], tls=UpstreamTLS(ca_file=str(tmp_path / "missing")))
            with pytest.raises(ConfigError, match=r"services\.s\.tls\.ca_file"):
                await runtime.adopt(replace(with_path(runtime.settings, "/t/{rest:path}"), services={"s": bad_tls}))
            bad_route = replace(runtime.settings.routes[0], name="again")
            with pytest.raises(ConfigError):
                await runtime.adopt(replace(runtime.settings, routes=(*runtime.settings.routes, bad_route)))
            assert (runtime.generation, generation(runtime)) == (1, 1)
            assert (await gateway.ask(GET)).status == 200

    run(main())


def test_same_settings_are_no_new_generation(stage: Stage) -> None:
    """G3: nothing is swapped for nothing."""

    async def main() -> None:
        async with stage() as (gateway, _):
            runtime = gateway.runtime
            pipeline = runtime.pipeline
            assert await runtime.adopt(replace(runtime.settings)) == 1
            assert runtime.pipeline is pipeline

    run(main())


def test_trusted_proxies_change_for_connections_that_are_open(stage: Stage) -> None:
    """H3, G3: whose forwarding fields are believed is the newest configuration's decision."""
    request = get(b"/s/1", b"X-Forwarded-For: 203.0.113.9")

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client, runtime = await gateway.connect(), gateway.runtime
            await client.ask(request)
            server = replace(runtime.settings.server, trusted_proxies=("127.0.0.0/8",))
            await runtime.adopt(replace(runtime.settings, server=server))
            await client.ask(request)
            await runtime.adopt(replace(runtime.settings, server=replace(server, trusted_proxies=())))
            await client.ask(request)
            chains = [each.values(b"x-forwarded-for") for each in upstream.requests]
            assert chains == [[b"127.0.0.1"], [b"203.0.113.9, 127.0.0.1"], [b"127.0.0.1"]]

    run(main())


def test_what_can_not_change_stays_as_it_was_at_the_start(stage: Stage) -> None:
    """G3: ports, workers, store and sinks, whatever the settings say."""

    async def main() -> None:
        async with stage() as (gateway, _):
            runtime = gateway.runtime
            before = runtime.settings
            other = Settings(routes=with_path(before, "/t/{rest:path}").routes, services=before.services)
            await runtime.adopt(replace(other, server=replace(other.server, port=1, workers=9), admin=replace(other.admin, port=2)))
            after = runtime.settings
            assert (after.server.port, after.server.workers, after.admin.port) == (before.server.port, 1, before.admin.port)
            assert (after.state, after.audit, after.telemetry) == (before.state, before.audit, before.telemetry)

    run(main())


def test_handlers_keep_their_client_of_a_service(stage: Stage) -> None:
    """CONTRACT section 2: one that was taken before a reload goes where the service is now, and says so when it is gone."""

    async def main() -> None:
        async with recording_upstream() as other, stage() as (gateway, _):
            client, runtime = gateway.app.client("s"), gateway.runtime
            assert (await client.get("/a")).status_code == 200
            service = runtime.settings.services["s"]
            moved = replace(service, instances=(replace(service.instances[0], id="moved", port=other.port),))
            await runtime.adopt(replace(runtime.settings, services={"s": moved}))
            assert (await client.get("/b")).status_code == 200
            assert [request.line for request in other.requests] == [b"GET /b HTTP/1.1"]
            await runtime.adopt(replace(runtime.settings, services={}, routes=()))
            with pytest.raises(KeyError):
                gateway.app.client("s")
            with pytest.raises(Exception, match="not configured any more"):
                await client.get("/c")

    run(main())
