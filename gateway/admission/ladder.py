"""The outage ladder: what happens to a request that the store can't decide about (SPEC section 3, `when_unavailable`).

    closed       503 `store_unavailable`
    open         admitted, unless the mirror says that the token is revoked
    fair_share   likewise, within this replica's share of each limit

Only an outage leads here: a store that was never met, or that refuses because something is set up wrong, is 503 whatever the route says
(SPEC L9). With no connection nobody waits: the decision is made at once. With a silent one a request waits for its budget; after two
budgets the connection is given up, and is used again only once the server answers within the budget.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from gateway.admission.fallback import LOCAL, Counters, FairShare
from gateway.admission.keys import Facts
from gateway.admission.mirror import Mirror
from gateway.admission.plan import AdmissionPlan
from gateway.admission.verdict import ALLOWED, REVOKED_BY, Verdict
from gateway.auth.principal import Principal
from gateway.errors import Unavailable
from gateway.exchange import Exchange
from gateway.route import Route, WhenUnavailable

#: Reasons of a refusal that are no outage.
NO_OUTAGE = frozenset({"store_permission", "store_authentication", "store_script", "store_no_script", "store_closed"})

#: Decides about a request of one route. Raises Unavailable.
Gate = Callable[[Principal | None, Exchange], Awaitable[Verdict]]
#: Decides about a request without the store.
Decide = Callable[[Principal | None, Facts], Verdict]


class SharedAdmission(Protocol):
    """Admission by the store."""

    @property
    def met(self) -> bool:
        """Whether the store was ever there."""

    def reaches(self, plan: AdmissionPlan, principal: Principal | None, facts: Facts) -> bool:
        """Whether there is a connection to ask by."""

    def admit(self, plan: AdmissionPlan, principal: Principal | None, facts: Facts) -> Awaitable[Verdict]:
        """The verdict. Raises Unavailable."""

    def release(self, verdict: Verdict) -> None:
        """Gives leases back."""


class Ladder:
    """Admission that knows what to do without the store. One for a process.

    Args:
        admission: by the store.
        mirror: what is revoked, as this process knows it.
        mirror_age_seconds: how old the mirror may be and still decide.
        place: how many replicas live, and which of them this is, from 0.
        when_unavailable: for routes that say nothing.
        told: route, mode and outcome of each decision: `admitted`, `limited`, `revoked`, `refused`.
    """

    def __init__(
        self,
        admission: SharedAdmission,
        mirror: Mirror,
        *,
        mirror_age_seconds: float,
        place: Callable[[], tuple[int, int]],
        when_unavailable: WhenUnavailable,
        told: Callable[[str, str, str], None],
    ) -> None:
        self._admission = admission
        self._mirror = mirror
        self._mirror_age_seconds = mirror_age_seconds
        self._place = place
        self._when_unavailable = when_unavailable
        self._told = told
        self._counters = Counters()

    def __repr__(self) -> str:
        return f"<Ladder {self._when_unavailable} {self._admission} {self._mirror}>"

    def mode(self, route: Route) -> WhenUnavailable:
        """What happens to requests of a route."""
        return route.when_unavailable or self._when_unavailable

    def gate(self, route: Route, plan: AdmissionPlan) -> Gate:
        """How requests of a route are admitted; a closed one asks the store and nothing else."""
        mode = self.mode(route)
        if mode == "closed":
            return partial(self._admission.admit, plan)
        decide = _admit if mode == "open" else FairShare(plan, self._counters, self._place).decide
        return _LadderGate(self, plan, mode, decide).admit

    def release(self, verdict: Verdict) -> None:
        """Says that the request is over. For any verdict, any number of times, without waiting."""
        if verdict.leases:
            if verdict.leases[0].name is LOCAL:
                self._counters.release(verdict)
            else:
                self._admission.release(verdict)

    def revoked(self, principal: Principal) -> Verdict | None:
        """What the mirror says of a principal.

        Raises:
            Unavailable: it can't say, because it never held everything or is too old.
        """
        if not self._mirror.loaded:
            raise Unavailable("store_unavailable", reason="mirror_missing")
        if self._mirror.age_seconds > self._mirror_age_seconds:
            raise Unavailable("store_unavailable", reason="mirror_stale")
        kind = self._mirror.revoked(principal)
        return REVOKED_BY[kind] if kind else None


class _LadderGate:
    """Admission on a route that is not closed."""

    def __init__(self, ladder: Ladder, plan: AdmissionPlan, mode: str, decide: Decide) -> None:
        self._ladder = ladder
        self._admission = ladder._admission
        self._plan = plan
        self._mode = mode
        self._decide = decide

    async def admit(self, principal: Principal | None, exchange: Exchange) -> Verdict:
        plan, admission = self._plan, self._admission
        if admission.reaches(plan, principal, exchange):
            try:
                return await admission.admit(plan, principal, exchange)
            except Unavailable as error:
                if error.reason in NO_OUTAGE:
                    raise
        elif not admission.met:
            raise Unavailable("store_unavailable", reason="store_down")
        return self._alone(principal, exchange)

    def _alone(self, principal: Principal | None, exchange: Exchange) -> Verdict:
        ladder = self._ladder
        exchange.observation.store_mode = self._mode
        try:
            verdict = (ladder.revoked(principal) if principal is not None else None) or self._decide(principal, exchange)
        except Unavailable:
            ladder._told(self._plan.name, self._mode, "refused")
            raise
        ladder._told(self._plan.name, self._mode, _outcome(verdict))
        return verdict


def _admit(_: Principal | None, __: Facts) -> Verdict:
    return ALLOWED


def _outcome(verdict: Verdict) -> str:
    if verdict.allowed:
        return "admitted"
    return "revoked" if verdict.revoked else "limited"
