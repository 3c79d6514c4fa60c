"""What tests of admission share: facts of a request, an observer that keeps what it is told, and an admission that runs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

from gateway.admission.admission import Admission, AdmissionPlan, Verdict
from gateway.admission.ladder import Gate, Ladder
from gateway.admission.mirror import Mirror
from gateway.admission.revocation import Revocations
from gateway.admission.together import Together
from gateway.auth.principal import Principal
from gateway.certificates import ClientCertificate
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.route import Limit, Route, WhenUnavailable
from gateway.settings import StateSettings
from gateway.store.redis import Store

ISSUER = "https://login.example.gov"
SECOND_US = 1_000_000


@dataclass
class FixedFacts:
    """Facts that a test chose."""

    client_ip: str = "192.0.2.1"
    path_params: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    certificate: ClientCertificate | None = None

    def header(self, name: bytes) -> bytes | None:
        return self.headers.get(name)


class Recorder:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.modes: list[str] = []

    def batch(self, size: int, duration_seconds: float) -> None:
        self.sizes.append(size)

    def mode(self, mode: str) -> None:
        self.modes.append(mode)


def route(
    *limits: Limit,
    name: str = "route",
    path: str = "/x",
    shadow: tuple[Limit, ...] = (),
    cost: int = 1,
    when_unavailable: WhenUnavailable | Literal[""] = "",
) -> Route:
    return Route(
        name=name,
        path=path,
        target="service",
        limits=limits,
        shadow_limits=shadow,
        cost=cost,
        when_unavailable=when_unavailable,
        line="gateway.yaml:1",
    )


def gcra(count: int, seconds: float, burst: int = 0, name: str = "rate", key: tuple[str, ...] = ("subject",)) -> Limit:
    return Limit(name=name, kind="gcra", count=count, period_us=int(seconds * SECOND_US), burst=burst, key=key)


def sliding(count: int, seconds: float, name: str = "window", key: tuple[str, ...] = ("subject",)) -> Limit:
    return Limit(name=name, kind="sliding_window", count=count, period_us=int(seconds * SECOND_US), key=key)


def quota(count: int, seconds: int = 86_400, name: str = "quota", key: tuple[str, ...] = ("subject",)) -> Limit:
    return Limit(name=name, kind="quota", count=count, period_us=seconds * SECOND_US, key=key)


def concurrency(count: int, seconds: float = 30.0, name: str = "parallel", key: tuple[str, ...] = ("subject",)) -> Limit:
    return Limit(name=name, kind="concurrency", count=count, period_us=int(seconds * SECOND_US), key=key)


def principal(
    subject: str = "alice",
    *,
    issuer: str = ISSUER,
    token_id: str | None = "token-1",
    session: str | None = None,
    client: str | None = None,
    issued_at: int = 1_000,
) -> Principal:
    return Principal(subject, issuer, "jwt", token_id=token_id, session=session, client=client, issued_at=issued_at)


@asynccontextmanager
async def admitting(
    url: str, *, budget_seconds: float = 2.0, observer: Recorder | None = None, shards: int = 0
) -> AsyncIterator[tuple[Store, Admission]]:
    """An admission over the server at `url`, started; closed with its store at the end."""
    store = Store.open(StateSettings(url=url, shards=shards))
    admission = Admission(store, budget_seconds=budget_seconds, observer=observer or Recorder())
    await admission.start()
    try:
        yield store, admission
    finally:
        await admission.close()
        await store.close()


async def outcome(admission: Admission, plan: AdmissionPlan, who: Principal | None, facts: FixedFacts | None = None) -> Verdict | str:
    """The verdict, or the reason of the refusal when there was none."""
    try:
        return await admission.admit(plan, who, facts or FixedFacts())
    except GatewayError as error:
        return error.reason if (error.status, error.code) == (503, "store_unavailable") else f"unexpected {error!r}"


async def verdict(admission: Admission, plan: AdmissionPlan, who: Principal | None, facts: FixedFacts | None = None) -> Verdict:
    """The verdict; fails the test when there was none."""
    found = await outcome(admission, plan, who, facts)
    assert isinstance(found, Verdict), found
    return found


@dataclass
class Asked:
    """What the gate of a route needs of a request."""

    store_mode: str = "shared"
    client_ip: str = "192.0.2.1"
    path_params: Mapping[str, object] = field(default_factory=dict)
    certificate: ClientCertificate | None = None

    @property
    def observation(self) -> Asked:
        return self

    def header(self, name: bytes) -> bytes | None:
        return None


@dataclass
class Answer:
    """How a gate decided: `found` is the verdict, or the reason why there was none; `mode` who decided."""

    found: Verdict | str
    mode: str
    seconds: float

    @property
    def word(self) -> str:
        """`admitted`, `limited`, what was revoked, or the reason of a 503."""
        if isinstance(self.found, str):
            return self.found
        return "admitted" if self.found.allowed else (self.found.revoked or "limited")


async def ask(gate: Gate, who: Principal | None) -> Answer:
    """One request at a gate."""
    asked, started = Asked(), time.monotonic()
    try:
        found: Verdict | str = await gate(who, cast(Exchange, asked))
    except GatewayError as error:
        found = error.reason if (error.status, error.code) == (503, "store_unavailable") else f"unexpected {error!r}"
    return Answer(found, asked.store_mode, time.monotonic() - started)


@dataclass
class Replica:
    """What one gateway process has of admission. `propagated` are the seconds that revocations took to arrive here, `decided` the
    (route, mode, outcome) of what was decided without the store."""

    name: str
    store: Store
    together: Together
    admission: Admission
    revocations: Revocations
    recorder: Recorder
    ladder: Ladder
    propagated: list[float]
    decided: list[tuple[str, str, str]]

    @property
    def mirror(self) -> Mirror:
        return self.together.mirror

    def gate(self, declared: Route) -> Gate:
        """How requests of a route are admitted."""
        return self.ladder.gate(declared, self.admission.plan(declared))


@asynccontextmanager
async def replica(
    url: str,
    name: str = "replica-1",
    *,
    budget_seconds: float = 2.0,
    mirror_age_seconds: float = 3600.0,
    when_unavailable: WhenUnavailable = "closed",
) -> AsyncIterator[Replica]:
    """A replica over the server at `url`, started; closed at the end."""
    store, recorder, propagated = Store.open(StateSettings(url=url)), Recorder(), list[float]()
    together = Together(store, name, lambda: {"pid": 1}, propagated.append)
    admission = Admission(store, budget_seconds=budget_seconds, observer=recorder, reconciliation=together.reconciler)
    revocations = Revocations(store, publish=together.journal.publish)
    decided: list[tuple[str, str, str]] = []
    ladder = Ladder(
        admission,
        together.mirror,
        mirror_age_seconds=mirror_age_seconds,
        place=lambda: together.heartbeat.place,
        when_unavailable=when_unavailable,
        told=lambda *each: decided.append(each),
    )
    await together.start()
    await admission.start()
    try:
        yield Replica(name, store, together, admission, revocations, recorder, ladder, propagated, decided)
    finally:
        await together.close()
        await admission.close()
        await store.close()
