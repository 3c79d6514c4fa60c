"""The table of peers."""

from __future__ import annotations

from benchmarks.sidebyside.peers import GATEWAY_FULL, GATEWAY_PLAIN, PEERS
from benchmarks.sidebyside.template import CONFIGS


def test_names_are_unique_and_every_configuration_exists() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert [name for peer in PEERS for name in peer.configs if not (CONFIGS / name).is_file()] == []


def test_the_gateway_stands_once_in_each_kind() -> None:
    assert [peer for peer in PEERS if peer.ours] == [GATEWAY_PLAIN, GATEWAY_FULL]
    assert {peer.kind for peer in PEERS if peer.ours} == {"plain", "full"}


def test_peers_that_only_forward_claim_nothing_else() -> None:
    for peer in PEERS:
        if peer.kind == "plain":
            assert (peer.token, peer.logs, peer.redis_command, peer.traced) == ("none", (), "", False)
