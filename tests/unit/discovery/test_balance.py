"""Choosing among endpoints."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import balance
from discovery.balance import LOAD_FACTOR, POLICIES, SLOTS, Balancer, ConsistentHash, Policy, balancer, owners, sequence
from discovery.endpoint import Endpoint
from discovery.instance import Instance

KEYS = [b"user-%d" % n for n in range(4000)]
EVERY_POLICY = sorted(POLICIES)
weights_of_several = st.lists(st.integers(1, 20), min_size=2, max_size=12)


def endpoints(count: int) -> list[Endpoint]:
    return [Endpoint(Instance(id=str(n), host=f"10.0.0.{n + 1}", port=8080)) for n in range(count)]


def build(policy: Policy, weights: list[int]) -> tuple[list[Endpoint], Balancer]:
    made = endpoints(len(weights))
    return made, balancer(policy, made, weights)


def shares(chosen: Balancer, picks: int) -> Counter[Endpoint | None]:
    return Counter(chosen.pick(None, ()) for _ in range(picks))


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_no_endpoint_gives_none(policy: Policy) -> None:
    assert balancer(policy, [], []).pick(b"key", ()) is None


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_one_endpoint_is_always_chosen_unless_excluded(policy: Policy) -> None:
    (only,), chosen = build(policy, [3])
    assert chosen.pick(b"key", ()) is only
    assert chosen.pick(None, ()) is only
    assert chosen.pick(b"key", [only]) is None


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_excluded_endpoints_are_never_chosen(policy: Policy) -> None:
    """R2: another endpoint first."""
    made, chosen = build(policy, [1, 5, 2, 1])
    for key in KEYS[:200]:
        assert chosen.pick(key, made[:3]) is made[3]
        assert chosen.pick(None, (made[1],)) is not made[1]
    assert chosen.pick(KEYS[0], made) is None


@pytest.mark.parametrize("policy", EVERY_POLICY)
def test_every_endpoint_is_used(policy: Policy) -> None:
    made, chosen = build(policy, [1, 2, 3])
    assert set(shares(chosen, 500)) == set(made)


@pytest.mark.parametrize("policy", ["random", "least_request", "ewma", "consistent_hash"])
@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [1, 3], [10, 1, 5], [65535, 1, 32768]])
def test_an_idle_service_is_used_by_weight(policy: Policy, weights: list[int]) -> None:
    """B1: weights are honoured when nothing is in flight."""
    made, chosen = build(policy, weights)
    counted, picks = shares(chosen, 20_000), 20_000
    for endpoint, weight in zip(made, weights, strict=True):
        fair = weight / sum(weights)
        assert counted[endpoint] / picks == pytest.approx(fair, abs=0.03)


class TestSequence:
    @given(weights_of_several)
    def test_holds_each_in_proportion_to_its_weight(self, weights: list[int]) -> None:
        counted = Counter(sequence(weights))
        assert all(counted[index] * sum(weights) == weight * counted.total() for index, weight in enumerate(weights))

    @given(weights_of_several)
    def test_spreads_the_turns_of_each_evenly(self, weights: list[int]) -> None:
        turns = sequence(weights)
        for index, weight in enumerate(weights):
            at = [place for place, each in enumerate(turns) if each == index]
            ideal = sum(weights) / weight
            # Sainte-Lague: two turns of one endpoint are never further apart than what all others get in its own interval, and one each.
            assert all(later - earlier <= ideal + len(weights) for earlier, later in pairwise(at))

    def test_stays_short_and_keeps_everybody_with_huge_weights(self) -> None:
        turns = sequence([65535, 65534, 1])
        assert len(turns) <= balance.MAXIMUM_POSITIONS + 3
        assert set(turns) == {0, 1, 2}


class TestRoundRobin:
    @given(weights_of_several)
    def test_a_whole_round_is_exact(self, weights: list[int]) -> None:
        made, chosen = build("round_robin", weights)
        counted = shares(chosen, sum(weights))
        assert [counted[endpoint] for endpoint in made] == weights

    def test_equal_weights_take_turns(self) -> None:
        made, chosen = build("round_robin", [1, 1, 1])
        seen = [chosen.pick(None, ()) for _ in range(6)]
        assert seen[:3] == seen[3:]
        assert set(seen) == set(made)

    def test_starts_at_a_random_place(self) -> None:
        """B2: many gateways that learn of a change together do not begin with the same endpoint."""
        firsts: Counter[int] = Counter()
        for _ in range(400):
            made, chosen = build("round_robin", [1, 1, 1, 1])
            firsts[made.index(chosen.pick(None, ()))] += 1  # type: ignore[arg-type]
        assert set(firsts) == {0, 1, 2, 3}
        assert max(firsts.values()) < 200


class TestLeastRequest:
    def test_the_less_busy_one_of_two_is_chosen(self) -> None:
        """B1: with two endpoints both are looked at every time."""
        (idle, busy), chosen = build("least_request", [1, 1])
        busy.active = 1
        assert {chosen.pick(None, ()) for _ in range(100)} == {idle}

    def test_the_busiest_is_never_chosen(self) -> None:
        """B1: the second choice is always another endpoint."""
        made, chosen = build("least_request", [1] * 5)
        made[2].active = 7
        assert made[2] not in {chosen.pick(None, ()) for _ in range(500)}

    @given(weights_of_several)
    def test_a_busy_service_is_levelled_by_weight(self, weights: list[int]) -> None:
        """B1: requests in flight come to stand as the weights do."""
        made, chosen = build("least_request", weights)
        in_flight = 40 * sum(weights)
        for _ in range(in_flight):
            endpoint = chosen.pick(None, ())
            assert endpoint is not None
            endpoint.active += 1
        for endpoint, weight in zip(made, weights, strict=True):
            assert endpoint.active / in_flight == pytest.approx(weight / sum(weights), rel=0.35)


class TestPeakEwma:
    def test_prefers_the_quick_one(self) -> None:
        (quick, slow), chosen = build("ewma", [1, 1])
        quick.finished(0.01, False)
        slow.finished(0.2, False)
        assert {chosen.pick(None, ()) for _ in range(100)} == {quick}

    def test_a_busy_quick_one_gives_way(self) -> None:
        (quick, slow), chosen = build("ewma", [1, 1])
        quick.finished(0.01, False)
        slow.finished(0.05, False)
        quick.active = 50
        assert {chosen.pick(None, ()) for _ in range(100)} == {slow}


class TestConsistentHash:
    def test_a_key_stays_where_it_is_in_every_process(self) -> None:
        """B3: the hash is the same everywhere and for ever; these owners were computed once."""
        addresses = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
        assert owners(addresses, [1, 1, 1])[:12] == [2, 2, 0, 0, 1, 2, 2, 1, 0, 1, 1, 1]

    @given(st.integers(2, 9), st.data())
    def test_only_the_keys_of_the_one_that_left_move(self, count: int, data: st.DataObject) -> None:
        """B3: all other keys keep their endpoint, and the leaver's are about 1/n."""
        weights = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
        leaver = data.draw(st.integers(0, count - 1))
        addresses = [f"10.0.0.{n}:80" for n in range(count)]
        before = [addresses[index] for index in owners(addresses, weights)]
        rest = [address for address in addresses if address != addresses[leaver]]
        after = [rest[index] for index in owners(rest, weights[:leaver] + weights[leaver + 1 :])]
        moved = [old for old, new in zip(before, after, strict=True) if old != new]
        assert set(moved) == {addresses[leaver]}
        assert len(moved) / SLOTS == pytest.approx(weights[leaver] / sum(weights), abs=0.04)

    def test_keys_spread_evenly(self) -> None:
        made, chosen = build("consistent_hash", [1] * 5)
        counted = Counter(chosen.pick(key, ()) for key in KEYS)
        assert all(counted[endpoint] / len(KEYS) == pytest.approx(0.2, abs=0.04) for endpoint in made)

    @given(weights_of_several, st.lists(st.sampled_from(KEYS[:5]), min_size=200, max_size=400))
    def test_nobody_gets_much_more_than_a_fair_share(self, weights: list[int], keys: list[bytes]) -> None:
        """B3: bounded load, even when a few keys make all the traffic."""
        made, chosen = build("consistent_hash", weights)
        for count, key in enumerate(keys, start=1):
            endpoint = chosen.pick(key, ())
            assert endpoint is not None
            endpoint.active += 1
            fair = count * weights[made.index(endpoint)] / sum(weights)
            assert endpoint.active <= LOAD_FACTOR * fair + 1

    @given(weights_of_several, st.data())
    def test_without_some_only_their_keys_move(self, weights: list[int], data: st.DataObject) -> None:
        """B3, B4: an ejection moves the keys of who is ejected, spread over the others, within their bounds."""
        made, chosen = build("consistent_hash", weights)
        assert isinstance(chosen, ConsistentHash)
        out = set(data.draw(st.lists(st.sampled_from(made), max_size=len(made) - 1, unique=True)))
        fewer = chosen.without(out)
        for key in KEYS[:200]:
            before, after = chosen.pick(key, ()), fewer.pick(key, ())
            assert after not in out
            assert after is before or before in out
        for endpoint in made:
            endpoint.active = 0 if endpoint in out else 50
        assert fewer.pick(KEYS[0], ()) not in out

    def test_a_key_returns_when_its_endpoint_has_room_again(self) -> None:
        """B3: overflow is no move."""
        _, chosen = build("consistent_hash", [1, 1, 1])
        home = chosen.pick(b"somebody", ())
        assert home is not None
        home.active = 10
        assert chosen.pick(b"somebody", ()) is not home
        home.active = 0
        assert chosen.pick(b"somebody", ()) is home


def test_a_weight_change_applies_with_the_next_balancer() -> None:
    made = endpoints(2)
    before, after = balancer("round_robin", made, [1, 1]), balancer("round_robin", made, [1, 9])
    assert shares(before, 10)[made[1]] == 5
    assert shares(after, 10)[made[1]] == 9
