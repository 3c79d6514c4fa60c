"""Failed authentications, limited by the client's address (SPEC A8, S-40; NIST SP 800-53 AC-7): bad tokens can't burn our CPU.

The count is that of all replicas, in the store. It is asked after a failure only, so good requests never wait for it. Each process also
keeps what it knows: the failures that it has seen itself, and what the store has said of an address. Who has none left there is refused
before anything is verified and without asking anybody; and while the store is away, that is what counts.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol
from weakref import WeakValueDictionary

from gateway.admission.fallback import Clock, Counters, RatePortion, steady_us
from gateway.admission.keys import Facts, network
from gateway.admission.limits import SECOND_US, ceil_seconds, policy_item, validated
from gateway.admission.plan import AdmissionPlan
from gateway.admission.verdict import Verdict
from gateway.auth.principal import Principal
from gateway.errors import RateLimited, Unavailable
from gateway.route import Limit, Route

#: Addresses that are remembered by a process; beyond it the oldest are forgotten, and the store still knows them.
MAXIMUM_ADDRESSES = 16_384


class SharedAdmission(Protocol):
    """What counts for all replicas."""

    def plan(self, route: Route) -> AdmissionPlan:
        """Compiles limits."""

    def reaches(self, plan: AdmissionPlan, principal: Principal | None, facts: Facts) -> bool:
        """Whether there is a connection to ask by."""

    def admit(self, plan: AdmissionPlan, principal: Principal | None, facts: Facts) -> Awaitable[Verdict]:
        """Counts one more. Raises Unavailable."""


class NoFailureLimit:
    """Anybody may fail as often as he likes."""

    def check(self, facts: Facts) -> None:
        """Everybody is worth a try."""

    async def count(self, facts: Facts) -> None:
        """Nothing is counted."""


class FailureLimit:
    """A limit on the failures of each client address.

    Args:
        limit: a rate; its key is `client_ip`.
        shared: where it is counted for all replicas.
        clock: microseconds that are never set back, for what this process counts itself.

    Raises:
        ConfigError: no valid limit.
    """

    def __init__(self, limit: Limit, shared: SharedAdmission, clock: Clock = steady_us) -> None:
        limit = validated(limit, limit.name)
        # The part for the route keeps it apart from a limit of somebody's that happens to have the same name.
        self._plan = shared.plan(Route(name=limit.name, path="/", target="", limits=(replace(limit, key=("route", *limit.key)),)))
        self._shared = shared
        self._portion = RatePortion(limit, 1, 1, clock)
        self._counters = Counters(MAXIMUM_ADDRESSES)
        self._policies = (limit.name,)
        self._item = b'"%b";r=0;t=%%d' % limit.name.encode()
        self._policy = policy_item(limit)

    def check(self, facts: Facts) -> None:
        """Refuses a client that has no failure left.

        Raises:
            RateLimited: before anything of the request was verified.
        """
        state = self._counters.known(network(facts.client_ip))
        if state is not None:
            self._refuse_for(self._portion.wait(state, 1))

    async def count(self, facts: Facts) -> None:
        """A client has failed. At most one admission call is made, and none once this process itself has seen too many.

        Raises:
            RateLimited: it had none left.
        """
        state = self._counters.state(network(facts.client_ip), self._portion)
        # Others of the same address may have failed since it was checked.
        self._refuse_for(self._portion.wait(state, 1))
        self._portion.take(state, 1)
        wait_seconds = await self._ask(facts)
        if wait_seconds:
            self._portion.fill(state, wait_seconds * SECOND_US)
            raise self._refusal(wait_seconds)

    async def _ask(self, facts: Facts) -> int:
        """Seconds until the store allows the client another failure; 0 when it has some left, or when nobody knows."""
        if not self._shared.reaches(self._plan, None, facts):
            return 0
        try:
            return (await self._shared.admit(self._plan, None, facts)).retry_after_seconds
        except Unavailable:
            return 0

    def _refuse_for(self, wait_us: float) -> None:
        if wait_us:
            raise self._refusal(ceil_seconds(int(wait_us) + 1))

    def _refusal(self, wait_seconds: int) -> RateLimited:
        headers = [(b"retry-after", b"%d" % wait_seconds), (b"ratelimit", self._item % wait_seconds), (b"ratelimit-policy", self._policy)]
        return RateLimited(self._policies, headers)


#: For settings without a limit.
NO_FAILURE_LIMIT = NoFailureLimit()


class FailureLimits:
    """Gives each configuration what counts its failures: the one at work where the limit is the same, so a reload forgives nobody."""

    def __init__(self, shared: SharedAdmission) -> None:
        self._shared = shared
        self._at_work: WeakValueDictionary[Limit, FailureLimit] = WeakValueDictionary()

    def against(self, limit: Limit | None) -> FailureLimit | NoFailureLimit:
        """What counts against a limit, for as long as somebody holds it. Raises ConfigError when it is none."""
        if limit is None:
            return NO_FAILURE_LIMIT
        found = self._at_work.get(limit)
        if found is None:
            found = self._at_work[limit] = FailureLimit(limit, self._shared)
        return found
