"""Nanoseconds a pick and a finished request, and milliseconds a rebuild. Run: `python benchmarks/micro/balance.py`."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from timeit import repeat

from discovery.balance import POLICIES, balancer
from discovery.endpoint import Endpoint
from discovery.instance import Instance

CALLS = 100_000


def endpoints(count: int, active: int) -> list[Endpoint]:
    made = [Endpoint(Instance(id=str(n), host=f"10.0.{n // 250}.{n % 250 + 1}", port=8080)) for n in range(count)]
    for endpoint in made:
        endpoint.active = active
        endpoint.latency_seconds = 0.01
    return made


def nanoseconds(call: Callable[[], object]) -> float:
    return min(repeat(call, number=CALLS, repeat=5)) / CALLS * 1e9


def pick_cost(policy: str, count: int, active: int) -> float:
    chosen = balancer(policy, endpoints(count, active), [1 + n % 3 for n in range(count)])  # type: ignore[arg-type]
    pick = chosen.pick
    return nanoseconds(lambda: pick(b"user-4711", ()))


def build_cost(policy: str, count: int) -> float:
    made, weights = endpoints(count, 0), [1 + n % 3 for n in range(count)]
    start = perf_counter()
    balancer(policy, made, weights)  # type: ignore[arg-type]
    return (perf_counter() - start) * 1e3


def finished_cost() -> float:
    endpoint = endpoints(1, 0)[0]

    def request() -> None:
        endpoint.active += 1
        endpoint.active -= 1
        endpoint.finished(0.01, False)

    return nanoseconds(request)


def main() -> None:
    empty = nanoseconds(lambda: None)
    print(f"an empty call costs {empty:.0f} ns, included below")
    print(f"{'policy':<18}{'idle':>10}{'busy':>10}{'build 10':>12}{'build 100':>12}   (ns a pick of 10, ms a build)")
    for policy in POLICIES:
        idle, busy = pick_cost(policy, 10, 0), pick_cost(policy, 10, 3)
        print(f"{policy:<18}{idle:>10.0f}{busy:>10.0f}{build_cost(policy, 10):>12.2f}{build_cost(policy, 100):>12.2f}")
    print(f"one endpoint      {pick_cost('least_request', 1, 0):>10.0f}")
    print(f"counted, finished {finished_cost():>10.0f}")


if __name__ == "__main__":
    main()
