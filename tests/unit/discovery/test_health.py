"""Active checks with a probe whose results a test says."""

from __future__ import annotations

import asyncio

from discovery.endpoint import Endpoint
from discovery.health import HealthMonitor
from discovery.instance import HealthCheck, Instance
from tests.support.sources import until


class Probe:
    """Gives results in turn, the last one again and again, and counts."""

    def __init__(self, *results: bool) -> None:
        self.results = list(results)
        self.asked = 0

    async def __call__(self, service: str, instance: Instance, check: HealthCheck) -> bool:
        self.asked += 1
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


def states(results: str, healthy: int = 2, unhealthy: int = 3) -> str:
    """The endpoint's state after each check: `+` for good, `-` for bad."""

    async def scenario() -> str:
        endpoint = Endpoint(Instance(id="a", host="10.0.0.1", port=80))
        seen: list[str] = []

        class Noting(Probe):
            async def __call__(self, service: str, instance: Instance, check: HealthCheck) -> bool:
                if self.asked:
                    seen.append("+" if endpoint.usable else "-")
                return await super().__call__(service, instance, check)

        probe = Noting(*[result == "+" for result in results], True)
        monitor = HealthMonitor("web", HealthCheck("/", 0.001, 0.001, healthy, unhealthy), probe)
        monitor.follow([endpoint])
        await until(lambda: len(seen) >= len(results))
        await monitor.close()
        assert repr(monitor) == "<HealthMonitor web endpoints=0>"
        return "".join(seen[: len(results)])

    return asyncio.run(scenario())


def test_so_many_in_a_row_change_the_state() -> None:
    """B5: single results do not."""
    assert states("++--+--+---") == "+" * 10 + "-"
    assert states("---+-++") == "++----+"
    assert states("-+-", healthy=1, unhealthy=1) == "-+-"


def test_closing_ends_a_check_that_is_under_way() -> None:
    """R7: also one that takes its time."""

    async def scenario() -> None:
        begun = asyncio.Event()

        async def probe(service: str, instance: Instance, check: HealthCheck) -> bool:
            begun.set()
            await asyncio.Event().wait()
            return True

        monitor = HealthMonitor("web", HealthCheck("/", 0.001, 60), probe)
        monitor.follow([Endpoint(Instance(id="a", host="10.0.0.1", port=80))])
        await begun.wait()
        await monitor.close()
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("health")]

    asyncio.run(scenario())
