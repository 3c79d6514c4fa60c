"""What a watch publishes, whatever Consul says, in whatever order: on a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from discovery import watch
from discovery.catalog import Rules
from discovery.guard import Guard, gone
from discovery.instance import ConsulQuery, Instance
from discovery.reply import Consistency, ConsulError, Reply
from discovery.snapshots import NoSnapshots, Snapshots, Stored
from discovery.source import Failed, Found, Update
from discovery.watch import ConsulSource

WEB = ConsulQuery("web")


@dataclass(frozen=True)
class Says:
    """One answer to a stale query, and what a consistent one would say then; None is an error."""

    numbers: frozenset[int] | None
    index: int = 1
    leader: bool = True
    contact_seconds: float = 0.0
    truth: frozenset[int] | None = None
    readable: bool = True


@dataclass
class Clock:
    now: float = 1000.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def entries(numbers: Iterable[int]) -> list[object]:
    node = {"Node": "n", "Address": "10.0.0.1"}
    return [{"Node": node, "Service": {"ID": f"w{n}", "Port": 80, "Address": f"10.0.1.{n}"}, "Checks": []} for n in numbers]


@dataclass
class Scripted:
    """A Reader that follows a script and then lets nobody wait."""

    script: list[Says]
    snapshots: Snapshots = field(default_factory=NoSnapshots)
    rules: Rules = field(default_factory=Rules)
    guard: Guard = field(default_factory=Guard)
    now: Says = field(default_factory=lambda: Says(None))
    confirmed: bool = False
    answering: bool = False
    memory: dict[str, tuple[Instance, ...]] = field(default_factory=dict)

    async def health(self, query: ConsulQuery, index: int, consistency: Consistency = "stale", *, every_state: bool = False) -> Reply:
        if every_state:
            return self._reply(self.now.truth)
        if not self.script:
            raise asyncio.CancelledError
        self.now, self.confirmed = self.script.pop(0), False
        return self._reply(self.now.numbers)

    def _reply(self, numbers: frozenset[int] | None) -> Reply:
        if numbers is None:
            raise ConsulError("an error")
        self.confirmed = numbers is self.now.truth
        return Reply(entries(sorted(numbers)), self.now.index, self.now.leader, self.now.contact_seconds)

    async def check_rights(self, query: ConsulQuery, nodes: Iterable[str]) -> None:
        if not self.now.readable:
            raise ConsulError("may not read")


def watched(reader: Scripted, clock: Clock | None = None) -> list[tuple[Update, Says, bool]]:
    """What is published, with the answer that led to it and whether a consistent reading stands behind it."""
    published: list[tuple[Update, Says, bool]] = []
    time = clock or Clock()
    shim = SimpleNamespace(sleep=time.sleep, get_running_loop=asyncio.get_running_loop)

    async def scenario() -> None:
        with pytest.raises(asyncio.CancelledError):
            await ConsulSource(reader, WEB).watch(lambda update: published.append((update, reader.now, reader.confirmed)))

    with mock.patch.object(watch, "asyncio", shim), mock.patch.object(watch, "monotonic", side_effect=lambda: time.now):
        asyncio.run(scenario())
    return published


SETS = st.frozensets(st.integers(1, 8), max_size=8)
ANSWERS = st.builds(
    Says,
    numbers=st.none() | SETS,
    index=st.integers(0, 5),
    leader=st.booleans(),
    contact_seconds=st.sampled_from((0.0, 60.0)),
    truth=st.none() | SETS,
    readable=st.booleans(),
)


@example([Says(frozenset({1})), Says(frozenset(), readable=False)])
@given(st.lists(ANSWERS, max_size=12))
def test_no_sequence_of_answers_takes_most_instances_away_without_a_consistent_reading(script: list[Says]) -> None:
    """D3, D4, F-15, F-16."""
    known: tuple[Instance, ...] = ()
    answered = False
    for update, said, confirmed in watched(Scripted(list(script))):
        if isinstance(update, Failed):
            continue
        if answered:
            assert said.leader, "what a server without a leader remembers is no news"
            assert said.contact_seconds < watch.MAXIMUM_CONTACT_SECONDS
        assert said.numbers is not None, "an error never makes a list"
        missing = gone(known, update.instances)
        if len(missing) >= 2 and len(missing) > len(known) / 2:
            assert confirmed
        if known and not update.instances:
            assert said.readable, "a list that is empty for want of rights is no list"
        known, answered = update.instances, True


@given(st.lists(ANSWERS, max_size=12))
def test_what_is_well_again_is_believed_in_the_end(script: list[Says]) -> None:
    """D3, D4: whatever happened before, and within the time that a disappearance is held."""
    last = frozenset({1, 2, 3})
    well = [Says(last, index=6, truth=last) for _ in range(round(watch.CONFIRM_SECONDS / watch.HOLD_SECONDS) + 3)]
    *_, (update, _, _) = watched(Scripted([*script, *well]))
    assert isinstance(update, Found)
    assert [instance.host for instance in update.instances] == ["10.0.1.1", "10.0.1.2", "10.0.1.3"]
    assert update.held == 0


def test_a_disappearance_that_nothing_explains_is_held_for_its_time() -> None:
    """F-16: confirmed for so long, it is believed."""
    clock = Clock()
    four, one = frozenset({1, 2, 3, 4}), frozenset({1})
    lost = [Says(one, index=5, truth=one) for _ in range(30)]
    counts: list[tuple[int, int]] = []
    for update, _, _ in watched(Scripted([Says(four, index=9), *lost]), clock):
        assert isinstance(update, Found)
        counts.append((len(update.instances), update.held))
    held = [count for count in counts if count[1]]
    assert counts[0] == (4, 0)
    assert set(held) == {(4, 3)}
    assert counts[-1] == (1, 0)
    assert len(held) >= watch.CONFIRM_SECONDS / (watch.HOLD_SECONDS + watch.INTERVAL_SECONDS)


def test_a_watch_that_takes_another_s_place_judges_by_what_that_believed() -> None:
    """D4, G3: a reload must not make a catalog that lost its memory believed."""
    first = Scripted([Says(frozenset({1, 2, 3}), index=9)])
    watched(first)
    lost = Says(frozenset(), index=2, truth=frozenset())
    (update, _, _), *_ = watched(Scripted([lost, lost], memory=first.memory))
    assert isinstance(update, Found)
    assert (len(update.instances), update.held) == (3, 3)
    single = {"consul web": first.memory["consul web"][:1]}
    (update, _, _), *_ = watched(Scripted([lost], memory=single))
    assert isinstance(update, Found)
    assert update.instances == ()


@dataclass
class OnDisk(NoSnapshots):
    """Two instances from an earlier run."""

    loaded: int = 0

    def load(self, key: str) -> Stored | None:
        self.loaded += 1
        return Stored((Instance(id="n/w1", host="10.0.1.1", port=80), Instance(id="n/w2", host="10.0.1.2", port=80)), 5.0)


def test_the_disk_serves_after_the_first_failure_and_not_after_an_answer() -> None:
    """D6."""
    disk = OnDisk()
    (first, _, _), (second, _, _), *_ = watched(Scripted([Says(None), Says(None)], snapshots=disk))
    assert isinstance(first, Found)
    assert first.restored_at == 5.0
    assert isinstance(second, Failed)
    assert disk.loaded == 1
    untouched = OnDisk()
    watched(Scripted([Says(frozenset({3})), Says(None)], snapshots=untouched))
    assert untouched.loaded == 0


@pytest.mark.parametrize(("answering", "restored"), [(True, False), (False, True)])
def test_while_others_are_answered_the_disk_waits(answering: bool, restored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """D6: the first answers for many services take longer than a second."""
    monkeypatch.setattr(watch, "RESTORE_SECONDS", 0.01)
    published: list[Update] = []

    class Slow(Scripted):
        async def health(self, *_: object, **__: object) -> Reply:
            await asyncio.Event().wait()
            raise AssertionError

    async def scenario() -> None:
        task: asyncio.Task[None] = asyncio.create_task(
            ConsulSource(Slow([], snapshots=OnDisk(), answering=answering), WEB).watch(published.append)
        )
        await asyncio.wait([task], timeout=0.3)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())
    assert bool(published) is restored
