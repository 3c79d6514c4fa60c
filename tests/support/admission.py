"""What tests of admission share: facts of a request, an observer that keeps what it is told, and an admission that runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.admission.admission import Admission, AdmissionPlan, Verdict
from gateway.admission.mirror import Mirror
from gateway.admission.revocation import Revocations
from gateway.admission.together import Together
from gateway.auth.principal import Principal
from gateway.errors import GatewayError
from gateway.route import Limit, Route
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


def route(*limits: Limit, name: str = "route", path: str = "/x", shadow: tuple[Limit, ...] = (), cost: int = 1) -> Route:
    return Route(name=name, path=path, target="service", limits=limits, shadow_limits=shadow, cost=cost, line="gateway.yaml:1")


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
class Replica:
    """What one gateway process has of admission. `propagated` are the seconds that revocations took to arrive here."""

    name: str
    store: Store
    together: Together
    admission: Admission
    revocations: Revocations
    recorder: Recorder
    propagated: list[float]

    @property
    def mirror(self) -> Mirror:
        return self.together.mirror


@asynccontextmanager
async def replica(url: str, name: str = "replica-1", *, budget_seconds: float = 2.0) -> AsyncIterator[Replica]:
    """A replica over the server at `url`, started; closed at the end."""
    store, recorder, propagated = Store.open(StateSettings(url=url)), Recorder(), list[float]()
    together = Together(store, name, lambda: {"pid": 1}, propagated.append)
    admission = Admission(store, budget_seconds=budget_seconds, observer=recorder, reconciliation=together.reconciler)
    revocations = Revocations(store, publish=together.journal.publish)
    await together.start()
    await admission.start()
    try:
        yield Replica(name, store, together, admission, revocations, recorder, propagated)
    finally:
        await together.close()
        await admission.close()
        await store.close()
