"""Registering in a real Consul agent, also one that is away, forgets, or comes late; and in front of a real server."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from discovery import registration as registration_module
from discovery.instance import ConsulAgent
from discovery.registration import ASGIApp, Message, Receive, Registration, Send, registered
from tests.support.consul_agent import Agent, consul_agent
from tests.support.ports import free_port
from tests.support.scripted_http import reply, scripted_server
from tests.support.sources import until

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with consul_agent() as running:
        yield running


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def passing(agent: Agent, name: str) -> list[dict[str, Any]]:
    return [entry["Service"] for entry in agent.get(f"/v1/health/service/{name}?passing=1")]


def test_it_is_in_consul_while_it_is_entered(agent: Agent) -> None:
    """D9."""

    async def scenario() -> None:
        mine = Registration(
            "entered", 9001, address="127.0.0.1", tags=["v1"], meta={"zone": "a"}, weight=5, consul=agent.url, deregister_after_seconds=90
        )
        async with mine:
            assert mine.registered
            await until(lambda: passing(agent, "entered"))
            (service,) = passing(agent, "entered")
            assert (service["Port"], service["Tags"], service["Meta"]["zone"]) == (9001, ["v1"], "a")
            assert (service["ID"], service["Weights"]["Passing"]) == (mine.id, 5)
        await until(lambda: not agent.get("/v1/health/service/entered"))
        assert not mine.registered

    run(scenario())


def test_heartbeats_keep_a_ttl_check_passing(agent: Agent) -> None:
    """D9: a heartbeat at a third of the TTL; without them the check would be critical after two seconds."""

    async def scenario() -> None:
        async with Registration("beating", 9001, ttl_seconds=2, consul=agent.url):
            await until(lambda: passing(agent, "beating"))
            end = time.monotonic() + 3
            while time.monotonic() < end:
                assert passing(agent, "beating")
                await asyncio.sleep(0.05)

    run(scenario())


def test_what_was_left_critical_passes_at_once_after_a_restart(agent: Agent) -> None:
    """The agent keeps the state of a check that it knows already."""

    async def scenario() -> None:
        check = {"CheckID": "service:again-1", "TTL": "60s"}
        agent.register("again", 9001, ID="again-1", Check=check)
        await until(lambda: agent.get("/v1/health/service/again"))
        assert not passing(agent, "again")
        async with Registration("again", 9001, id="again-1", ttl_seconds=60, consul=agent.url):
            await until(lambda: passing(agent, "again"))

    run(scenario())


@pytest.mark.parametrize("check", ["ttl", "http"])
def test_an_instance_that_the_agent_has_forgotten_is_registered_again(agent: Agent, check: Any) -> None:
    """D9: 404 or 500 of the heartbeat."""

    async def scenario() -> None:
        async with Registration(f"forgotten-{check}", 9001, ttl_seconds=1, check=check, consul=agent.url) as mine:
            await until(lambda: agent.get(f"/v1/catalog/service/forgotten-{check}"))
            agent.deregister(mine.id)
            await until(lambda: mine.id not in agent.get("/v1/agent/services"))
            await until(lambda: mine.id in agent.get("/v1/agent/services"))

    run(scenario())


def test_an_agent_that_was_restarted_learns_of_it_again() -> None:
    """D9: a dev agent forgets everything when it dies."""

    async def scenario() -> None:
        with consul_agent() as mortal:
            async with Registration("phoenix", 9001, ttl_seconds=1, consul=mortal.url):
                await until(lambda: passing(mortal, "phoenix"))
                mortal.kill()
                await asyncio.to_thread(mortal.start)
                await until(lambda: passing(mortal, "phoenix"))

    run(scenario())


def test_an_http_check_asks_the_service(agent: Agent) -> None:
    async def scenario() -> None:
        async with scripted_server(lambda _: reply({})) as server:
            port = int(server.url.rpartition(":")[2])
            async with Registration("asked", port, address="127.0.0.1", check="http", http_path="/ok", ttl_seconds=1, consul=agent.url):
                await until(lambda: passing(agent, "asked"))
                assert "/ok" in server.targets

    run(scenario())


def test_the_token_goes_into_its_header() -> None:
    async def scenario() -> None:
        async with scripted_server(lambda _: reply(b"")) as server:
            async with Registration("web", 9001, consul=ConsulAgent(url=server.url, token="hush")):
                pass
            assert [head.split(" ", 1)[0] for head in server.heads] == ["PUT", "PUT", "PUT"]
            assert all("x-consul-token: hush" in head.lower() for head in server.heads)
            assert server.targets[-1].startswith("/v1/agent/service/deregister/web-")

    run(scenario())


def test_a_consul_that_is_away_neither_stops_nor_delays_its_host(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """D9: never crashes its host; one line an outage."""
    monkeypatch.setattr(registration_module, "FIRST_ATTEMPT_SECONDS", 60)
    monkeypatch.setattr(registration_module, "DEREGISTER_SECONDS", 60)

    async def scenario() -> None:
        started = time.monotonic()
        async with Registration("alone", 9001, consul="http://127.0.0.1:1") as mine:
            assert time.monotonic() - started < 15
            await until(lambda: "trying again" in caplog.text)
            assert not mine.registered
        assert time.monotonic() - started < 30

    run(scenario())
    assert caplog.text.count("trying again") == 1
    assert caplog.text.count("could not be deregistered") == 1


def test_a_consul_that_is_silent_neither_stops_nor_delays_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """D9: waiting is bounded on the way in and on the way out."""
    monkeypatch.setattr(registration_module, "FIRST_ATTEMPT_SECONDS", 0.1)
    monkeypatch.setattr(registration_module, "DEREGISTER_SECONDS", 0.1)

    async def scenario() -> None:
        started = time.monotonic()
        async with scripted_server(lambda _: None) as server, Registration("alone", 9001, consul=server.url):
            pass
        assert time.monotonic() - started < 10

    run(scenario())


def test_a_consul_that_comes_late_is_found() -> None:
    """D9: registered in the background as soon as the agent answers."""

    async def scenario() -> None:
        with consul_agent() as late:
            late.kill()
            async with Registration("late", 9001, ttl_seconds=1, consul=late.url) as mine:
                assert not mine.registered
                await asyncio.to_thread(late.start)
                await until(lambda: passing(late, "late"))

    run(scenario())


def test_a_refusal_is_no_reason_to_give_up(caplog: pytest.LogCaptureFixture) -> None:
    """D9: a 403 now may be a good token later."""

    async def scenario() -> None:
        answers = [reply(b"Permission denied", None, "403 Forbidden")] * 2
        async with scripted_server(lambda _: answers.pop() if answers else reply(b"")) as server:
            async with Registration("refused", 9001, consul=server.url) as mine:
                await until(lambda: mine.registered)

    run(scenario())
    assert "Permission denied" in caplog.text


class TestLifespan:
    """`registered(app)` in an ASGI server's hands, here a test's."""

    async def session(self, app: ASGIApp, agent: Agent, name: str, log: list[str]) -> list[str]:
        """One lifespan: what the server was told. The service listens, and is seen in Consul, before the shutdown."""
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        mine = Registration(name, port, address="127.0.0.1", consul=agent.url)
        inbox: asyncio.Queue[Message] = asyncio.Queue()
        told: list[str] = []

        async def say(message: Message) -> None:
            told.append(message["type"])

        before = signal.getsignal(signal.SIGTERM)
        lifespan: Coroutine[Any, Any, None] = registered(app, mine)({"type": "lifespan"}, inbox.get, say)  # type: ignore[assignment]
        task = asyncio.create_task(lifespan)
        inbox.put_nowait({"type": "lifespan.startup"})
        await until(lambda: mine.registered)
        log.append("registered")
        inbox.put_nowait({"type": "lifespan.shutdown"})
        await task
        assert not mine.registered
        assert signal.getsignal(signal.SIGTERM) == before
        server.close()
        await server.wait_closed()
        return told

    def test_it_registers_after_the_start_and_deregisters_before_the_shutdown(self, agent: Agent) -> None:
        """D9."""
        log: list[str] = []

        async def app(scope: Message, receive: Receive, send: Send) -> None:
            assert (await receive())["type"] == "lifespan.startup"
            log.append("started")
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            log.append("still there" if "lifespan-1" in str(agent.get("/v1/agent/services")) else "deregistered")
            await send({"type": "lifespan.shutdown.complete"})

        async def scenario() -> None:
            assert await self.session(app, agent, "lifespan-1", log) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

        run(scenario())
        assert log == ["started", "registered", "deregistered"]

    @pytest.mark.parametrize("hears", [True, False])
    def test_an_application_without_lifespan_is_registered_too(self, agent: Agent, hears: bool) -> None:
        async def app(scope: Message, receive: Receive, send: Send) -> None:
            if hears:
                await receive()
            raise RuntimeError("only http here")

        async def scenario() -> None:
            assert await self.session(app, agent, "lifespan-2", []) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

        run(scenario())

    def test_an_application_that_fails_to_start_is_not_registered(self, agent: Agent) -> None:
        async def app(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})

        async def scenario() -> None:
            told: list[str] = []
            mine = Registration("lifespan-3", 9001, consul=agent.url)

            async def receive() -> Message:
                return {"type": "lifespan.startup"}

            async def say(message: Message) -> None:
                told.append(message["type"])

            await registered(app, mine)({"type": "lifespan"}, receive, say)
            assert told == ["lifespan.startup.failed"]
            assert not mine.registered

        run(scenario())

    def test_requests_go_through_untouched(self, agent: Agent) -> None:
        seen: list[Message] = []

        async def app(scope: Message, receive: Receive, send: Send) -> None:
            seen.append(scope)

        async def nothing(*_: Any) -> Any:
            raise AssertionError("not called")

        scope: Message = {"type": "http"}
        run(registered(app, Registration("x", 1, consul=agent.url))(scope, nothing, nothing))  # type: ignore[arg-type]
        assert seen == [scope]


SERVICE = """
import os
import uvicorn
from discovery import Registration, registered

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})

port = int(os.environ["PORT"])
registration = Registration("behind-uvicorn", port, address="127.0.0.1")
uvicorn.run(registered(app, registration, drain_seconds=1), host="127.0.0.1", port=port, log_level="warning")
"""


def test_a_real_server_answers_until_it_is_out_of_consul(agent: Agent) -> None:
    """D9: registered once it listens; on SIGTERM deregistered before the server stops accepting."""
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "CONSUL_HTTP_ADDR": agent.url, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", SERVICE], env=environment)
    try:

        async def scenario() -> None:
            await until(lambda: passing(agent, "behind-uvicorn"), 20)
            url = f"http://127.0.0.1:{port}/"
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(url)).text == "here"
                process.send_signal(signal.SIGTERM)
                await until(lambda: not agent.get("/v1/health/service/behind-uvicorn"))
                assert (await client.get(url, headers={"Connection": "close"})).text == "here"
            await until(lambda: process.poll() is not None)

        run(scenario())
        # uvicorn gives the signal on to whoever started it.
        assert process.returncode in (0, -signal.SIGTERM)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
