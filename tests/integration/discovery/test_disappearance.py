"""Many instances gone at once: believed when it is explained, held when Consul itself may be what failed."""

import asyncio
from collections.abc import Iterator

import pytest

from discovery import watch
from discovery.instance import ConsulAgent, ConsulQuery
from tests.support.consul_agent import Agent, consul_agent
from tests.support.scripted_http import reply, scripted_server
from tests.support.sources import until
from tests.support.watching import bootstrapped, ports, run, ttl_check, wait_for, watching

FOUR = (9001, 9002, 9003, 9004)


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with consul_agent() as running:
        yield running


def catalog(agent: Agent, name: str, *numbers: int) -> None:
    """Instances that no agent owns, so that nobody registers them again."""
    for port in numbers:
        service = {"ID": f"{name}-{port}", "Service": name, "Port": port, "Address": "127.0.0.1"}
        agent.put("/v1/catalog/register", {"Node": f"{name}-outside", "Address": "127.0.0.1", "Service": service})


def commit(agent: Agent, name: str, *numbers: int) -> None:
    """Take instances out of the catalog in one transaction, so that no reply shows some of them gone."""
    operations = [
        {"Service": {"Verb": "delete", "Node": f"{name}-outside", "Service": {"ID": f"{name}-{port}", "Service": name}}} for port in numbers
    ]
    agent.put("/v1/txn", operations)


def test_a_clean_deregistration_of_most_is_believed_at_once(agent: Agent) -> None:
    """D4: the history of the catalog is unbroken, and a consistent reading says the same."""

    async def scenario() -> None:
        catalog(agent, "shrinking", *FOUR)
        async with watching(ConsulQuery("shrinking"), ConsulAgent(url=agent.url)) as view:
            await wait_for(view, *FOUR)
            commit(agent, "shrinking", *FOUR[1:])
            assert await wait_for(view, 9001) < watch.CONFIRM_SECONDS / 2
            assert not view.snapshot.stale
            commit(agent, "shrinking", 9001)
            assert await wait_for(view) < watch.CONFIRM_SECONDS / 2

    run(scenario())


def test_maintenance_and_failing_checks_of_most_are_believed_at_once(agent: Agent) -> None:
    """D4, D7: somebody's will, and findings about the instances themselves."""

    async def scenario() -> None:
        checks = [ttl_check(agent, "mass", port) for port in FOUR]
        async with watching(ConsulQuery("mass"), ConsulAgent(url=agent.url)) as view:
            await wait_for(view, *FOUR)
            agent.put("/v1/agent/maintenance?enable=true")
            assert await wait_for(view) < watch.CONFIRM_SECONDS / 2
            agent.put("/v1/agent/maintenance?enable=false")
            await wait_for(view, *FOUR)
            for check in checks:
                agent.put(f"/v1/agent/check/fail/{check}")
            assert await wait_for(view) < watch.CONFIRM_SECONDS / 2

    run(scenario())


def test_a_restored_snapshot_that_forgot_most_is_not_believed_at_first(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """D4, D2, F-16: the index goes backwards. They are held, shown as held, and given up when nothing brings them back."""
    monkeypatch.setattr(watch, "CONFIRM_SECONDS", 3.0)

    async def scenario() -> None:
        catalog(agent, "forgotten", 9001)
        await until(lambda: agent.get("/v1/health/service/forgotten"))
        saved = agent.http.get("/v1/snapshot").raise_for_status().content
        catalog(agent, "forgotten", *FOUR)
        for n in range(20):
            agent.put(f"/v1/kv/f{n}", n)
        # A query with the old index sees nothing new before its wait is over.
        async with watching(ConsulQuery("forgotten"), ConsulAgent(url=agent.url, wait_seconds=1)) as view:
            await wait_for(view, *FOUR)
            (await asyncio.to_thread(agent.http.put, "/v1/snapshot", content=saved)).raise_for_status()
            await until(lambda: view.snapshot.held)
            assert (ports(view), view.snapshot.held, view.snapshot.stale) == (list(FOUR), 3, True)
            await wait_for(view, 9001)
            assert not view.snapshot.stale
            catalog(agent, "forgotten", *FOUR)
            await wait_for(view, *FOUR)

    run(scenario())


def test_services_that_a_restarted_agent_forgot_and_learns_again_are_never_missing() -> None:
    """D4, D2, F-15: the dev agent comes back empty; nobody notices but the log, and what registers again is no longer held."""

    async def scenario() -> None:
        with consul_agent() as mortal:
            for port in FOUR:
                mortal.register("steady", port, ID=f"steady-{port}")
            async with watching(ConsulQuery("steady"), ConsulAgent(url=mortal.url)) as view:
                await wait_for(view, *FOUR)
                mortal.kill()
                await until(lambda: view.snapshot.error)
                await asyncio.to_thread(mortal.start)
                await until(lambda: view.snapshot.held)
                assert ports(view) == list(FOUR)
                for port in FOUR:
                    mortal.register("steady", port, ID=f"steady-{port}")
                await until(lambda: not view.snapshot.stale)
                assert (ports(view), view.snapshot.held) == (list(FOUR), 0)

    run(scenario())


def test_an_anonymous_reader_under_default_deny_is_told_nothing_and_knows_it() -> None:
    """D3: Consul answers `200 []` to who may not read. A start without rights is not ready; rights that are lost cost no instance."""

    async def scenario() -> None:
        acl = {"enabled": True, "default_policy": "deny"}
        with consul_agent(acl=acl) as guarded:
            secret = await bootstrapped(guarded)
            key = {"X-Consul-Token": secret}
            for port in FOUR:
                body = {"Name": "secret", "ID": f"secret-{port}", "Port": port, "Address": "127.0.0.1"}
                guarded.put("/v1/agent/service/register", body, key)
            async with watching(ConsulQuery("secret"), ConsulAgent(url=guarded.url)) as view:
                await until(lambda: "may not read service secret" in view.snapshot.error)
                assert not view.answered
            rules = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
            policy = guarded.put("/v1/acl/policy", {"Name": "reader", "Rules": rules}, key)
            token = guarded.put("/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]}, key)
            async with watching(ConsulQuery("secret"), ConsulAgent(url=guarded.url, token=token["SecretID"], wait_seconds=1)) as view:
                await wait_for(view, *FOUR)
                guarded.put(f"/v1/acl/policy/{policy['ID']}", {"ID": policy["ID"], "Name": "reader", "Rules": ""}, key)
                await until(lambda: "may not read" in view.snapshot.error)
                assert ports(view) == list(FOUR)
                guarded.put(f"/v1/acl/policy/{policy['ID']}", {"ID": policy["ID"], "Name": "reader", "Rules": rules}, key)
                await until(lambda: not view.snapshot.stale, 40)
                assert ports(view) == list(FOUR)

    run(scenario())


# What one server says and another does not, which no real one does on demand.


def entries(*numbers: int, **check: str) -> list[dict[str, object]]:
    checks = [{"CheckID": "serfHealth", "Status": "passing", **check}]
    node = {"Node": "n", "Address": "127.0.0.1"}
    return [{"Node": node, "Service": {"ID": f"w{port}", "Address": "127.0.0.1", "Port": port}, "Checks": checks} for port in numbers]


class TwoMinds:
    """A Consul whose stale replies follow a script, and whose consistent ones say what the test sets."""

    def __init__(self, *stale: object) -> None:
        self._stale = list(stale)
        self.consistent: bytes | None = None
        self.asked: list[str] = []

    def __call__(self, target: str) -> bytes | None:
        self.asked.append(target)
        if "consistent=1" in target:
            return self.consistent
        if "authorize" in target:
            return reply(b"", None, "401 Unauthorized")
        return reply(self._stale.pop(0), 10 - len(self._stale)) if self._stale else None


@pytest.mark.parametrize(
    ("after", "truth", "left"),
    [
        ((), reply(entries(*FOUR), 50), FOUR),
        ((9001,), reply(entries(9001, 9002), 50), (9001, 9002)),
        ((), reply([], 50), ()),
        ((), reply([], 1), FOUR),
        ((), reply(b"No cluster leader", None, "500 Internal Server Error"), FOUR),
        ((), reply(b"Permission denied", None, "403 Forbidden"), FOUR),
        ((9001,), reply(entries(9001) + entries(*FOUR[1:], Status="critical"), 50), FOUR),
    ],
)
def test_what_a_consistent_reading_says_counts(after: tuple[int, ...], truth: bytes, left: tuple[int, ...]) -> None:
    """D4: hold, read again `consistent`, then believe it; without such a reading nothing is believed.

    One that has lost its memory is not believed, nor that the instances' node has failed, which says nothing about them.
    """

    async def scenario() -> None:
        mind = TwoMinds(entries(*FOUR), entries(*after))
        mind.consistent = truth
        async with scripted_server(mind) as server, watching(ConsulQuery("web"), ConsulAgent(url=server.url)) as view:
            await until(lambda: len([target for target in mind.asked if "stale=1" in target]) > 2)
            assert ports(view) == list(left)
            consistent = next(target for target in mind.asked if "consistent" in target)
            assert "passing" not in consistent
            assert "stale" not in consistent

    run(scenario())


@pytest.mark.parametrize(("share", "left"), [(0.8, (9001,)), (1.0, (9001,)), (0.2, FOUR)])
def test_the_share_is_configured(share: float, left: tuple[int, ...]) -> None:
    """D4: `disappearance_guard`."""

    async def scenario() -> None:
        mind = TwoMinds(entries(*FOUR), entries(9001))
        mind.consistent = reply(entries(*FOUR))
        async with scripted_server(mind) as server:
            async with watching(ConsulQuery("web"), ConsulAgent(url=server.url, disappearance_guard=share)) as view:
                await until(lambda: len(mind.asked) > 2)
                await wait_for(view, *left)

    run(scenario())


def test_a_server_cut_off_from_its_leader_is_not_believed() -> None:
    """F-17: X-Consul-LastContact bounds how old an answer may be; then the leader itself is asked."""

    async def scenario() -> None:
        replies = [reply(entries(9001, 9002), 5), reply(entries(9001), 6, X_Consul_LastContact="60000"), reply(entries(9002), 7)]
        asked: list[str] = []

        def answer(target: str) -> bytes | None:
            asked.append(target)
            return replies.pop(0) if replies else None

        async with scripted_server(answer) as server, watching(ConsulQuery("web"), ConsulAgent(url=server.url)) as view:
            await until(lambda: "has not heard from its leader for 60 s" in view.snapshot.error)
            assert ports(view) == [9001, 9002]
            await wait_for(view, 9002)
            assert ["stale" in target for target in asked[:3]] == [True, True, False]

    run(scenario())
